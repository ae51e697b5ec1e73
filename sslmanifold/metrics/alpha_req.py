"""α-ReQ: how fast the spectrum of the embedding decays."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.spectrum import SpectralMetric, singular_values

# Eigenvalues below this fraction of the largest are rounding, not spectrum.
_NEGLIGIBLE = 1e-24


def alpha_req(u: Tensor, *, first: int = 1, last: int | None = None, centered: bool = True) -> Tensor:
    """Decay exponent α of λ_i ≈ c i^(−α), λ_i descending covariance eigenvalues, i counted from 1.

    Minus the slope of the least-squares line through (log i, log λ_i), first ≤ i ≤ last, over the
    eigenvalues above 1e-24 of the largest; every index weighs the same. α near 1 is reported as good, 0
    is a flat spectrum, large is collapse. In singular values it would be half of this (λ = σ²). NaN with
    fewer than two usable eigenvalues, a complete collapse included, or where an embedding is not finite.

    Shapes: (…, n, z) → (…,). Source: Agrawal, Mondal, Ghosh and Richards, NeurIPS 2022.
    """
    return power_law_exponent(singular_values(u, centered=centered).square(), first, last)


def power_law_exponent(eigenvalues: Tensor, first: int = 1, last: int | None = None) -> Tensor:
    """−slope of log λ_i against log i over first ≤ i ≤ last: (…, k) descending → (…,); or NaN."""
    usable = eigenvalues > _NEGLIGIBLE * eigenvalues[..., :1]
    index = torch.arange(1, eigenvalues.shape[-1] + 1, dtype=torch.float64, device=eigenvalues.device)
    within = (index >= first) & (index <= (eigenvalues.shape[-1] if last is None else last))
    weight = (usable & within).to(torch.float64)
    count = weight.sum(dim=-1, keepdim=True)
    x = index.log()
    y = torch.where(weight > 0, eigenvalues, 1.0).log()
    x = (x - (weight * x).sum(dim=-1, keepdim=True) / count) * weight
    y = (y - (weight * y).sum(dim=-1, keepdim=True) / count) * weight
    slope = (x * y).sum(dim=-1) / x.square().sum(dim=-1)
    return torch.where(count[..., 0] >= 2, -slope, torch.nan)


class AlphaReQ(SpectralMetric):
    """Streaming :func:`alpha_req`, exact to rounding; see :class:`SpectralMetric` for its state."""

    higher_is_better = None

    def __init__(
        self, *, first: int = 1, last: int | None = None, centered: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(centered=centered, **kwargs)
        self.first, self.last = first, last

    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        return power_law_exponent(values.square(), self.first, self.last)
