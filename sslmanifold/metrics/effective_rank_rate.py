"""How fast the effective rank changes where the embedding moves: the derivative of :func:`effective_rank`."""

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import finite_or_zero, float64
from sslmanifold.metrics.effective_rank import entropy_rank
from sslmanifold.metrics.spectrum import COLLAPSED

# rounding of a singular value decomposition, in units of ε times the larger side of the matrix
_ROUNDING = 4.0


def effective_rank_rate(u: Tensor, velocity: Tensor, centered: bool = True) -> Tensor:
    """ṙ = −r Σ ṗ_i log p_i of the effective rank r = exp(−Σ p_i log p_i), p_i = σ_i/Σσ, with σ̇_i = a_iᵀ U̇ b_i.

    a_i, b_i are the singular vectors of the embedding U (centred, as :func:`effective_rank` has it, unless
    ``centered=False``) and U̇ is its velocity: U = X m and U̇ = X ṁ along a flow. Per unit of the velocity's time.

    The rate is that of the time to come. Tied singular values count by the sum of their rates, which no choice of
    vectors changes. A singular value that is zero does not turn negative: it opens at the rate of the velocity
    between the null spaces. Where one does, r grows like −t log t, and the rate is +∞; where none does, zeros add
    nothing. Of one single point, r = 0: its rate is +∞, or 0 where it stays one. NaN where an entry is not finite.
    What is zero is decided to rounding, 4 ε max(n, z) of the largest singular value.

    Shapes: (…, n, z) and (…, n, z) → (…,), float64.

    Raises:
        UserError: shapes that differ, fewer than two dimensions, or complex numbers.
    """
    u, velocity = float64(u), float64(velocity)
    if u.shape != velocity.shape:
        raise UserError(
            f"a velocity of shape {tuple(velocity.shape)} is not that of an embedding of shape {tuple(u.shape)}: give "
            "X @ m and X @ ṁ"
        )
    finite, (u, velocity) = finite_or_zero(u, velocity)
    if 0 in u.shape[-2:]:
        return u.new_full(u.shape[:-2], torch.nan)
    largest = u.abs().amax(dim=(-2, -1), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    u, velocity = u / largest, velocity / largest  # the rate is the same, and nothing leaves the range
    size = torch.linalg.matrix_norm(velocity)  # before centring: a common shift leaves its rounding
    if centered:
        u, velocity = (x - x.mean(dim=-2, keepdim=True) for x in (u, velocity))
    left, sigma, right = torch.linalg.svd(u, full_matrices=False)
    rounding = _ROUNDING * torch.finfo(u.dtype).eps * max(u.shape[-2:])
    spread = sigma[..., :1] > COLLAPSED * u.shape[-2] ** 0.5  # below it effective_rank sees one point
    kept = (sigma > rounding * sigma[..., :1]) & spread
    sigma = torch.where(kept, sigma, 0.0)

    moved = left.mT @ velocity @ right.mT  # (…, k, k): σ̇ on its diagonal
    total = torch.where(spread, sigma.sum(-1, keepdim=True), 1.0)
    p = sigma / total
    speeds = torch.where(kept, moved.diagonal(dim1=-2, dim2=-1), 0.0)
    change = (speeds - p * speeds.sum(-1, keepdim=True)) / total
    logarithm = torch.where(kept, torch.where(kept, p, 1.0).log(), 0.0)
    rate = -entropy_rank(sigma) * (change * logarithm).sum(-1)

    opening = _opening(velocity, left, right, sigma, kept, rounding * size)
    return torch.where(finite, torch.where(opening, torch.inf, rate), torch.nan)


def _opening(
    velocity: Tensor, left: Tensor, right: Tensor, sigma: Tensor, kept: Tensor, rounding: Tensor
) -> Tensor:
    """Whether a singular value that is zero grows at first order, (…,): the velocity between the null spaces."""
    inside_left, inside_right = left * kept[..., None, :], right * kept[..., :, None]
    rest = velocity - velocity @ inside_right.mT @ inside_right
    rest = rest - inside_left @ (inside_left.mT @ rest)
    # the null spaces themselves are known to rounding over the smallest singular value that is not zero
    least = torch.where(kept, sigma, torch.inf).amin(-1)
    condition = torch.where(kept.any(-1), sigma[..., 0] / least, 1.0).clamp_min(1.0)
    return torch.linalg.matrix_norm(rest) > rounding * condition
