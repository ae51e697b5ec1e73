"""How long until the optimality gap is below a tolerance, in time and in steps."""

from __future__ import annotations

import math

from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.limits import default_step, optimum, rates
from sslmanifold.theory.solve import solve


def time_to_tolerance(
    eigvals: Tensor, embedding: int, tolerance: float, *, hidden: int | None = None, kappa: float = 0.0,
    q0: Tensor | None = None,
) -> float:  # fmt: skip
    """Time (Σ lr) until the relative optimality gap (L − L*)/|L*| is below ``tolerance``, asymptotically.

    The loss gap decays at twice the span and excess rates and at the radial rate. Given q0 (d, z), the
    constant in front is measured by solving the flow; without it the constant is 1, so expect to be off by a
    few e-foldings. inf when a rate is zero. UserError for tolerance outside (0, 1).
    """
    if not 0 < tolerance < 1:
        raise UserError(f"tolerance={tolerance} must lie between 0 and 1, for example 1e-3")
    r = rates(eigvals, embedding, hidden, kappa)
    slow = min(2 * r.span, r.radial, 2 * r.excess)
    if slow <= 0:
        return math.inf
    guess = 0.0 if math.isinf(slow) else -math.log(tolerance) / slow
    if q0 is None:
        return guess

    best = optimum(eigvals, embedding, hidden)
    scale = max(abs(float(best)), 1e-12 * float(eigvals.abs().max()))

    def gaps(times: list[float]) -> list[float]:
        losses = solve(q0, eigvals, times, kappa=kappa, hidden=hidden).loss(eigvals)
        return [(loss - float(best)) / scale for loss in losses.tolist()]

    low, high = 0.0, max(guess, 1.0 / float(eigvals.abs().max()))
    longest = 1e4 * high
    while gaps([high])[0] > tolerance:
        low, high = high, 2 * high
        if high > longest:
            return math.inf
    for _ in range(4):  # each pass narrows the bracket 32-fold
        times = [low + (high - low) * k / 32 for k in range(33)]
        first = next((k for k, gap in enumerate(gaps(times)) if gap <= tolerance), 32)
        if first == 0:
            return low
        low, high = times[first - 1], times[first]
    return high


def steps_to_tolerance(
    eigvals: Tensor, embedding: int, tolerance: float, *, step: float | None = None, hidden: int | None = None,
    kappa: float = 0.0, q0: Tensor | None = None,
) -> float:  # fmt: skip
    """Number of optimizer steps of size ``step`` (default `default_step`) that `time_to_tolerance` amounts to."""
    time = time_to_tolerance(eigvals, embedding, tolerance, hidden=hidden, kappa=kappa, q0=q0)
    size = default_step(eigvals) if step is None else step
    return math.inf if math.isinf(time) else float(math.ceil(time / size))
