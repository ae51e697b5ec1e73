"""A data set with its frozen triplets and their C, the same numbers that a training run of that seed sees."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslmanifold.data import PairData, Samples, TripletBatch, Triplets
from sslmanifold.theory import cross_moment, eigenbasis
from sslmanifold.theory.moments import Reduction


@dataclass(frozen=True)
class Problem:
    """Samples, triplets and the pair moment C of Eq. 7, float64.

    Attributes:
        samples: train and test points.
        batch: all triplets, as the full-batch run trains on them.
        moment: C as the loss of this reduction is differentiated, (d, d).
        eigvals: Λ ascending (d,).
        eigvecs: V (d, d).
    """

    samples: Samples
    batch: TripletBatch
    moment: Tensor
    eigvals: Tensor
    eigvecs: Tensor

    @property
    def x(self) -> Tensor:
        """Training points (n, d)."""
        return self.samples.train_x

    @property
    def norm(self) -> float:
        """‖C‖₂."""
        return float(self.eigvals.abs().max())


def problem(data: PairData, seed: int, reduction: Reduction = "mean", *, contrastive: bool = True) -> Problem:
    """The problem of one data set and seed; reductions and their time scales as in :mod:`sslmanifold.losses`."""
    samples = data.load(seed)
    triplets = Triplets(
        samples.train_x,
        seed=seed,
        positive_variance=data.positive_variance,
        positives=data.positives,
        negatives=data.negatives if contrastive else 0,
    )
    batch = triplets.full()
    moment = cross_moment(batch.x, batch.positives, batch.negatives, reduction=reduction)
    eigvals, eigvecs = eigenbasis(moment)
    return Problem(samples, batch, moment, eigvals, eigvecs)


def streams(seed: int, count: int) -> list[torch.Generator]:
    """Generators of initial weights, one per replica, the same as a training run of this seed uses."""
    import numpy as np

    children = np.random.SeedSequence(seed).spawn(count)
    return [torch.Generator().manual_seed(int(s.generate_state(1, np.uint64)[0] >> 1)) for s in children]
