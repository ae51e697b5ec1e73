"""Alignment: how close positives are embedded."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import EmbeddingMetric, float64


def alignment(u: Tensor, u_pos: Tensor, *, alpha: float = 2.0, normalize: bool = True) -> Tensor:
    """Alignment E ‖u(x) − u(x⁺)‖₂^α over anchors and their positives; smaller is better.

    ``normalize`` puts embeddings on the unit sphere, as the definition asks: then α = 2 gives 2 − 2 E
    cos, between 0 and 4. Zero embeddings stay zero. Computed in float64. NaN where an embedding is not finite,
    and of no anchors.

    Shapes: u (…, n, z), u_pos (…, n, z) or (…, n, p, z) → (…,).
    Source: Wang and Isola, ICML 2020 (arXiv 2005.10242).
    """
    return _distances(u, u_pos, alpha, normalize).mean(dim=(-2, -1))


def _distances(u: Tensor, u_pos: Tensor, alpha: float, normalize: bool) -> Tensor:
    """‖u − u⁺‖^α, (…, n, p)."""
    u, u_pos = float64(u), float64(u_pos)
    shape = tuple(u_pos.shape)
    u_pos = u_pos.unsqueeze(-2) if u_pos.ndim == u.ndim else u_pos
    if u_pos.ndim != u.ndim + 1 or (*u_pos.shape[:-2], u_pos.shape[-1]) != u.shape:
        raise UserError(
            f"positives of shape {shape} are not those of anchors of shape {tuple(u.shape)}: give one positive each, "
            "(…, n, z), or p each, (…, n, p, z)"
        )
    if normalize:
        u, u_pos = unit_length(u, dim=-1), unit_length(u_pos, dim=-1)
    return torch.linalg.vector_norm(u.unsqueeze(-2) - u_pos, dim=-1) ** alpha


class Alignment(EmbeddingMetric):
    """Streaming :func:`alignment`: the state is a sum and a count, exact and summed over processes."""

    higher_is_better = False
    plot_lower_bound = 0.0
    total: Tensor
    count: Tensor

    def __init__(self, *, alpha: float = 2.0, normalize: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha, self.normalize = alpha, normalize
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, u: Tensor, u_pos: Tensor) -> None:
        """Adds anchors (…, n, z) and their positives (…, n, z) or (…, n, p, z)."""
        distances = _distances(u, u_pos, self.alpha, self.normalize)
        self.total = self.total + distances.sum(dim=(-2, -1))
        self.count = self.count + distances.shape[-1] * distances.shape[-2]

    def compute(self) -> Tensor:
        """Mean over all pairs so far, (…,)."""
        return self.total / self.count
