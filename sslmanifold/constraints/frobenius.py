"""Frobenius balls ‖W_i‖_F ≤ c_i, which do not prevent collapse (Proposition 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import geoopt
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.geometry import FrobeniusBall
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.frobenius import FrobeniusFlow, FrobeniusHeadFlow
from sslmanifold.theory.moment_product import Moment


def one_radius(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of norm balls for weights that stand alone: ``c``, also called ``c1``, is the radius of each.

    Raises:
        UserError: for c2, the radius of a chain's last layer, or two radii at once.
    """
    if "c2" in options or {"c", "c1"} <= options.keys():
        raise UserError(
            f"constraint={name} on single weights has one radius, got {', '.join(sorted(options))}: write c=1.0, "
            "and constrain weights of another radius by another call"
        )
    return {"c1" if key == "c" else key: value for key, value in options.items()}


def check_radii(c1: float, c2: float, shape: NetworkShape) -> None:
    """Raise UserError for a radius c2 of its own where there is no second layer."""
    if shape.layers == 1 and c2 not in (1.0, c1):
        raise UserError(
            f"constraint.c2={c2:g} is the radius of the last of several layers, and the one of a head has c1: set "
            f"constraint.c1={c2:g} and leave c2 out, or set model=two_layer"
        )


def squared_bound(c1: float, c2: float, shape: NetworkShape) -> float:
    """The largest squared norm of the map: c1² c2², or c1² for the one layer of a head."""
    return c1**2 if shape.layers == 1 else c1**2 * c2**2


@dataclass(kw_only=True)
class Frobenius(Constraint):
    """‖W1‖_F ≤ c1, ‖W2‖_F ≤ c2: a gradient step, then the weights are scaled back onto the balls. A head has c1 alone.

    Haar weights lie outside, so a run starts on the boundary. The minimum c1² c2² λ1 has rank 1.
    """

    name = "frobenius"

    c1: Annotated[float, Field(gt=0)] = 1.0
    c2: Annotated[float, Field(gt=0)] = 1.0

    @classmethod
    def alone(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """``c`` (or ``c1``) is the radius of every weight."""
        return one_radius(cls.name, options)

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        return FrobeniusBall(self.c1)

    def check(self, shape: NetworkShape) -> None:
        check_radii(self.c1, self.c2, shape)

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        if shape.layers == 1:
            return super().manifolds(shape)
        inner = [FrobeniusBall(1.0)] * (shape.layers - 2)
        return [FrobeniusBall(self.c1), *inner, FrobeniusBall(self.c2)]

    @property
    def step_scale(self) -> float:
        return max(1.0, self.c1**2, self.c2**2)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return FrobeniusHeadFlow(moment, self.c1)
        return FrobeniusFlow(moment, self.c1, self.c2) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """c1² c2² min(λ1, 0) (Proposition 2); c1² min(λ1, 0) for a head."""
        return squared_bound(self.c1, self.c2, shape) * eigvals[..., 0].clamp(max=0)
