"""Subspaces: how much two of them share, and the principal angle that parts them most."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import EmbeddingMetric, finite_or_zero, float64
from sslmanifold.metrics.triangular import FactoredMetric


def orthonormal_basis(a: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of the column space: (…, d, k) float64, finite → (…, d, min(d, k)) and its rank (…,).

    Columns beyond the rank (singular values below max(d, k)·ε of the largest, as NumPy counts rank) are zero.
    """
    size = a.abs().amax(dim=(-2, -1), keepdim=True)
    left, values, _ = torch.linalg.svd(a / torch.where(size > 0, size, 1.0), full_matrices=False)
    tolerance = max(a.shape[-2:]) * torch.finfo(torch.float64).eps
    kept = values > tolerance * values[..., :1]
    return left * kept[..., None, :], kept.sum(dim=-1)


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(where both are finite, a, b) in float64, zero where they are not."""
    a, b = float64(a, "d, k"), float64(b, "d, k")
    if a.shape[-2] != b.shape[-2]:
        raise UserError(
            f"subspaces of {a.shape[-2]} and of {b.shape[-2]} dimensions, of shapes {tuple(a.shape)} and "
            f"{tuple(b.shape)}, have no angles: their bases are the columns; write a.mT where yours are rows"
        )
    finite, (a, b) = finite_or_zero(a, b)
    return finite, a, b


def subspace_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Overlap ‖QₐᵀQ_b‖_F²/min(rank a, rank b): the mean squared cosine of the principal angles.

    1 where one column space contains the other, 0 where they are orthogonal (or one of them is zero); NaN where
    an entry is not finite.

    Shapes: a (…, d, k), b (…, d, l), any bases of them → (…,).
    """
    finite, a, b = _pair(a, b)
    qa, ra = orthonormal_basis(a)
    qb, rb = orthonormal_basis(b)
    smaller = torch.minimum(ra, rb)
    overlap = (qa.mT @ qb).square().sum(dim=(-2, -1)) / smaller.clamp(min=1)
    return torch.where(finite, overlap, torch.nan)


def subspace_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sine of the largest principal angle between the column spaces of a and b: ‖(I − QₐQₐᵀ) Q_b‖₂.

    Of min(rank a, rank b) angles, as SciPy's ``subspace_angles`` counts them: 0 where the smaller space
    lies in the larger, 1 where some direction of the smaller is orthogonal to the larger, or where
    exactly one of them is zero; NaN where an entry is not finite. Computed from the sine itself, so small
    angles keep their digits (the cosine loses them below 1e-8).

    Shapes: a (…, d, k), b (…, d, l), any bases of them → (…,).
    """
    finite, a, b = _pair(a, b)
    qa, ra = orthonormal_basis(a)
    qb, rb = orthonormal_basis(b)
    inner = qa.mT @ qb
    from_a = torch.linalg.matrix_norm(qb - qa @ inner, ord=2)  # b is the smaller
    from_b = torch.linalg.matrix_norm(qa - qb @ inner.mT, ord=2)
    sine = torch.where(ra >= rb, from_a, from_b).clamp(max=1.0)
    return torch.where(finite, torch.where((ra == 0) ^ (rb == 0), 1.0, sine), torch.nan)


def pca_overlap(u: Tensor, x: Tensor, components: int | None = None) -> Tensor:
    """Overlap with PCA: of the column spaces of the centred U and of the principal scores of X.

    Both are spaces of functions on the samples, so it holds for any model; for a linear one u = mᵀx it is
    1 exactly where span(m) is the principal subspace, if X has full column rank. ``components`` defaults
    to z. NaN where an entry is not finite.

    Shapes: u (…, n, z), x (n, d) or (…, n, d) → (…,).
    """
    u, x = _embedded(u, x)
    u = u - u.mean(dim=-2, keepdim=True)
    finite, (x,) = finite_or_zero(x - x.mean(dim=-2, keepdim=True))
    overlap = subspace_overlap(u, _scores(x, _count(components, u)))
    return torch.where(finite, overlap, torch.nan)


def _embedded(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    u, x = float64(u), float64(x, "n, d")
    if u.shape[-2] != x.shape[-2]:
        raise UserError(
            f"{u.shape[-2]} embeddings, shape {tuple(u.shape)}, of {x.shape[-2]} points, shape {tuple(x.shape)}: give "
            "the points that were embedded, in the same order"
        )
    return u, x


def _count(components: int | None, u: Tensor) -> int:
    if components is not None and components < 1:
        raise UserError(
            f"components={components} spans nothing: write components={u.shape[-1]}, or leave it out for z"
        )
    return components or u.shape[-1]


def _scores(centred: Tensor, components: int) -> Tensor:
    """Directions of the leading principal scores in the space of samples: (…, n, d) → (…, n, k)."""
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return (left * (values > 1e-13 * values[..., :1])[..., None, :])[..., :components]


class PCAOverlap(FactoredMetric):
    """Streaming :func:`pca_overlap`, exact to rounding.

    The state is the triangular factor of [1, X, U], (…, 1 + d + z, 1 + d + z) in float64: below its first
    row, X and U stand in one orthonormal frame of at most d + z dimensions, where their angles are those
    of the samples. Factors of several processes are stacked and factored once more. Cost per batch O(n (d
    + z)²).
    """

    higher_is_better = None
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    factored = ("factors",)
    factors: list[Tensor]
    features: Tensor

    def __init__(self, components: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.components = components
        self.add_state("features", default=torch.tensor(0), dist_reduce_fx="max")  # d: where X ends in a row

    def update(self, u: Tensor, x: Tensor) -> None:
        """Adds embeddings (…, n, z) and the data they embed, (n, d) or (…, n, d)."""
        u, x = _embedded(u, x)
        x = x.expand(*u.shape[:-1], x.shape[-1])
        if self.features not in (0, x.shape[-1]):
            raise UserError(
                f"points of {x.shape[-1]} dimensions after points of {int(self.features)}: write metric.reset() before "
                "other data"
            )
        self.accumulate("factors", torch.cat([torch.ones_like(u[..., :1]), x, u], dim=-1))
        self.features = torch.full_like(self.features, x.shape[-1])

    def compute(self) -> Tensor:
        """Overlap over all samples so far, (…,)."""
        finite, (factor,) = finite_or_zero(self.factor("factors"))
        x, u = factor[..., 1:, 1:].tensor_split([int(self.features)], dim=-1)
        return torch.where(finite, subspace_overlap(u, _scores(x, _count(self.components, u))), torch.nan)


class SubspaceOverlap(EmbeddingMetric):
    """Mean of :func:`subspace_overlap` over updates, each a pair of bases (…, d, k) and (…, d, l)."""

    higher_is_better = None
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
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


class SubspaceDistance(EmbeddingMetric):
    """Largest :func:`subspace_distance` over updates, each a pair of bases (…, d, k) and (…, d, l)."""

    higher_is_better = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    largest: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        nothing = torch.tensor(-torch.inf, dtype=torch.float64)
        self.add_state("largest", default=nothing, dist_reduce_fx="max")

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds one pair of bases."""
        self.largest = torch.maximum(self.largest, subspace_distance(a, b))

    def compute(self) -> Tensor:
        """Largest distance, (…,); NaN before the first update."""
        return torch.where(self.largest == -torch.inf, torch.nan, self.largest)
