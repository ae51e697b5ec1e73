"""Sums over all other samples of a batch, which NT-Xent and the uniformity loss are made of."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# numbers (replicas × rows × samples) in one block of the table of similarities, few enough for a cache; tables of one
# block are kept for the backward pass, of larger ones each block is computed again
_BLOCK = 2**20


def log_sum_exp_of_others(points: Tensor, scale: float, shift: Tensor | None = None) -> Tensor:
    """log Σ_{j ≠ i} exp(scale · p_iᵀp_j + b_j) for each sample i, (…, N).

    Args:
        points: p, (…, N, z), N ≥ 2.
        scale: factor on the inner products.
        shift: b, (…, N); None for 0.

    Time O(N² z), memory O(N · min(N, block)): the table of similarities is held in blocks of rows, never with z.
    """
    count = points.shape[-2]
    rows = max(1, _BLOCK // (count * max(1, math.prod(points.shape[:-2]))))
    if rows >= count:
        return _rows(points, shift, scale, 0, count)
    blocks = [
        checkpoint(
            _rows,
            points,
            shift,
            scale,
            first,
            min(first + rows, count),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for first in range(0, count, rows)
    ]
    return torch.cat(blocks, dim=-1)


def _rows(points: Tensor, shift: Tensor | None, scale: float, first: int, end: int) -> Tensor:
    """The sums for samples first…end − 1, (…, end − first)."""
    table = (scale * points[..., first:end, :]) @ points.mT  # (…, r, z) @ (…, z, N)
    if shift is not None:
        table = table + shift.unsqueeze(-2)
    table.diagonal(offset=first, dim1=-2, dim2=-1).fill_(-torch.inf)
    return torch.logsumexp(table, dim=-1)
