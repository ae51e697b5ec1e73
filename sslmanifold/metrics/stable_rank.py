"""Stable rank: total spread against the largest direction's."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.spectrum import SpectralMetric, singular_values


def stable_rank(u: Tensor, centered: bool = True) -> Tensor:
    """Stable rank ‖U‖_F²/‖U‖₂² = Σσ²/σ_max² of the n×z embedding matrix, centred unless asked otherwise.

    Between 1 and the rank; 0 where all embeddings are the same point; NaN where one is not finite. It is
    of squared singular values (covariance eigenvalues), unlike the effective rank.

    Shapes: (…, n, z) → (…,). Source: Rudelson and Vershynin, J. ACM 54(4), 2007.
    """
    return frobenius_over_spectral(singular_values(u, centered=centered))


def frobenius_over_spectral(values: Tensor) -> Tensor:
    """Σσ²/max σ²: (…, k) descending → (…,); 0 where all are 0."""
    largest = values[..., :1]
    ratios = values / torch.where(largest == 0, 1.0, largest)
    return ratios.square().sum(dim=-1)


class StableRank(SpectralMetric):
    """Streaming :func:`stable_rank`, exact to rounding; see :class:`SpectralMetric` for its state."""

    higher_is_better = True

    def __init__(self, centered: bool = True, **kwargs: Any) -> None:
        super().__init__(centered=centered, **kwargs)

    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        return frobenius_over_spectral(values)
