"""The paper's model u(x) = W2ᵀ φ(W1 x)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sslmanifold.constraints import Constraint, NetworkShape, Unconstrained
from sslmanifold.models.activation import Activation
from sslmanifold.models.spec import NetworkSpec


@dataclass(kw_only=True)
class TwoLayer(NetworkSpec):
    """Two layers of width h, embedding into z dimensions.

    Attributes:
        hidden: h, or "auto" for the constraint's choice: max(128, d + z), wide enough for every constraint and for
            the free limit; d for orthonormal rows.
        embedding: z.
        activation: φ.
    """

    hidden: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    embedding: Annotated[int, Field(gt=0)] = 2
    activation: Activation = "linear"

    layers: ClassVar[int] = 2

    def shape(self, dim: int, constraint: Constraint | None = None) -> NetworkShape:
        """The sizes for d = ``dim`` input features under a constraint, None for free weights."""
        hidden = self.hidden
        if hidden == "auto":
            hidden = (constraint or Unconstrained()).width(dim, self.embedding)
        return NetworkShape(dim=dim, hidden=hidden, embedding=self.embedding, layers=self.layers)
