"""Effective rank: how many directions an embedding really uses."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.spectrum import SpectralMetric, singular_values


def effective_rank(u: Tensor, centered: bool = True) -> Tensor:
    """Effective rank exp(−Σ p_i log p_i), p_i = σ_i/Σσ, σ the singular values of the n×z embedding matrix.

    Between 1 (collapse to a line) and min(n, z); 0 where all embeddings are the same point; NaN where one
    is not finite. It does not depend on scale or rotation. Of *singular values*, and of the centred
    matrix unless ``centered=False`` (RankMe's choice): the same formula on eigenvalues of the covariance,
    σ², gives a smaller number, up to a factor of two in practice, so state which. Computed in float64
    after dividing by max|u|.

    Shapes: (…, n, z) → (…,). Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    return entropy_rank(singular_values(u, centered=centered))


def entropy_rank(values: Tensor) -> Tensor:
    """exp(−Σ p_i log p_i), p = values/Σ values: (…, k) non-negative → (…,); 0 where all values are 0."""
    total = values.sum(dim=-1)
    p = values / torch.where(total == 0, 1.0, total)[..., None]
    return torch.where(total == 0, 0.0, torch.exp(-torch.special.xlogy(p, p).sum(dim=-1)))


class EffectiveRank(SpectralMetric):
    """Streaming :func:`effective_rank`, exact to rounding; see :class:`SpectralMetric` for its state."""

    higher_is_better = True

    def __init__(self, centered: bool = True, **kwargs: Any) -> None:
        super().__init__(centered=centered, **kwargs)

    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        return entropy_rank(values)
