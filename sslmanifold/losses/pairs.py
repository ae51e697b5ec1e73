"""What the losses over given pairs share: pair axes, reductions and checks of options."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.moments import Reduction

Evaluate = Literal["auto", "samples", "moment"]


def with_pair_axis(u: Tensor, other: Tensor) -> Tensor:
    """Embeddings of pairs with their pair axis: (…, n, p, z)."""
    return other.unsqueeze(-2) if other.ndim == u.ndim else other


def over_pairs(u: Tensor, other: Tensor, reduction: Reduction) -> Tensor:
    pairs = with_pair_axis(u, other)
    return pairs.sum(dim=-2) if reduction == "sum" else pairs.mean(dim=-2)  # (…, n, p, z) -> (…, n, z)


def similarities(u: Tensor, other: Tensor) -> Tensor:
    return (with_pair_axis(u, other) * u.unsqueeze(-2)).sum(dim=-1)  # (…, n, p)


def reduce_pairs(terms: Tensor, reduction: Reduction) -> Tensor:
    return terms.sum(dim=-1) if reduction == "sum" else terms.mean(dim=-1)  # (…, n, p) -> (…, n)


def over_anchors(terms: Tensor, reduction: Reduction) -> Tensor:
    require(reduction, Reduction, "loss.reduction")
    return terms.mean(dim=-1) if reduction == "mean" else terms.sum(dim=-1)  # (…, n) -> (…,)


def given(u_neg: Tensor | None) -> Tensor:
    if u_neg is None:
        raise UserError("a contrastive loss needs negatives: pass u_neg, or use loss=noncontrastive")
    return u_neg


def require(value: object, choices: object, key: str) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise UserError(f"{key}={value!r} is unknown: choose from {', '.join(allowed)}")


def views(u: Tensor, u_pos: Tensor) -> Tensor:
    """Anchors and their positives as V = p + 1 views of a batch, (…, V, n, z)."""
    return torch.cat([u.unsqueeze(-2), with_pair_axis(u, u_pos)], dim=-2).transpose(-2, -3)


def at_least_two(u: Tensor, name: str) -> None:
    """Raise UserError for a batch of one anchor (…, 1, z), over which nothing can be compared."""
    if u.shape[-2] < 2:
        raise UserError(
            f"loss={name} compares the anchors of a batch with each other, and there is a batch of {u.shape[-2]}: "
            "set data.batch_size=null, or one that leaves no single anchor at the end of a pass"
        )


def require_number(value: float, key: str, *, above: float, suggested: str, equal: bool = False) -> None:
    """Raise UserError unless value > above (≥ with ``equal``) and finite."""
    if not (math.isfinite(value) and (value > above or (equal and value == above))):
        bound = f"{'at least' if equal else 'above'} {above:g}"
        raise UserError(f"{key}={value} must be a number {bound}: set {key}={suggested}")
