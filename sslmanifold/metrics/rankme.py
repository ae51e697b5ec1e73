"""RankMe: the effective rank that predicts linear-probe accuracy."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.spectrum import SpectralMetric, singular_values


def rankme(u: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe exp(−Σ p_k log p_k), p_k = σ_k/Σσ + ε, σ the singular values of the *uncentred* embeddings.

    The effective rank of the uncentred matrix but for ε, which lifts a collapsed embedding slightly above
    1; a mean far from the origin counts as a direction. 0 for the zero matrix; NaN where an embedding is
    not finite.

    Shapes: (…, n, z) → (…,). Source: Garrido, Balestriero, Najman and LeCun, ICML 2023 (arXiv 2210.02885).
    """
    return smooth_rank(singular_values(u, centered=False), eps)


def smooth_rank(values: Tensor, eps: float) -> Tensor:
    """exp(−Σ p log p), p = values/Σ values + ε (p is not normalised again): (…, k) → (…,)."""
    total = values.sum(dim=-1)
    p = values / torch.where(total == 0, 1.0, total)[..., None] + eps
    return torch.where(total == 0, 0.0, torch.exp(-torch.special.xlogy(p, p).sum(dim=-1)))


class RankMe(SpectralMetric):
    """Streaming :func:`rankme`, exact to rounding; see :class:`SpectralMetric` for its state."""

    higher_is_better = True

    def __init__(self, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(centered=False, **kwargs)
        self.eps = eps

    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        return smooth_rank(values, self.eps)
