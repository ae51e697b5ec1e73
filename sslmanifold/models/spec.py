"""What a choice of ``model`` says: the sizes of a network, and how one is made of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.models.activation import Activation
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.models.preprocessing import Affine


class NetworkSpec(ABC):
    """A network as it is asked for, before the number of features is known.

    Attributes:
        embedding: z.
        layers: L, the number of weight matrices.
        activation: φ.
    """

    embedding: int
    layers: ClassVar[int]
    activation: Activation

    @abstractmethod
    def shape(self, dim: int, constraint: Constraint | None = None) -> NetworkShape:
        """The sizes for d = ``dim`` input features under a constraint, None for free weights."""

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
