"""Frobenius balls ‖W_i‖_F ≤ c_i, which do not prevent collapse (Proposition 2)."""

from dataclasses import dataclass
from typing import Annotated

import geoopt
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.geometry import FrobeniusBall
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.frobenius import FrobeniusFlow


@dataclass(kw_only=True)
class Frobenius(Constraint):
    """‖W1‖_F ≤ c1, ‖W2‖_F ≤ c2: a gradient step, then the weights are scaled back onto the balls.

    Haar weights lie outside, so a run starts on the boundary. The minimum c1² c2² λ1 has rank 1.
    """

    name = "frobenius"

    c1: Annotated[float, Field(gt=0)] = 1.0
    c2: Annotated[float, Field(gt=0)] = 1.0

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        inner = [FrobeniusBall(1.0)] * (shape.layers - 2)
        return [FrobeniusBall(self.c1), *inner, FrobeniusBall(self.c2)]

    @property
    def step_scale(self) -> float:
        return max(1.0, self.c1**2, self.c2**2)

    def flow(self, moment: Tensor, shape: NetworkShape) -> Flow | None:
        return FrobeniusFlow(moment, self.c1, self.c2) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """c1² c2² min(λ1, 0) (Proposition 2)."""
        return self.c1**2 * self.c2**2 * eigvals[..., 0].clamp(max=0)
