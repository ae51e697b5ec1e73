"""The non-contrastive loss, Eq. 2 of the paper."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, over_anchors, over_pairs, require
from sslmanifold.theory.moments import Reduction


def noncontrastive_loss(u: Tensor, u_pos: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Non-contrastive loss, Eq. 2: −β Σ_i Σ_j u(x_i)ᵀ u(x⁺_ij).

    For a linear map it equals Tr(mᵀ C m) with the C of ``cross_moment(x, positives,
    reduction=reduction)``, whose sign is minus (the paper prints plus). Shapes, reductions and time
    scales: see :mod:`sslmanifold.losses`. (…,) is returned.
    """
    return -over_anchors((u * over_pairs(u, u_pos, reduction)).sum(dim=-1), reduction)


@dataclass(kw_only=True)
class NonContrastive:
    """Eq. 2 as a loss object: ``loss(u, u_pos)``; arguments as in :class:`~sslmanifold.losses.Contrastive`."""

    name: ClassVar[str] = "noncontrastive"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = True

    reduction: Reduction = "sum"
    evaluate: Evaluate = "auto"

    def __post_init__(self) -> None:
        require(self.reduction, Reduction, "loss.reduction")
        require(self.evaluate, Evaluate, "loss.evaluate")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return noncontrastive_loss(u, u_pos, self.reduction)
