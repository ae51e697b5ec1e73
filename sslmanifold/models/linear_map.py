"""A linear embedding known by its map alone: what solving the dynamics gives."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslmanifold.constraints import NetworkShape
from sslmanifold.models.preprocessing import Affine


class LinearMap(nn.Module):
    """u(x) = mᵀ x with m (S, d, z): the paper's "New Datapoint", u_t(x̂) = q_tᵀ Vᵀ x̂.

    Has the interface of :class:`~sslmanifold.models.network.ConstrainedNetwork` without its weights.
    """

    linear = True
    m: Tensor

    def __init__(self, m: Tensor, hidden: int | None, preprocessing: Affine | None = None) -> None:
        super().__init__()
        self.register_buffer("m", m)
        self.preprocessing = preprocessing or Affine()
        self.shape = NetworkShape(m.shape[-2], hidden, m.shape[-1], layers=1 if hidden is None else 2)

    @property
    def replicas(self) -> int:
        return self.m.shape[0]

    def map(self) -> Tensor:
        """m, (S, d, z)."""
        return self.m

    def forward(self, x: Tensor) -> Tensor:
        """Embed prepared inputs: (…, d) → (S, …, z)."""
        flat = x.reshape(-1, x.shape[-1]).to(self.m.dtype)  # (N, d)
        return (flat @ self.m).reshape(self.replicas, *x.shape[:-1], self.shape.embedding)

    @torch.no_grad()
    def embed(self, x: Any) -> Tensor:
        """Embed raw inputs (n, d): (n, z), or (S, n, z) for S > 1 replicas. UserError for other features."""
        points = torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x, dtype=torch.float64)
        self.preprocessing.check_input(points, self.shape.dim)
        embedded = self(self.preprocessing(points))
        return embedded[0] if self.replicas == 1 else embedded
