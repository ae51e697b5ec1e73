"""No constraint: plain gradient descent, which collapses (Proposition 1)."""

from dataclasses import dataclass

import geoopt

from sslmanifold.constraints.base import Constraint
from sslmanifold.constraints.shape import NetworkShape


@dataclass(kw_only=True)
class Unconstrained(Constraint):
    """Free weights. With a negative eigenvalue the loss has no minimum and training diverges in finite time."""

    name = "none"

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        return [geoopt.Euclidean(ndim=2) for _ in shape.matrices]
