"""Linear Barlow Twins: the cross-moment of two views, near the identity, whose learning goes step by step."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from sslmanifold.losses.pairs import Evaluate, views
from sslmanifold.theory.moments import Reduction


def barlow_linear_loss(u: Tensor, u_pos: Tensor) -> Tensor:
    """‖(uᵀu′ + u′ᵀu)/(2n) − I‖_F²: Barlow Twins with λ = 1, and neither centred nor standardised.

    With more than two views the cross-moment is the mean over pairs of views.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. Of a linear map it is ‖mᵀΓm − I‖_F² with Γ of
    :func:`~sslmanifold.theory.pair_correlation` (:func:`~sslmanifold.theory.solve_stepwise` has its flow of one free
    layer), so it is invariant under rotations of the output. Time is that of a mean over anchors.

    Source: Simon, Knutins, Liu, Geisz, Fetterman and Albrecht, ICML 2023.
    """
    samples = views(u, u_pos)  # (…, V, n, z)
    pairs = [
        samples[..., one, :, :].mT @ samples[..., other, :, :]
        for one, other in combinations(range(samples.shape[-3]), 2)
    ]
    moment = torch.stack(pairs).mean(dim=0) / u.shape[-2]  # (…, z, z)
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    return ((moment + moment.mT) / 2 - eye).square().sum((-2, -1))


@dataclass(kw_only=True)
class BarlowLinear:
    """Linear Barlow Twins as a loss object (:func:`barlow_linear_loss`)."""

    name: ClassVar[str] = "barlow_linear"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return barlow_linear_loss(u, u_pos)
