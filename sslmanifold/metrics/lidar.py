"""LiDAR: the rank of what tells samples apart, whatever augmentation does to them."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import finite_or_zero, float64
from sslmanifold.metrics.rankme import smooth_rank
from sslmanifold.metrics.triangular import FactoredMetric


def lidar(views: Tensor, *, delta: float = 1e-4, eps: float = 1e-8) -> Tensor:
    """LiDAR exp(−Σ p_i log p_i), p_i = λ_i/Σλ + ε, λ the eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2).

    Each sample is a class, its q views are the class's members: with μ_i the mean view and μ the mean of
    those, Σ_b = E_i (μ_i − μ)(μ_i − μ)ᵀ and Σ_w = E_ij (u_ij − μ_i)(u_ij − μ_i)ᵀ + δ I. Of *eigenvalues*
    (squared quantities). δ is absolute, so the number depends on the scale of the embedding: compare at
    one scale. 0 where all samples are the same point; NaN where an embedding is not finite, and of no samples.

    Args:
        views: (…, n, q, z) with q ≥ 2 views of each of n ≥ 2 samples.
        delta: δ.
        eps: ε.

    Returns:
        (…,). Computed in float64; never forms Σ_b or Σ_w^(−1), but works from their factors.

    Raises:
        UserError: fewer than three dimensions, or one view alone.

    Source: Thilak et al., ICLR 2024 (arXiv 2312.04000).
    """
    views = _views(views)
    means = views.mean(dim=-2)
    return _from_factors(
        (means - means.mean(dim=-2, keepdim=True)) / means.shape[-2] ** 0.5,
        _deviations(views) / (views.shape[-2] * views.shape[-3]) ** 0.5,
        delta,
        eps,
    )


def _views(views: Tensor) -> Tensor:
    views = float64(views, "n, q, z")
    if views.shape[-2] < 2:
        raise UserError(
            f"LiDAR compares two views or more of each sample, got {views.shape[-2]} in shape {tuple(views.shape)}: "
            "write torch.stack([u, u_pos], dim=-2)"
        )
    return views


def _deviations(views: Tensor) -> Tensor:
    return (views - views.mean(dim=-2, keepdim=True)).flatten(-3, -2)  # (…, n, q, z) -> (…, n q, z)


def _from_factors(between: Tensor, within: Tensor, delta: float, eps: float) -> Tensor:
    """From B and A with Σ_b = BᵀB, Σ_w = AᵀA + δI: λ are the squared singular values of B Σ_w^(−1/2).

    NaN where one of them is not finite.
    """
    finite, (between, within) = finite_or_zero(between, within)
    z = within.shape[-1]
    _, values, right = torch.linalg.svd(
        _at_least_square(within), full_matrices=False
    )  # A = … diag(values) right
    inverse_root = (values.square() + delta).rsqrt()
    whitened = between @ right.mT[..., :z] * inverse_root[..., None, :]
    return torch.where(finite, smooth_rank(torch.linalg.svdvals(whitened).square(), eps), torch.nan)


def _at_least_square(rows: Tensor) -> Tensor:
    """Zero rows added until there are as many as columns, so that directions without spread are kept."""
    missing = rows.shape[-1] - rows.shape[-2]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


class LiDAR(FactoredMetric):
    """Streaming :func:`lidar`, exact to rounding.

    The state is two triangular factors, of [1, mean views] and of the deviations from them, (z + 1)² and
    z² numbers in float64, and a count; factors of several processes are stacked and factored once more.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    factored = ("between", "within")
    between: list[Tensor]
    within: list[Tensor]
    samples: Tensor
    views: Tensor

    def __init__(self, *, delta: float = 1e-4, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.delta, self.eps = delta, eps
        self.add_state("samples", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("views", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, views: Tensor) -> None:
        """Adds the embeddings of q views of each of n samples, (…, n, q, z)."""
        views = _views(views)
        means = views.mean(dim=-2)
        rows = torch.cat([torch.ones_like(means[..., :1]), means], dim=-1)  # (…, n, 1 + z)
        self.accumulate("between", rows)
        self.accumulate("within", _deviations(views))
        self.samples = self.samples + views.shape[-3]
        self.views = self.views + views.shape[-3] * views.shape[-2]

    def compute(self) -> Tensor:
        """LiDAR of all samples so far, (…,)."""
        between = self.factor("between")[..., 1:, 1:]
        within = self.factor("within")
        return _from_factors(between / self.samples.sqrt(), within / self.views.sqrt(), self.delta, self.eps)
