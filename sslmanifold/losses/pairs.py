"""What the losses over given pairs share: pair axes, reductions and checks of options."""

from typing import Literal, get_args

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
