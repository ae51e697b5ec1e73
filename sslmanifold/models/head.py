"""A linear head u(x) = Wᵀx: one layer, on features as they are given."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.models.spec import NetworkSpec


@dataclass(kw_only=True)
class Head(NetworkSpec):
    """u(x) = Wᵀx with one weight W (d, z), which is its own map m = W; on St(d, z) under orthogonality (d ≥ z).

    Attributes:
        embedding: z.
    """

    embedding: Annotated[int, Field(gt=0)] = 2

    layers: ClassVar[int] = 1
    activation = "linear"

    def shape(self, dim: int, constraint: Constraint | None = None) -> NetworkShape:
        """d = ``dim`` and z; a head has no width, whatever the constraint."""
        return NetworkShape(dim=dim, hidden=None, embedding=self.embedding, layers=self.layers)
