"""No constraint: plain gradient descent, which collapses (Proposition 1)."""

from dataclasses import dataclass

import geoopt

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.free import FreeFlow
from sslmanifold.theory.flows.head import FreeHeadFlow
from sslmanifold.theory.moment_product import Moment


@dataclass(kw_only=True)
class Unconstrained(Constraint):
    """Free weights. Where C has a negative eigenvalue there is no minimum: training diverges, in finite time unless one
    layer is all there is, which grows exponentially.
    """

    name = "none"

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        return geoopt.Euclidean(ndim=2)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return FreeHeadFlow(moment)
        return FreeFlow(moment) if shape.layers == 2 else None
