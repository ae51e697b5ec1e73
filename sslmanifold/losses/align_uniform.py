"""Alignment and uniformity on the unit sphere."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from sslmanifold.losses.crowd import log_sum_exp_of_others
from sslmanifold.losses.pairs import Evaluate, at_least_two, require_number, views
from sslmanifold.theory.moments import Reduction


def align_uniform_loss(
    u: Tensor,
    u_pos: Tensor,
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    weight: float = 1.0,
    normalize: bool = True,
) -> Tensor:
    """Alignment plus uniformity: mean ‖u − u⁺‖^α + w · log mean_{i≠j} e^{−t ‖u_i − u_j‖²}.

    The second term is the mean of its values within each view; the first, with V = p + 1 views, the mean over pairs
    of views. ``normalize`` puts embeddings on the unit sphere first, as the authors do.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); (…,) is returned. Of a linear map it sees distances in the output:
    m mᵀ alone, so it is invariant under rotations, with ``normalize`` under a positive factor on each u, without
    under one shift of all u. Time is that of a mean over anchors.

    Raises:
        UserError: for a batch of one anchor.

    Source: Wang and Isola, ICML 2020, Eqs. 1–2 and appendix A.
    """
    at_least_two(u, "align_uniform")
    samples = views(u, u_pos)  # (…, V, n, z)
    if normalize:
        samples = unit_length(samples, dim=-1)
    v, n = samples.shape[-3:-1]
    pairs = combinations(range(v), 2)
    apart = [(samples[..., i, :, :] - samples[..., j, :, :]).square().sum(dim=-1) for i, j in pairs]
    squared = torch.stack(apart, dim=-2)  # (…, pairs, n)
    if alpha != 2:  # the power of a distance 0 has no derivative
        squared = torch.where(squared > 0, squared, 1).pow(alpha / 2) * (squared > 0)
    shift = -t * samples.square().sum(dim=-1)  # −t ‖u_i − u_j‖² = b_i + b_j + 2t u_iᵀu_j
    sums = log_sum_exp_of_others(samples, 2 * t, shift) + shift  # (…, V, n)
    uniform = torch.logsumexp(sums, dim=-1) - math.log(n * (n - 1))
    return squared.mean((-2, -1)) + weight * uniform.mean(dim=-1)


@dataclass(kw_only=True)
class AlignUniform:
    """Alignment plus uniformity as a loss object (:func:`align_uniform_loss`).

    Args:
        alpha: α, the power of the distance between views.
        t: of the Gaussian potential.
        weight: w, of uniformity.
        normalize: unit sphere.
    """

    name: ClassVar[str] = "align_uniform"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "mean"

    alpha: Annotated[float, Field(ge=1)] = 2.0
    t: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    normalize: bool = True

    def __post_init__(self) -> None:
        require_number(self.alpha, "loss.alpha", above=1, suggested="2", equal=True)
        require_number(self.t, "loss.t", above=0, suggested="2")
        require_number(self.weight, "loss.weight", above=0, suggested="1", equal=True)

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return align_uniform_loss(
            u, u_pos, alpha=self.alpha, t=self.t, weight=self.weight, normalize=self.normalize
        )
