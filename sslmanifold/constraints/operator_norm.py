"""Operator-norm balls ‖W_i‖₂ ≤ c_i, which avoid collapse (Proposition 3, item 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import geoopt
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.constraints.frobenius import one_radius
from sslmanifold.geometry import SpectralBall
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.operator_norm import OperatorNormFlow
from sslmanifold.theory.moment_product import Moment


@dataclass(kw_only=True)
class OperatorNorm(Constraint):
    """‖W1‖₂ ≤ c1, ‖W2‖₂ ≤ c2: a gradient step, then singular values above the bound are clipped to it."""

    name = "operator_norm"

    c1: Annotated[float, Field(gt=0)] = 1.0
    c2: Annotated[float, Field(gt=0)] = 1.0

    @classmethod
    def alone(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """``c`` (or ``c1``) is the radius of every weight."""
        return one_radius(cls.name, options)

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        return SpectralBall(self.c1)

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        inner = [SpectralBall(1.0)] * (shape.layers - 2)
        return [SpectralBall(self.c1), *inner, SpectralBall(self.c2)]

    @property
    def step_scale(self) -> float:
        return max(1.0, self.c1**2, self.c2**2)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        return OperatorNormFlow(moment, self.c1, self.c2) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """c1² c2² Σ of the min(z, h) most negative eigenvalues (Proposition 3)."""
        rank = min(shape.embedding, shape.hidden, shape.dim)
        return self.c1**2 * self.c2**2 * eigvals[..., :rank].clamp(max=0).sum(-1)
