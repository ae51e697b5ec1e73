"""Singular values of an embedding matrix, at once or streamed: the ground that the rank metrics stand on."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from sslmanifold.metrics.base import finite_or_zero, float64
from sslmanifold.metrics.triangular import FactoredMetric

# A spread smaller than this fraction of the largest entry is rounding: the embeddings are one point.
COLLAPSED = 1e-13


def singular_values(u: Tensor, *, centered: bool = True) -> Tensor:
    """Singular values of U − 1ūᵀ (or of U) in units of max|U|: (…, n, z) → (…, min(n, z)), descending.

    The division keeps embeddings of any finite size, 1e130 as well as 1e-130, within range; rank metrics
    do not depend on scale. Where the spread is below 1e-13 of the largest entry all values are set to 0;
    where an entry is not finite, or there is no embedding, all are NaN. Leading batch dimensions are kept.

    Raises:
        UserError: a tensor of fewer than two dimensions, or of complex numbers.
    """
    u = float64(u)
    finite, (u,) = finite_or_zero(u)
    finite = finite[..., None] & (u.shape[-2] > 0)  # (…, 1); of no embeddings nothing is known
    u = u / _largest(u)
    if centered:
        u = u - u.mean(dim=-2, keepdim=True)
    return _flag(_without_rounding(_values(u), u.shape[-2]), finite)


def _values(u: Tensor) -> Tensor:
    """Singular values, at least one of them."""
    values = torch.linalg.svdvals(u)
    return values if values.shape[-1] else u.new_zeros(*u.shape[:-2], 1)


def _largest(u: Tensor) -> Tensor:
    """max|u| over the last two dimensions, (…, 1, 1); 1 for a zero matrix."""
    size = u.abs().amax(dim=(-2, -1), keepdim=True) if u.numel() else u.new_ones(())
    return torch.where(size > 0, size, 1.0)


def _without_rounding(values: Tensor, rows: int) -> Tensor:
    """Values of a matrix whose entries are at most 1, all set to 0 where the largest is rounding."""
    return torch.where(values[..., :1] > COLLAPSED * max(1, rows) ** 0.5, values, 0.0)


def _flag(values: Tensor, finite: Tensor) -> Tensor:
    return torch.where(finite, values, torch.nan)


class SpectralMetric(FactoredMetric, ABC):
    """A number computed from the singular values of all embeddings seen, (…, n, z) in batches along n.

    The state is the triangular factor R of [1, U] (of U when not centred), (…, z + 1, z + 1) in float64:
    the block below and right of its first entry has the singular values of the centred U. Against
    accumulating UᵀU this keeps all digits (singular values are never squared, so σ_min/σ_max down to
    1e-16 and entries of 1e130 come through); it costs a QR decomposition of each batch, O(n z²), the same
    as the Gram matrix to a constant. Factors of several processes are stacked and factored once more.

    Leading dimensions (replicas) must be the same in each update and stay in the result.
    """

    plot_lower_bound = 0.0
    factored = ("factors",)
    factors: list[Tensor]
    count: Tensor

    def __init__(self, *, centered: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.centered = centered
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def from_singular_values(self, values: Tensor, count: int) -> Tensor:
        """The metric, (…,), from singular values (…, k) of ``count`` embeddings."""

    def update(self, u: Tensor) -> None:
        """Adds embeddings, (…, n, z)."""
        u = float64(u)
        rows = torch.cat([torch.ones_like(u[..., :1]), u], dim=-1) if self.centered else u  # (…, n, 1 + z)
        self.accumulate("factors", rows)
        self.count = self.count + u.shape[-2]

    def compute(self) -> Tensor:
        """The metric over all embeddings so far, (…,)."""
        finite, (factor,) = finite_or_zero(self.factor("factors"))
        finite = finite[..., None] & (self.count > 0)
        columns = factor[..., 1:] if self.centered else factor  # (…, 1 + z, z)
        # |entries of R| ≤ √n max|U|, and the first row holds √n ū: the size that rounding is relative to.
        columns = columns / _largest(columns)
        centred = columns[..., 1:, :] if self.centered else columns
        values = _values(centred)
        return self.from_singular_values(_flag(_without_rounding(values, 1), finite), int(self.count))
