"""Operator-norm balls ‖W_i‖₂ ≤ c_i, which avoid collapse (Proposition 3, item 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import geoopt
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.constraints.frobenius import check_radii, one_radius, squared_bound
from sslmanifold.geometry import SpectralBall
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.operator_norm import OperatorNormFlow, OperatorNormHeadFlow
from sslmanifold.theory.moment_product import Moment


@dataclass(kw_only=True)
class OperatorNorm(Constraint):
    """‖W1‖₂ ≤ c1, ‖W2‖₂ ≤ c2: a gradient step, then singular values above the bound are clipped to it.

    A head has c1 alone.
    """

    name = "operator_norm"

    c1: Annotated[float, Field(gt=0)] = 1.0
    c2: Annotated[float, Field(gt=0)] = 1.0

    @classmethod
    def alone(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """``c`` (or ``c1``) is the radius of every weight."""
        return one_radius(cls.name, options)

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        return SpectralBall(self.c1)

    def check(self, shape: NetworkShape) -> None:
        check_radii(self.c1, self.c2, shape)

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        if shape.layers == 1:
            return super().manifolds(shape)
        inner = [SpectralBall(1.0)] * (shape.layers - 2)
        return [SpectralBall(self.c1), *inner, SpectralBall(self.c2)]

    @property
    def step_scale(self) -> float:
        return max(1.0, self.c1**2, self.c2**2)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return OperatorNormHeadFlow(moment, self.c1)
        return OperatorNormFlow(moment, self.c1, self.c2) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """c1² c2² Σ of the min(z, h) most negative eigenvalues (Proposition 3); c1² times it for a head."""
        return squared_bound(self.c1, self.c2, shape) * eigvals[..., : shape.rank].clamp(max=0).sum(-1)
