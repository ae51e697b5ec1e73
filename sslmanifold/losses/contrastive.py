"""The contrastive loss, Eq. 1 of the paper."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, given, over_anchors, over_pairs, require
from sslmanifold.theory.moments import Reduction


def contrastive_loss(u: Tensor, u_pos: Tensor, u_neg: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Contrastive loss, Eq. 1: Σ_i u(x_i)ᵀ (α Σ_j u(x⁻_ij) − β Σ_j u(x⁺_ij)).

    For a linear map u(x) = mᵀx it equals Tr(mᵀ C m) (Eq. 8), C = ``cross_moment(x, positives, negatives,
    reduction=reduction)``. Shapes, reductions and time scales: see :mod:`sslmanifold.losses`. (…,) is returned.
    """
    pull = over_pairs(u, u_pos, reduction)
    push = over_pairs(u, u_neg, reduction)
    return over_anchors((u * (push - pull)).sum(dim=-1), reduction)


@dataclass(kw_only=True)
class Contrastive:
    """Eq. 1 as a loss object: ``loss(u, u_pos, u_neg)``.

    Args:
        reduction: see :mod:`sslmanifold.losses`.
        evaluate: how a linear model's full-batch step is computed: ``moment`` through C, O(h d z),
            ``samples`` through the data, O(n h d), ``auto`` the cheaper; the trajectory is the same to
            rounding.
    """

    name: ClassVar[str] = "contrastive"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = True  # Tr(mᵀCm) for a linear map

    reduction: Reduction = "sum"
    evaluate: Evaluate = "auto"

    def __post_init__(self) -> None:
        require(self.reduction, Reduction, "loss.reduction")
        require(self.evaluate, Evaluate, "loss.evaluate")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return contrastive_loss(u, u_pos, given(u_neg), self.reduction)
