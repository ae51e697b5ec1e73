"""Uniformity: how evenly embeddings cover the sphere."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from torchmetrics.utilities import dim_zero_cat

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import EmbeddingMetric, finite_or_zero, float64

_CHUNK_VALUES = 2**20  # distances held at a time


def uniformity(u: Tensor, *, t: float = 2.0, normalize: bool = True) -> Tensor:
    """Uniformity log E exp(−t ‖u(x) − u(y)‖₂²) over pairs of distinct samples; smaller is better.

    ``normalize`` puts embeddings on the unit sphere, as the definition asks: then it lies between −4t and
    0 (0: all at one point). Computed in float64, O(n² z) time, in chunks of 8 MiB. NaN for fewer than
    two samples, and where an embedding is not finite.

    Shapes: (…, n, z) → (…,). Source: Wang and Isola, ICML 2020 (arXiv 2005.10242).
    """
    finite, (u,) = finite_or_zero(float64(u))
    if normalize:
        u = unit_length(u, dim=-1)
    n = u.shape[-2]
    if n < 2:
        return u.new_full(u.shape[:-2], torch.nan)
    rows = max(1, _CHUNK_VALUES // max(1, n * math.prod(u.shape[:-2])))
    parts = []
    for start in range(0, n, rows):
        block = u[..., start : start + rows, :]
        # Differences rather than |x|² + |y|² − 2xᵀy, which cancels for close points far from the origin.
        exponent = (
            -t * torch.cdist(block, u, compute_mode="donot_use_mm_for_euclid_dist").square()
        )  # (…, r, n)
        here = torch.arange(block.shape[-2], device=u.device)
        exponent[..., here, start + here] = -torch.inf  # a sample with itself is no pair
        parts.append(torch.logsumexp(exponent, dim=(-2, -1)))
    value = torch.logsumexp(torch.stack(parts), dim=0) - math.log(n * (n - 1))
    return torch.where(finite, value, torch.nan)


class Uniformity(EmbeddingMetric):
    """:func:`uniformity` of all embeddings seen.

    Pairs cross batches, so the embeddings themselves are the state (float64, gathered from all
    processes): exact, against a mean over batches that would miss pairs, at the price of O(n z) memory.
    """

    higher_is_better = False
    plot_upper_bound = 0.0
    embeddings: list[Tensor]

    def __init__(self, *, t: float = 2.0, normalize: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.t, self.normalize = t, normalize
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")

    def update(self, u: Tensor) -> None:
        """Adds embeddings (…, n, z)."""
        rows = float64(u).movedim(-2, 0)  # (n, …, z), for "cat"
        if self.embeddings and self.embeddings[0].shape[1:] != rows.shape[1:]:
            raise UserError(
                f"embeddings of shape {tuple(u.shape)} after others of {self.embeddings[0].shape[-1]} dimensions: "
                "write metric.reset() before another embedding"
            )
        self.embeddings.append(rows)

    def compute(self) -> Tensor:
        """Uniformity of all embeddings so far, (…,)."""
        return uniformity(dim_zero_cat(self.embeddings).movedim(0, -2), t=self.t, normalize=self.normalize)
