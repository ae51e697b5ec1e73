"""Subspaces: how much two of them share, and the principal angle that parts them most."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sslmanifold.metrics.triangular import accumulate, accumulated


def orthonormal_basis(a: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of the column space: (…, d, k) → (…, d, min(d, k)) float64 and its rank (…,).

    Columns beyond the rank (singular values below max(d, k)·ε of the largest, as NumPy counts rank) are zero.
    """
    a = a.detach().to(torch.float64)
    size = a.abs().amax(dim=(-2, -1), keepdim=True)
    left, values, _ = torch.linalg.svd(a / torch.where(size > 0, size, 1.0), full_matrices=False)
    tolerance = max(a.shape[-2:]) * torch.finfo(torch.float64).eps
    kept = values > tolerance * values[..., :1]
    return left * kept[..., None, :], kept.sum(dim=-1)


def subspace_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Overlap ‖QₐᵀQ_b‖_F²/min(rank a, rank b): the mean squared cosine of the principal angles.

    1 where one column space contains the other, 0 where they are orthogonal (or one of them is zero).

    Shapes: a (…, d, k), b (…, d, l), any bases of them → (…,).
    """
    qa, ra = orthonormal_basis(a)
    qb, rb = orthonormal_basis(b)
    smaller = torch.minimum(ra, rb)
    return (qa.mT @ qb).square().sum(dim=(-2, -1)) / smaller.clamp(min=1)


def subspace_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sine of the largest principal angle between the column spaces of a and b: ‖(I − QₐQₐᵀ) Q_b‖₂.

    Of min(rank a, rank b) angles, as SciPy's ``subspace_angles`` counts them: 0 where the smaller space
    lies in the larger, 1 where some direction of the smaller is orthogonal to the larger, or where
    exactly one of them is zero. Computed from the sine itself, so small angles keep their digits (the
    cosine loses them below 1e-8).

    Shapes: a (…, d, k), b (…, d, l), any bases of them → (…,).
    """
    qa, ra = orthonormal_basis(a)
    qb, rb = orthonormal_basis(b)
    inner = qa.mT @ qb
    from_a = torch.linalg.matrix_norm(qb - qa @ inner, ord=2)  # b is the smaller
    from_b = torch.linalg.matrix_norm(qa - qb @ inner.mT, ord=2)
    sine = torch.where(ra >= rb, from_a, from_b).clamp(max=1.0)
    return torch.where((ra == 0) ^ (rb == 0), 1.0, sine)


def pca_overlap(u: Tensor, x: Tensor, components: int | None = None) -> Tensor:
    """Overlap with PCA: of the column spaces of the centred U and of the principal scores of X.

    Both are spaces of functions on the samples, so it holds for any model; for a linear one u = mᵀx it is
    1 exactly where span(m) is the principal subspace, if X has full column rank. ``components`` defaults
    to z.

    Shapes: u (…, n, z), x (n, d) or (…, n, d) → (…,).
    """
    u, x = u.detach().to(torch.float64), x.detach().to(torch.float64)
    u = u - u.mean(dim=-2, keepdim=True)
    return subspace_overlap(u, _scores(x - x.mean(dim=-2, keepdim=True), components or u.shape[-1]))


def _scores(centred: Tensor, components: int) -> Tensor:
    """Directions of the leading principal scores in the space of samples: (…, n, d) → (…, n, k)."""
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return (left * (values > 1e-13 * values[..., :1])[..., None, :])[..., :components]


class PCAOverlap(Metric):
    """Streaming :func:`pca_overlap`, exact to rounding.

    The state is the triangular factor of [1, X, U], (…, 1 + d + z, 1 + d + z) in float64: below its first
    row, X and U stand in one orthonormal frame of at most d + z dimensions, where their angles are those
    of the samples. Factors of several processes are stacked and factored once more. Cost per batch O(n (d
    + z)²).
    """

    higher_is_better = None
    full_state_update = False
    factors: list[Tensor]

    def __init__(self, components: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.components = components
        self.features = 0
        self.add_state("factors", default=[], dist_reduce_fx="cat")

    def update(self, u: Tensor, x: Tensor) -> None:
        """Adds embeddings (…, n, z) and the data they embed, (n, d) or (…, n, d)."""
        u, x = u.detach().to(torch.float64), x.detach().to(torch.float64)
        x = x.expand(*u.shape[:-1], x.shape[-1])
        self.features = x.shape[-1]
        rows = torch.cat([torch.ones_like(u[..., :1]), x, u], dim=-1)
        self.factors = accumulate(self.factors, rows)

    def compute(self) -> Tensor:
        """Overlap over all samples so far, (…,)."""
        factor = accumulated(self.factors)[..., 1:, 1:]
        x, u = factor[..., : self.features], factor[..., self.features :]
        return subspace_overlap(u, _scores(x, self.components or u.shape[-1]))


class SubspaceOverlap(Metric):
    """Mean of :func:`subspace_overlap` over updates, each a pair of bases (…, d, k) and (…, d, l)."""

    higher_is_better = None
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds one pair of bases."""
        self.total = self.total + subspace_overlap(a, b)
        self.count = self.count + 1

    def compute(self) -> Tensor:
        """Mean overlap, (…,)."""
        return self.total / self.count


class SubspaceDistance(Metric):
    """Largest :func:`subspace_distance` over updates, each a pair of bases (…, d, k) and (…, d, l)."""

    higher_is_better = False
    full_state_update = False
    largest: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("largest", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds one pair of bases."""
        self.largest = torch.maximum(self.largest, subspace_distance(a, b))

    def compute(self) -> Tensor:
        """Largest distance, (…,)."""
        return self.largest
