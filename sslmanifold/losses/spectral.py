"""The spectral contrastive loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, given, over_anchors, reduce_pairs, require, similarities
from sslmanifold.theory.moments import Reduction


def spectral_contrastive_loss(
    u: Tensor, u_pos: Tensor, u_neg: Tensor, reduction: Reduction = "sum"
) -> Tensor:
    """Spectral contrastive loss: Σ_i ( −2 β Σ_j u(x_i)ᵀu(x⁺_ij) + α Σ_j (u(x_i)ᵀu(x⁻_ij))² ).

    Quartic in a linear map, and the output dimensions stay coupled (Remark 2).
    Source: HaoChen, Wei, Gaidon and Ma, NeurIPS 2021.
    """
    pull = reduce_pairs(similarities(u, u_pos), reduction)
    push = reduce_pairs(similarities(u, u_neg).square(), reduction)
    return over_anchors(push - 2 * pull, reduction)


@dataclass(kw_only=True)
class SpectralContrastive:
    """The spectral contrastive loss as an object (:func:`spectral_contrastive_loss`); it has no C either."""

    name: ClassVar[str] = "spectral"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"

    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        require(self.reduction, Reduction, "loss.reduction")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return spectral_contrastive_loss(u, u_pos, given(u_neg), self.reduction)
