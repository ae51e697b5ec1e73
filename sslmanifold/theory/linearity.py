"""How close a nonlinear net is to its linear counterpart (Theorem 1, Conjecture 1), measured against width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslmanifold.errors import UserError

Activation = Callable[[Tensor], Tensor]

# Slopes in h of the gap at a Haar start: (absolute, relative to ‖u^lin‖, which itself shrinks like h^{-1/2}).
EXPECTED_SLOPES: dict[str, tuple[float, float]] = {
    "tanh": (-1.5, -1.0),
    "sin": (-1.5, -1.0),
    "softplus_centred": (-1.0, -0.5),
    "relu": (-0.5, 0.0),
    "sigmoid": (0.0, 0.5),
}


def theorem1_bound(
    hidden: int, features: int, x_norm: float, curvature: float, constant: float = 8.0
) -> float:  # fmt: skip
    """K c ‖x‖² d √(log⁴h/h), the bound of Theorem 1 on ‖u^φ − u^lin‖ at a Haar start.

    For φ(0) = 0, φ'(0) = 1, |φ''| ≤ c (``curvature``). The paper leaves K universal; it is C/2 with
    max (W1)_ij² ≤ C log²h/h, and C = 16 holds with probability ≥ 1 − 2d/h for h ≥ 3 (a coordinate of a
    uniform unit vector exceeds 4 log h/√h with probability far below 1/h²), hence the default K = 8. Very
    loose: the measured gap of tanh falls like h^{-3/2}.
    """
    if hidden < 2:
        raise UserError(f"hidden={hidden} must be at least 2")
    return constant * curvature * x_norm**2 * features * math.sqrt(math.log(hidden) ** 4 / hidden)


def linearity_gap(w1: Tensor, w2: Tensor, x: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """‖u^φ − u^lin‖_F over the points, absolute and relative to ‖u^lin‖_F (Theorem 1; Conjecture 1 during training).

    w1 (…, h, d), w2 (…, h, z), x (n, d); root mean square over points. Returns two tensors (…). u^φ =
    W2ᵀφ(W1x).
    """
    pre = x @ w1.mT  # (…, n, h)
    linear, nonlinear = pre @ w2, activation(pre) @ w2  # (…, n, z)
    root_n = math.sqrt(x.shape[-2])
    gap = (nonlinear - linear).norm(dim=(-2, -1)) / root_n
    return gap, gap / (linear.norm(dim=(-2, -1)) / root_n)


@dataclass(frozen=True)
class LinearityScan:
    """Mean gaps over draws for each width, and the slopes of log gap against log h."""

    widths: tuple[int, ...]
    absolute: Tensor
    relative: Tensor
    absolute_slope: float
    relative_slope: float


def linearity_scan(
    x: Tensor,
    activation: Activation,
    widths: Sequence[int],
    *,
    embedding: int = 2,
    draws: int = 10,
    seed: int = 0,
) -> LinearityScan:
    """Theorem 1 measured: the gap at Haar orthogonal weights for each width, and its slope in h.

    Args:
        x: points (n, d); float64.
        activation: φ.
        widths: hidden sizes h ≥ max(d, z), at least two.
        embedding: z.
        draws: independent Haar draws averaged per width.
        seed: of the draws.

    Raises:
        UserError: fewer than two widths, or one below d or z.

    With φ''(0) = 0 (tanh, sin) the absolute slope is −1.5 and the relative −1; smooth with φ''(0) ≠ 0: −1 and
    −0.5; ReLU −0.5 and 0; sigmoid 0 and +0.5 (φ(0) ≠ 0). Both are reported because both outputs shrink with
    h.
    """
    x = x.to(torch.float64)
    d = x.shape[-1]
    if len(widths) < 2 or min(widths) < max(d, embedding):
        raise UserError(
            f"widths={list(widths)} need two or more values, each ≥ max(d, z) = {max(d, embedding)}"
        )
    generator = torch.Generator().manual_seed(seed)
    absolute, relative = [], []
    for h in widths:
        w1 = haar(h, d, draws, generator)
        w2 = haar(h, embedding, draws, generator)
        gap, ratio = linearity_gap(w1, w2, x, activation)
        absolute.append(gap.mean())
        relative.append(ratio.mean())
    a, r = torch.stack(absolute), torch.stack(relative)
    return LinearityScan(tuple(widths), a, r, loglog_slope(widths, a), loglog_slope(widths, r))


def haar(rows: int, columns: int, draws: int, generator: torch.Generator) -> Tensor:
    """Uniform (Haar) orthonormal columns (draws, rows, columns), float64: QR with the sign of R's diagonal
    folded in.
    """
    gaussian = torch.randn(draws, rows, columns, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def loglog_slope(widths: Sequence[int], values: Tensor) -> float:
    """Least-squares slope of log values (k,) against log widths."""
    log_h = torch.log(torch.tensor([float(h) for h in widths], dtype=torch.float64))
    log_v = values.to(torch.float64).log()
    centred = log_h - log_h.mean()
    return float((centred * log_v).sum() / centred.square().sum())


def comparison_time(hidden: int, lowest: float, constant: float = 0.0) -> float:
    """t = log h/(8|λ1|) + constant: when both outputs have left zero, so that Conjecture 1 says something.

    ‖u^lin‖ starts like h^{-1/2} and grows like e^{4|λ1|t}: at a fixed t a wide net has hardly moved, and an
    absolute gap → 0 is nearly vacuous. UserError for λ1 ≥ 0.
    """
    if not lowest < 0:
        raise UserError(f"λ1={lowest} is not negative: nothing grows, so there is no such time")
    return math.log(hidden) / (8 * abs(lowest)) + constant
