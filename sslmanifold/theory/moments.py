"""The pair moment C of Eq. 7: all that a linear SSL model ever sees of its data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sslmanifold.errors import UserError

Reduction = Literal["sum", "mean", "pair_mean"]
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean", "pair_mean")

# Rows of a chunk times features: bounds the float64 copies to about 64 MiB each.
_CHUNK_ELEMENTS = 8_388_608


def cross_moment(
    x: Tensor, positives: Tensor, negatives: Tensor | None = None, *, reduction: Reduction = "sum"
) -> Tensor:
    """Pair moment C = (C̃ + C̃ᵀ)/2 with C̃ = Σ_i x_i (α Σ_j x⁻_ij − β Σ_j x⁺_ij)ᵀ (Eq. 7).

    The loss of a linear model u(x) = mᵀx with m = W1ᵀW2 is then Tr(mᵀ C m) (Eq. 8).

    Args:
        x: anchors, (…, n, d).
        positives: (…, n, d) or, with p positives per anchor, (…, n, p, d).
        negatives: (…, n, d) or (…, n, q, d); ``None`` is the non-contrastive loss (Eq. 2), C̃ = −β Σ x_i
        x⁺_iᵀ. reduction: ``"sum"``: α = β = 1, summed over anchors; ``"pair_mean"``: α = 1/q, β = 1/p, summed
            over anchors; ``"mean"``: α = 1/q, β = 1/p and 1/n. Multiplying C by c multiplies time by c, so
            use the reduction of the loss that is differentiated. With p ≠ q "sum" adds n(q − p)μμᵀ: prefer
            the means.

    Returns:
        (…, d, d) symmetric, float64 (accumulated in float64 whatever the input, in chunks of rows). Leading
        batch dimensions broadcast.

    Raises:
        UserError: for an unknown reduction, shapes that do not match, or no anchors.

    Source: Eq. 7, with the anchor index and the non-contrastive minus sign that the print lacks.
    """
    _check_reduction(reduction)
    total, count = _pair_sum(x, positives, negatives, pair_mean=reduction != "sum")
    return _finish(total, count, reduction)


class MomentAccumulator:
    """C of Eq. 7 in one streaming pass: C̃ += Σ_{i in batch} x_i (α Σ_j x⁻_ij − β Σ_j x⁺_ij)ᵀ.

    Holds one (…, d, d) float64 sum and the number of anchors; batches of any size, from any number of ranks,
    may be added in any order (``merge``, ``all_reduce``). Same reductions and leading dimensions as
    `cross_moment`.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        _check_reduction(reduction)
        self.reduction: Reduction = reduction
        self.total: Tensor | None = None
        self.count = 0

    def update(self, x: Tensor, positives: Tensor, negatives: Tensor | None = None) -> MomentAccumulator:
        """Add one batch of triplets, shaped as for `cross_moment`; an empty batch changes nothing."""
        if x.shape[-2] == 0:
            return self
        total, count = _pair_sum(x, positives, negatives, pair_mean=self.reduction != "sum")
        if self.total is not None and self.total.shape != total.shape:
            raise UserError(
                f"batch of moment shape {tuple(total.shape)} after batches of {tuple(self.total.shape)}: "
                "every batch needs the same number of features"
            )
        self.total = total if self.total is None else self.total + total
        self.count += count
        return self

    def merge(self, other: MomentAccumulator) -> MomentAccumulator:
        """Add what another accumulator has seen (another process, another file)."""
        if other.reduction != self.reduction:
            raise UserError(f"cannot merge reduction={other.reduction!r} into reduction={self.reduction!r}")
        if other.total is not None:
            self.total = other.total.clone() if self.total is None else self.total + other.total
            self.count += other.count
        return self

    def all_reduce(self, group: object | None = None) -> MomentAccumulator:
        """Sum over the ranks of a `torch.distributed` group; every rank must have seen at least one batch."""
        if self.total is None:
            raise UserError(
                "all_reduce before the first update on this rank: give every rank at least one batch"
            )
        count = torch.tensor([self.count], dtype=torch.int64, device=self.total.device)
        torch.distributed.all_reduce(self.total, group=group)  # type: ignore[arg-type]
        torch.distributed.all_reduce(count, group=group)  # type: ignore[arg-type]
        self.count = int(count.item())
        return self

    def compute(self) -> Tensor:
        """C so far, (…, d, d) float64; raises UserError before the first non-empty batch."""
        if self.total is None:
            raise UserError("no triplets yet: call update(x, positives, negatives) before compute()")
        return _finish(self.total, self.count, self.reduction)


def pair_contrast(x: Tensor, positives: Tensor, negatives: Tensor | None, *, pair_mean: bool) -> Tensor:
    """D_i = α Σ_j x⁻_ij − β Σ_j x⁺_ij, so that C̃ = XᵀD: (…, n, d) float64 (α = 1/q, β = 1/p if pair_mean)."""

    def pooled(name: str, samples: Tensor) -> Tensor:
        if samples.shape[-1] != x.shape[-1]:
            raise UserError(f"{name} have {samples.shape[-1]} features, the anchors {x.shape[-1]}")
        samples = samples.to(torch.float64)
        if samples.ndim == x.ndim + 1:  # (…, n, p, d) -> (…, n, d)
            samples = samples.mean(-2) if pair_mean else samples.sum(-2)
        if samples.ndim != x.ndim or samples.shape[-2] != x.shape[-2]:
            raise UserError(
                f"{name} of shape {tuple(samples.shape)} do not match anchors of shape {tuple(x.shape)}: "
                f"give (…, n, d) or (…, n, pairs, d) with n={x.shape[-2]}"
            )
        return samples

    drawn_to = pooled("positives", positives)
    return torch.neg(drawn_to) if negatives is None else pooled("negatives", negatives) - drawn_to


def _pair_sum(
    x: Tensor, positives: Tensor, negatives: Tensor | None, *, pair_mean: bool
) -> tuple[Tensor, int]:
    if x.ndim < 2 or x.shape[-2] == 0 or x.shape[-1] == 0:
        raise UserError(
            f"anchors of shape {tuple(x.shape)} hold no data: give (…, n, d) with n ≥ 1 and d ≥ 1"
        )
    n = x.shape[-2]
    rows = max(1, _CHUNK_ELEMENTS // max(1, x[..., :1, :].numel()))
    row_dim = x.ndim - 2
    total: Tensor | None = None
    for start in range(0, n, rows):
        length = min(rows, n - start)
        anchors = x.narrow(row_dim, start, length)
        contrast = pair_contrast(
            anchors,
            _narrow(positives, row_dim, start, length, n),
            None if negatives is None else _narrow(negatives, row_dim, start, length, n),
            pair_mean=pair_mean,
        )
        transposed = anchors.to(torch.float64).mT  # (…, d, n) @ (…, n, d) -> (…, d, d)
        if total is None:
            total = transposed @ contrast
        elif total.ndim == 2:
            total.addmm_(transposed, contrast)
        else:
            total += transposed @ contrast
    assert total is not None
    return total, n


def _narrow(samples: Tensor, row_dim: int, start: int, length: int, n: int) -> Tensor:
    if samples.ndim <= row_dim + 1 or samples.shape[row_dim] != n:
        raise UserError(
            f"pairs of shape {tuple(samples.shape)} do not match n={n} anchors: give one row per anchor"
        )
    return samples.narrow(row_dim, start, length)


def _finish(total: Tensor, count: int, reduction: Reduction) -> Tensor:
    moment = (total + total.mT) / 2
    return moment / count if reduction == "mean" else moment


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise UserError(f"unknown reduction {reduction!r}: use one of {', '.join(REDUCTIONS)}")
