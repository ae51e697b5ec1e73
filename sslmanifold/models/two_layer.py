"""The paper's model u(x) = W2ᵀ φ(W1 x)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sslmanifold.constraints import Constraint, NetworkShape, Unconstrained
from sslmanifold.models.activation import Activation
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.models.preprocessing import Affine


@dataclass(kw_only=True)
class TwoLayer:
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

    def build(
        self,
        dim: int,
        constraint: Constraint,
        generators: Sequence[torch.Generator],
        dtype: torch.dtype = torch.float32,
        preprocessing: Affine | None = None,
    ) -> ConstrainedNetwork:
        """A network with feasible Haar weights, one replica per generator.

        Raises:
            UserError: where the constraint is infeasible at these sizes, before anything is allocated.
        """
        shape = self.shape(dim, constraint)
        constraint.check(shape)
        weights = constraint.initial(shape, generators, dtype)
        return ConstrainedNetwork(shape, constraint, weights, self.activation, preprocessing)
