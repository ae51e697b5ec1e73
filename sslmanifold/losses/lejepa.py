"""LeJEPA: prediction of the mean view, and SIGReg, a test of the embeddings for an isotropic Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.losses.characteristic import characteristic
from sslmanifold.losses.pairs import Evaluate, require, require_number, views
from sslmanifold.theory.moments import Reduction

Draw = Literal["step", "fixed"]

_NODES, _LARGEST = 17, 3.0  # of the characteristic function: t = 0, 3/16, …, 3


def sigreg(samples: Tensor, directions: Tensor) -> Tensor:
    """SIGReg: mean over slices a of n Σ_t w_t |mean_i e^{i t aᵀu_i} − e^{−t²/2}|², the Epps–Pulley statistic.

    Of 17 nodes t = 0…3 with w_t the trapezoid's weights for −3…3 times e^{−t²/2}. samples (…, n, z) and unit
    directions (z, k); (…,) is returned. It grows with n where the embeddings are no Gaussian.

    Source: Balestriero and LeCun, arXiv 2511.08544, Definition 2 and Algorithm 1.
    """
    gap = _LARGEST / (_NODES - 1)
    angle = gap * (samples @ directions)
    angle = angle.to(
        torch.promote_types(angle.dtype, torch.float32)
    )  # half precision would not bear the powers
    nodes = gap * torch.arange(1, _NODES, dtype=angle.dtype, device=angle.device)  # t = 0 adds nothing
    gaussian = torch.exp(-nodes.square() / 2)
    weights = 2 * gap * gaussian
    weights[-1] /= 2
    real, imaginary = characteristic(angle, _NODES - 1)  # (nodes, …, k)
    distance = (real - gaussian.view(-1, *[1] * (real.ndim - 1))).square() + imaginary.square()
    return samples.shape[-2] * torch.tensordot(weights, distance, dims=1).mean(dim=-1)


def lejepa_loss(u: Tensor, u_pos: Tensor, directions: Tensor, *, weight: float = 0.05) -> Tensor:
    """LeJEPA: (1 − λ) mean (u − ū)² + λ SIGReg, ū the mean of the views.

    The first mean is over V = p + 1 views, anchors and coordinates; SIGReg (:func:`sigreg`) is the mean of its values
    for each view. All views count as global ones.

    u (…, n, z); u_pos (…, n, z) or (…, n, p, z); directions (z, k), the same for all replicas; (…,) is returned. Of a
    linear map the first term sees mᵀ D m, D the second moment of the views about their mean, and SIGReg the whole
    distribution of aᵀmᵀx. With given directions it is invariant under u → −u alone; under rotations on average over
    the directions. λ SIGReg is a sum over anchors by its scale, so the time of a batch depends on its size.

    Source: Balestriero and LeCun, arXiv 2511.08544, Algorithm 2.
    """
    samples = views(u, u_pos)  # (…, V, n, z)
    prediction = (samples - samples.mean(dim=-3, keepdim=True)).square().mean((-3, -2, -1))
    gaussian = sigreg(samples, directions).mean(dim=-1)
    return (1 - weight) * prediction + weight * gaussian


def slices(embedding: int, count: int, seed: int, step: int) -> Tensor:
    """``count`` random unit vectors (z, count), float64, uniform on the sphere: a function of (seed, step) alone."""
    drawn = np.random.default_rng([seed, step]).standard_normal((embedding, count))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0))


_kept_slices = lru_cache(maxsize=8)(slices)  # a step asks several times, for its parts and its measurements


@dataclass(kw_only=True)
class LeJEPA:
    """LeJEPA as a loss object (:func:`lejepa_loss`): ``loss.at(step)`` is the loss of one optimizer step.

    Called without a step it has the slices of step 0.

    Args:
        weight: λ.
        slices: directions of one step; the authors take 1,024 for embeddings of hundreds of dimensions.
        draw: ``step`` for new directions each step, ``fixed`` for those of step 0 always: one loss
            for all steps.
        seed: of the directions; replicas share them.
    """

    name: ClassVar[str] = "lejepa"
    contrastive: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    evaluate: ClassVar[Evaluate] = "samples"
    reduction: ClassVar[Reduction] = "sum"  # SIGReg grows with the batch

    weight: Annotated[float, Field(ge=0, le=1)] = 0.05
    slices: Annotated[int, Field(gt=0)] = 64
    draw: Draw = "step"
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        require(self.draw, Draw, "loss.draw")
        require_number(self.weight, "loss.weight", above=0, suggested="0.05", equal=True)
        if self.weight > 1:
            raise UserError(f"loss.weight={self.weight} must lie between 0 and 1: set loss.weight=0.05")
        for key, least in (("slices", 1), ("seed", 0)):
            if not (isinstance(getattr(self, key), int) and getattr(self, key) >= least):
                raise UserError(f"loss.{key}={getattr(self, key)} must be a whole number of at least {least}")

    def at(self, step: int) -> Callable[..., Tensor]:
        """The loss of optimizer step ``step`` (from 0): (u, u_pos, u_neg) → (…,), a function of (seed, step)."""
        drawn = step if self.draw == "step" else 0

        def loss(u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
            directions = _kept_slices(u.shape[-1], self.slices, self.seed, drawn).to(u)
            return lejepa_loss(u, u_pos, directions, weight=self.weight)

        return loss

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        return self.at(0)(u, u_pos, u_neg)
