"""Participation ratio: how evenly the variance is shared."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.spectrum import SpectralMetric, singular_values


def participation_ratio(u: Tensor, centered: bool = True) -> Tensor:
    """Participation ratio (Σλ)²/Σλ², λ = σ² the eigenvalues of the covariance (up to its 1/n, which cancels).

    Between 1 and min(n, z): k equal variances give k. Of *eigenvalues*, so it falls faster than the
    effective rank where directions fade; 0 where all embeddings are the same point; NaN where one is not
    finite.

    Shapes: (…, n, z) → (…,). Source: Gao et al., bioRxiv 214262 (2017), where it is called the
        dimensionality.
    """
    return participation(singular_values(u, centered=centered))


def participation(values: Tensor) -> Tensor:
    """(Σσ²)²/Σσ⁴: (…, k) descending → (…,); 0 where all are 0."""
    largest = values[..., :1]
    variances = (values / torch.where(largest == 0, 1.0, largest)).square()
    fourth = variances.square().sum(dim=-1)
    return variances.sum(dim=-1).square() / torch.where(fourth == 0, 1.0, fourth)


class ParticipationRatio(SpectralMetric):
    """Streaming :func:`participation_ratio`, exact to rounding; see :class:`SpectralMetric` for its state."""

    higher_is_better = True

    def __init__(self, centered: bool = True, **kwargs: Any) -> None:
        super().__init__(centered=centered, **kwargs)

    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        return participation(values)
