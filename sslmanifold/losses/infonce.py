"""InfoNCE with explicit negatives."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from sslmanifold.errors import UserError
from sslmanifold.losses.pairs import Evaluate, given, over_anchors, reduce_pairs, require, similarities
from sslmanifold.theory.moments import Reduction


def infonce_loss(
    u: Tensor,
    u_pos: Tensor,
    u_neg: Tensor,
    reduction: Reduction = "sum",
    *,
    temperature: float = 1.0,
    normalize: bool = False,
) -> Tensor:
    """InfoNCE: −Σ_i Σ_j log( e^{s⁺_ij} / (e^{s⁺_ij} + Σ_k e^{s⁻_ik}) ), s = uᵀu′/τ.

    ``normalize`` puts embeddings on the unit sphere first (cosine similarity, as in SimCLR). Negatives
    are the explicit x⁻, not the other anchors. Reductions act on the sums over anchors i and positives j;
    the sum over negatives k is part of the definition. Source: van den Oord, Li and Vinyals, arXiv
    1807.03748.
    """
    if normalize:
        u, u_pos, u_neg = (unit_length(each, dim=-1) for each in (u, u_pos, u_neg))
    positive = similarities(u, u_pos) / temperature  # (…, n, p)
    negative = similarities(u, u_neg) / temperature  # (…, n, q)
    against = torch.logsumexp(negative, dim=-1, keepdim=True)
    terms = torch.nn.functional.softplus(against - positive)  # −log(e^s⁺ / (e^s⁺ + Σ e^s⁻))
    return over_anchors(reduce_pairs(terms, reduction), reduction)


@dataclass(kw_only=True)
class InfoNCE:
    """InfoNCE as a loss object (:func:`infonce_loss`); no C, so steps go through the samples."""

    name: ClassVar[str] = "infonce"
    contrastive: ClassVar[bool] = True
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"

    reduction: Reduction = "sum"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        require(self.reduction, Reduction, "loss.reduction")
        if not self.temperature > 0:
            raise UserError(f"loss.temperature={self.temperature} must be positive: set loss.temperature=1.0")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return infonce_loss(
            u, u_pos, given(u_neg), self.reduction, temperature=self.temperature, normalize=self.normalize
        )
