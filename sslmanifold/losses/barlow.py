"""Barlow Twins: the cross-correlation of two views, near the identity."""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, at_least_two, require_number, views
from sslmanifold.theory.moments import Reduction


def barlow_loss(u: Tensor, u_pos: Tensor, *, redundancy: float = 5e-3, eps: float = 1e-5) -> Tensor:
    """Barlow Twins: Σ_k (1 − R_kk)² + λ Σ_{k≠l} R_kl², R = ûᵀû′/n.

    û has the coordinates of one view standardised over the batch: less their mean, over √(Var + ε), Var with n (as
    batch normalisation does). With more than two views it is the mean over pairs of views.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. A linear map enters through mᵀ Σ_vw m and the
    diagonal of mᵀ Σ_v m, the covariances between views and of each. It is invariant under permutations and signs of
    the coordinates, under shifts and, but for ε, under a positive factor on each coordinate; not under rotations.
    Time is that of a mean over anchors.

    Raises:
        UserError: for a batch of one anchor.

    Source: Zbontar, Jing, Misra, LeCun and Deny, ICML 2021, Eqs. 1–2; github.com/facebookresearch/barlowtwins (ε).
    """
    at_least_two(u, "barlow")
    samples = views(u, u_pos)  # (…, V, n, z)
    centred = samples - samples.mean(dim=-2, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-2, keepdim=True) + eps).sqrt()
    terms = []
    for one, other in combinations(range(samples.shape[-3]), 2):
        correlation = scaled[..., one, :, :].mT @ scaled[..., other, :, :] / u.shape[-2]  # (…, z, z)
        kept = correlation.diagonal(dim1=-2, dim2=-1)
        coupling = (correlation - torch.diag_embed(kept)).square().sum((-2, -1))
        terms.append((1 - kept).square().sum(dim=-1) + redundancy * coupling)
    return torch.stack(terms).mean(dim=0)


@dataclass(kw_only=True)
class BarlowTwins:
    """Barlow Twins as a loss object (:func:`barlow_loss`).

    Args:
        redundancy: λ, the weight of the correlations between different coordinates.
        eps: ε, added to the variances.
    """

    name: ClassVar[str] = "barlow"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    redundancy: Annotated[float, Field(ge=0)] = 5e-3
    eps: Annotated[float, Field(gt=0)] = 1e-5

    def __post_init__(self) -> None:
        require_number(self.redundancy, "loss.redundancy", above=0, suggested="0.005", equal=True)
        require_number(self.eps, "loss.eps", above=0, suggested="0.00001")

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return barlow_loss(u, u_pos, redundancy=self.redundancy, eps=self.eps)
