"""solve(): the trajectory of Eq. 9's family from q0, by the most exact method at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.closed_form import single
from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.frame import FrameState, check_feasible, frame_state
from sslmanifold.theory.integrate import adaptive, lifted_rk4
from sslmanifold.theory.late import late_frames, oja_frames
from sslmanifold.theory.trajectory import Trajectory

Array = NDArray[np.float64]
Method = Literal["auto", "closed_form", "adaptive", "lifted_rk4"]

# Above this many numbers an adaptive solver's dense bookkeeping costs more than fixed steps do.
_ADAPTIVE_SIZE = 2_000_000
# Up to this t·‖Λ‖₂ one run, or several side by side, are integrated as they are; beyond, what has arrived is taken out,
# run by run.
_HORIZON, _HORIZON_OF_MANY = 16.0, 100.0


def solve(
    q0: Tensor,
    eigvals: Tensor,
    times: Tensor | Iterable[float],
    *,
    kappa: float = 0.0,
    hidden: int | None = None,
    method: Method = "auto",
) -> Trajectory:
    """Trajectory of q̇ = −4Λq + (2 − κ)Λq qᵀq + (2 + κ) q qᵀΛq (Eq. 9, Theorem 2) from q0 at time 0.

    Args:
        q0: (…, d, z), ‖q0‖₂ ≤ 1, rows in C's eigenbasis (q = Vᵀm); leading batch dimensions are independent
        runs. eigvals: Λ (d,), in any order.
        times: (T,), finite, ≥ 0, ascending, in units of Σ lr; 0 need not be among them. Late times cost
            nothing: what has arrived is taken out, and the cost depends on gaps of the spectrum alone.
        kappa: κ, see `orthogonal_flow`.
        hidden: h; it decides how many singular values of q are forced to be 1 (d + z − h). None assumes h ≥ d
        + z. method: "auto" takes the closed form where there is one (κ = 2; z = 1), else DOP853 on the
            orthonormal frame ("adaptive", rtol 1e-12), else (very large problems) RK4 on it ("lifted_rk4").

    Returns:
        Trajectory with .times (T,), .q (T, …, d, z) float64, .method the method that was used.

    Raises:
        UserError: shapes, NaN, times, ‖q0‖₂ > 1, or a q0 that no weights of this width can have.
    """
    asked = as_times(times)
    points, place = torch.unique_consecutive(asked, return_inverse=True)  # a time may be asked for twice
    eigvals = torch.as_tensor(eigvals).detach().to(torch.float64)
    q0 = torch.as_tensor(q0).detach().to(torch.float64)
    if q0.ndim < 2 or eigvals.ndim != 1 or q0.shape[-2] != eigvals.shape[0]:
        raise UserError(
            f"q0 of shape {tuple(q0.shape)} with eigenvalues of shape {tuple(eigvals.shape)}: "
            "give q0 as (…, d, z) and eigvals as (d,)"
        )
    if not torch.isfinite(q0).all() or not torch.isfinite(eigvals).all():
        raise UserError("q0 or eigvals hold NaN or infinite entries")
    d, z = q0.shape[-2:]
    if hidden is not None:
        check_feasible(hidden, d, z)
    state = frame_state(q0, rows=z if hidden is None else min(z, hidden - d))
    frames, used = solve_frame(state, eigvals, points, kappa=kappa, method=method)
    return Trajectory(asked, frames.m[place.to(frames.m.device)], used)


def solve_frame(
    state: FrameState,
    eigvals: Tensor,
    points: Tensor,
    *,
    kappa: float = 0.0,
    depth: int = 2,
    method: Method = "auto",
) -> tuple[FrameState, str]:
    """`solve` from a frame [q; R] at strictly ascending times (T,): q (T, …, d, z) and R (T, …, k, z).

    ``depth`` is L of a deep net with square hidden layers (`DeepLinearFlow`). The cost does not grow with t:
    at late times what has arrived is taken out of the equations (`late`).
    """
    z = state.m.shape[-1]
    oja_like = kappa == 2
    has_closed_form = oja_like or (z == 1 and kappa > -2 and (depth == 2 or kappa == 0))
    if method == "auto":
        small = state.m.numel() <= _ADAPTIVE_SIZE
        method = "closed_form" if has_closed_form else "adaptive" if small else "lifted_rk4"
    if method == "closed_form":
        if not has_closed_form:
            raise UserError(f"no closed form for κ = {kappa:g}, z = {z}: use κ = 2, z = 1, or method='auto'")
        if oja_like:
            return oja(state, eigvals, points * (depth / 2)), method
        return single(state, eigvals, points, kappa), method
    if method not in ("adaptive", "lifted_rk4"):
        raise UserError(f"unknown method {method!r}: use auto, closed_form, adaptive or lifted_rk4")
    integrate = adaptive if method == "adaptive" else lifted_rk4
    norm = float(eigvals.abs().max())
    reach = _HORIZON if state.m.shape[:-2].numel() == 1 else _HORIZON_OF_MANY
    horizon = reach / norm if norm > 0 and kappa > -2 else math.inf
    if float(points[-1]) <= horizon:
        return integrate(state, eigvals, points, kappa=kappa, depth=depth), method
    early = points[points <= horizon]
    extended = torch.unique_consecutive(torch.cat([early, early.new_tensor([horizon])]))
    head = integrate(state, eigvals, extended, kappa=kappa, depth=depth)
    begin = FrameState(head.m[-1], head.r[-1])

    def late(frame: Array, times: Array) -> Array:
        return late_frames(frame, eigvals.cpu().numpy(), times, kappa, (depth - 2) * kappa)

    tail = _one_by_one(begin, points[points > horizon] - horizon, late)
    m, r = (torch.cat([x[: early.numel()], y]) for x, y in ((head.m, tail.m), (head.r, tail.r)))
    return FrameState(m, r, float(points[-1])), method


def oja(state: FrameState, eigvals: Tensor, points: Tensor) -> FrameState:
    """[q; R](t) for κ = 2: q̇ = −4(I − qqᵀ)Λq, from the closed form of its span and one z×z linear equation.

    Leading batch dimensions are solved one by one: q (T, …, d, z), R (T, …, k, z).
    """
    rows = torch.cat([eigvals, eigvals.new_zeros(state.r.shape[-2])]).cpu().numpy()
    return _one_by_one(state, points, lambda frame, times: oja_frames(frame, rows, times))


def _one_by_one(state: FrameState, points: Tensor, solved: Callable[[Array, Array], Array]) -> FrameState:
    batch, d = state.m.shape[:-2], state.m.shape[-2]
    both = torch.cat([state.m, state.r], -2)
    frames = both.reshape(math.prod(batch), *both.shape[-2:]).cpu().numpy()
    out = np.empty((len(points), *frames.shape))
    for index, frame in enumerate(frames):
        out[:, index] = solved(frame, points.numpy())
    path = torch.from_numpy(out).reshape(len(points), *batch, *both.shape[-2:]).to(both.device)
    return FrameState(path[..., :d, :], path[..., d:, :], float(points[-1]))
