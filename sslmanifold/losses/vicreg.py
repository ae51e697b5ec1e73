"""VICReg: variance, invariance and covariance."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, at_least_two, require_number, views
from sslmanifold.theory.moments import Reduction


def vicreg_loss(
    u: Tensor,
    u_pos: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """VICReg: λ mean (u_k − u′_k)² + μ mean_k max(0, 1 − √(Var u_k + ε)) + (ν/z) Σ_{k≠l} Cov(u)_kl², over views.

    With V = p + 1 views the first term is a mean over pairs of views, anchors and coordinates, the second a mean over
    views; the third is twice its mean over views. For two views these are the weights of the authors' code; their
    text leaves the first term undivided by z and doubles the second. Var and Cov are unbiased (n − 1).

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. A linear map enters through mᵀ Σ_v m, Σ_v the
    covariance of view v, and mᵀ D m, D the second moment of the differences of views. Variances and covariances are
    those of the coordinates: it is invariant under their permutations and signs and under one shift of all u, not
    under rotations. The hinge at standard deviation 1 is a kink. Time is that of a mean over anchors.

    Raises:
        UserError: for a batch of one anchor.

    Source: Bardes, Ponce and LeCun, ICLR 2022, Eqs. 1–6; github.com/facebookresearch/vicreg.
    """
    at_least_two(u, "vicreg")
    samples = views(u, u_pos)  # (…, V, n, z)
    v, n, z = samples.shape[-3:]
    spread = (samples - samples.mean(dim=-3, keepdim=True)).square().mean((-2, -1)).sum(dim=-1)
    apart = 2 / (v - 1) * spread  # mean over pairs of views of the mean squared difference
    centred = samples - samples.mean(dim=-2, keepdim=True)
    moments = centred.mT @ centred / (n - 1)  # (…, V, z, z)
    variances = moments.diagonal(dim1=-2, dim2=-1)
    hinge = torch.relu(1 - (variances + eps).sqrt()).mean((-2, -1))
    coupling = (moments - torch.diag_embed(variances)).square().sum((-2, -1)).mean(dim=-1) / z
    return invariance * apart + variance * hinge + 2 * covariance * coupling


@dataclass(kw_only=True)
class VICReg:
    """VICReg as a loss object (:func:`vicreg_loss`).

    Args:
        invariance: λ.
        variance: μ.
        covariance: ν.
        eps: ε, under the root.
    """

    name: ClassVar[str] = "vicreg"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    invariance: Annotated[float, Field(ge=0)] = 25.0
    variance: Annotated[float, Field(ge=0)] = 25.0
    covariance: Annotated[float, Field(ge=0)] = 1.0
    eps: Annotated[float, Field(gt=0)] = 1e-4

    def __post_init__(self) -> None:
        require_number(self.invariance, "loss.invariance", above=0, suggested="25", equal=True)
        require_number(self.variance, "loss.variance", above=0, suggested="25", equal=True)
        require_number(self.covariance, "loss.covariance", above=0, suggested="1", equal=True)
        require_number(self.eps, "loss.eps", above=0, suggested="0.0001")

    def hinges(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        """1 − √(Var u_k + ε) of every view and coordinate, (…, V, z): the loss has a kink where one is 0."""
        return 1 - (views(u, u_pos).var(dim=-2) + self.eps).sqrt()

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return vicreg_loss(
            u,
            u_pos,
            invariance=self.invariance,
            variance=self.variance,
            covariance=self.covariance,
            eps=self.eps,
        )
