"""The network every model of this package is: a chain of constrained weights with one activation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.geometry import ManifoldParameter
from sslmanifold.models.activation import ACTIVATIONS
from sslmanifold.models.preprocessing import Affine


class ConstrainedNetwork(nn.Module):
    """u(x) = W_Lᵀ W_{L−1} … W_2 φ(W_1 x), with S independent replicas of every weight.

    With two layers this is the paper's u(x) = W2ᵀ φ(W1 x). Hidden layers, if any, are h×h. A head is W_L alone, on the
    inputs themselves: u(x) = Wᵀx.

    Attributes:
        weights: W_1 (S, h, d), hidden layers (S, h, h), W_L (S, h, z), each on its constraint's manifold; of a head the
            one W (S, d, z).
        shape: the sizes.
        constraint: what the weights obey, together where it binds layers together.
        preprocessing: applied by :meth:`embed` to raw inputs, not by :meth:`forward`.
    """

    def __init__(
        self,
        shape: NetworkShape,
        constraint: Constraint,
        weights: Sequence[Tensor],
        activation: str = "linear",
        preprocessing: Affine | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.constraint = constraint
        self.activation = activation
        self.preprocessing = preprocessing or Affine()
        self.weights = nn.ParameterList(
            ManifoldParameter(weight, manifold=manifold, batch=True)
            for weight, manifold in zip(weights, constraint.manifolds(shape), strict=True)
        )

    @property
    def linear(self) -> bool:
        """Whether φ is the identity, so that u(x) = mᵀx."""
        return self.activation == "linear"

    @property
    def replicas(self) -> int:
        return self.weights[0].shape[0]

    def map(self) -> Tensor:
        """m = W1ᵀ W2ᵀ … W_L, (S, d, z); W1ᵀ W2 for two layers: a linear network is u(x) = mᵀ x."""
        if len(self.weights) == 1:
            # a tensor of its own: what is measured must not move with the weight
            return self.weights[0].as_subclass(Tensor).clone()
        chain = self.weights[-1]
        for weight in reversed(list(self.weights)[1:-1]):
            chain = weight.mT @ chain  # (S, h, h) @ (S, h, z)
        return self.weights[0].mT @ chain  # (S, d, h) @ (S, h, z)

    def forward(self, x: Tensor) -> Tensor:
        """Embed prepared inputs: (…, d) → (S, …, z)."""
        flat = x.reshape(-1, x.shape[-1])  # (N, d)
        if self.linear and self._map_first(flat.shape[0]):
            embedded = flat @ self.map()  # (N, d) @ (S, d, z)
            return embedded.reshape(self.replicas, *x.shape[:-1], self.shape.embedding)
        hidden = ACTIVATIONS[self.activation](flat @ self.weights[0].mT)  # (N, d) @ (S, d, h)
        for weight in list(self.weights)[1:-1]:
            hidden = hidden @ weight.mT  # (S, N, h) @ (S, h, h)
        hidden = hidden @ self.weights[-1]  # (S, N, h) @ (S, h, z)
        return hidden.reshape(self.replicas, *x.shape[:-1], self.shape.embedding)

    def _map_first(self, samples: int) -> bool:
        """Whether X(W1ᵀW2 …) takes fewer multiplications than ((X W1ᵀ)W2) …: nearly always, unless samples are few."""
        d, h, z, layers = self.shape.dim, self.shape.hidden, self.shape.embedding, self.shape.layers
        if h is None:
            return True
        inner = h * d + (layers - 2) * h * h
        return z * (inner + samples * d) < samples * (inner + h * z)

    @torch.no_grad()
    def embed(self, x: Tensor | np.ndarray | Sequence) -> Tensor:
        """Embed raw inputs as the data set holds them.

        Args:
            x: (n, d) array, tensor or nested list; (d,) for one point. Centring and PCA of the training data
                are applied here.

        Returns:
            (n, z), or (S, n, z) where the run trained S > 1 replicas; in the weights' dtype.

        Raises:
            UserError: if the number of features differs from the training data's.
        """
        weight = self.weights[0]
        points = torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x, dtype=torch.float64)
        self.preprocessing.check_input(points, self.shape.dim)
        prepared = self.preprocessing(points).to(weight.device, weight.dtype)
        embedded = self(prepared)
        return embedded[0] if self.replicas == 1 else embedded
