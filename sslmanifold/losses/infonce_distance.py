"""InfoNCE on squared distances: the loss of the theory of dimensional collapse; the batch has its negatives."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslmanifold.losses.crowd import log_sum_exp_of_others
from sslmanifold.losses.pairs import Evaluate, at_least_two, with_pair_axis
from sslmanifold.theory.moments import Reduction


def infonce_distance_loss(u: Tensor, u_pos: Tensor) -> Tensor:
    """mean over i of −log e^{−‖u_i − u_i⁺‖²/2}/(Σ_{j≠i} e^{−‖u_i − u_j‖²/2} + e^{−‖u_i − u_i⁺‖²/2}).

    With p positives the mean over them, each against the same other anchors.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. Embeddings are not normalised. Of a linear map its
    gradient is −S m with a symmetric S (:func:`~sslmanifold.theory.contrast_matrix`); it is invariant under
    rotations and shifts of the output. Time is that of a mean over anchors.

    Raises:
        UserError: for a batch of one anchor.

    Source: Jing, Vincent, LeCun and Tian, ICLR 2022, with the mean over anchors in place of the sum.
    """
    at_least_two(u, "infonce_distance")
    squares = u.square().sum(dim=-1)  # (…, n)
    others = log_sum_exp_of_others(u, 1.0, -squares / 2) - squares / 2  # log Σ_{j≠i} e^{−‖u_i − u_j‖²/2}
    apart = (with_pair_axis(u, u_pos) - u.unsqueeze(-2)).square().sum(dim=-1) / 2  # (…, n, p)
    return (apart + torch.logaddexp(others.unsqueeze(-1), -apart)).mean(dim=(-2, -1))


@dataclass(kw_only=True)
class InfoNCEDistance:
    """InfoNCE on squared distances as a loss object (:func:`infonce_distance_loss`)."""

    name: ClassVar[str] = "infonce_distance"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return infonce_distance_loss(u, u_pos)
