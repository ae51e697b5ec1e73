"""Integrators of the orthogonal family: Euler (Eq. 12), RK4, the frame RK4, and an adaptive one that stays on it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import DOP853, solve_ivp
from torch import Tensor

from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.frame import FrameState, frame_step
from sslmanifold.theory.velocities import orthogonal_flow, printed_flow

# A solver at rest takes steps as long as it may, so that this many of them are many of the fastest rate's times.
_STILL_STEPS = 20
_MOST_STEPS = 500_000


def euler(
    q0: Tensor, eigvals: Tensor, step: float, steps: int, *, kappa: float = 0.0, printed: bool = False
) -> Tensor:
    """Eq. 12: q_{k+1} = q_k + η q̇(q_k), every iterate, (steps + 1, …, d, z); λ (d,), q0 (…, d, z).

    ``printed=True`` is the equation as the paper prints it, without the factor 2 of Eq. 9 (half speed, κ =
    0). Stable for η < `largest_stable_step`; first order in η.
    """
    q, iterates = q0.to(torch.float64), [q0.to(torch.float64)]
    for _ in range(steps):
        velocity = printed_flow(q, eigvals) if printed else orthogonal_flow(q, eigvals, kappa)
        q = q + step * velocity
        iterates.append(q)
    return torch.stack(iterates)


def rk4(q0: Tensor, eigvals: Tensor, step: float, steps: int, *, kappa: float = 0.0) -> Tensor:
    """Classical fourth-order Runge–Kutta on q itself, every iterate, (steps + 1, …, d, z).

    Roundoff grows like e^{8λt} where unit singular values sit in positive directions (h = d, h < d + z − m):
    use `lifted_rk4` there.
    """
    q, iterates = q0.to(torch.float64), [q0.to(torch.float64)]
    for _ in range(steps):
        a = orthogonal_flow(q, eigvals, kappa)
        b = orthogonal_flow(q + (step / 2) * a, eigvals, kappa)
        c = orthogonal_flow(q + (step / 2) * b, eigvals, kappa)
        e = orthogonal_flow(q + step * c, eigvals, kappa)
        q = q + (step / 6) * (a + 2 * (b + c) + e)
        iterates.append(q)
    return torch.stack(iterates)


def lifted_rk4(
    state: FrameState,
    eigvals: Tensor,
    times: Tensor,
    *,
    kappa: float = 0.0,
    depth: int = 2,
    step: float | None = None,
) -> FrameState:
    """RK4 on the frame Y = [q; R] with polar projection: fourth order, exact structure for all t.

    Steps of at most ``step`` (default 0.0025/‖Λ‖₂: errors below 1e-10) that land on each time (T,). Returns q
    (T, …, d, z) and R (T, …, k, z).
    """
    points = as_times(times)
    norm = max(float(eigvals.abs().max()), 1e-300)
    step = 0.0025 / norm if step is None else step
    now, states = 0.0, []
    for t in points.tolist():
        count = math.ceil((t - now) / step - 1e-9)
        for _ in range(count):
            state = frame_step(state, (t - now) / count, eigvals, kappa, depth)
        states.append(state)
        now = t
    return FrameState(torch.stack([s.m for s in states]), torch.stack([s.r for s in states]), now)


def adaptive(
    state: FrameState,
    eigvals: Tensor,
    times: Tensor,
    *,
    kappa: float = 0.0,
    depth: int = 2,
    rtol: float = 1e-12,
    atol: float = 1e-13,
) -> FrameState:
    """DOP853 on the frame Y = [q; R] (`frame_velocity`); lands on each time (T,): q (T, …, d, z), R (T, …, k, z).

    Raises:
        RuntimeError: if SciPy's solver gives up.
    """
    points = as_times(times)
    lam = eigvals.detach().double().cpu().numpy()
    frame = torch.cat([state.m, state.r], dim=-2).cpu().numpy()  # (…, d + k, z)
    shape, d = frame.shape, state.m.shape[-2]
    velocity = frame_velocity(lam, shape, kappa, (depth - 2) * kappa)
    values = landed(velocity, frame.ravel(), points.numpy(), rtol, atol).reshape(len(points), *shape)
    both = torch.from_numpy(values).to(state.m.device)
    return FrameState(both[..., :d, :], both[..., d:, :], float(points[-1]))


def frame_velocity(
    eigvals: np.ndarray, shape: tuple[int, ...], kappa: float, extra: float, highest: float | None = None
) -> Callable[[float, np.ndarray], np.ndarray]:
    """The velocity of Y = [q; R], flattened from ``shape`` (…, d + k, z), with −γ Y(YᵀY − I) added.

    γ = ‖Λ‖₂ + 8 max(λd, 0), and more by the factor (4 + c)/4 for a deep net, c = ``extra`` = (L − 2)κ. Off the
    manifold, I − YᵀY grows at most like e^{8 max(λd, 0) t}, or with ``highest`` in place of λd where N = qᵀΛq is
    known to stay below it, and decays like e^{−2γt}. The added term is zero on orthonormal frames, so solutions
    are unchanged, and makes them attracting, which the plain equation does not: an adaptive solver on q alone
    blows up at h = d.
    """
    d, z = eigvals.shape[0], shape[-1]
    top = float(eigvals.max()) if highest is None else highest
    gamma = (float(np.abs(eigvals).max()) + 8.0 * max(top, 0.0)) * (1.0 + extra / 4.0)
    diagonal = eigvals[:, None]

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        y = flat.reshape(shape)
        q = y[..., :d, :]
        qt = np.swapaxes(q, -1, -2)
        lq = diagonal * q
        n = qt @ lq
        excess = np.swapaxes(y, -1, -2) @ y
        excess[..., range(z), range(z)] -= 1.0
        out = y @ ((4.0 + extra) * n - gamma * excess)
        # [q; R]((4 + c)N) is right for R; q needs −(4 + c)Λq + (2 − κ)Λq qᵀq + (κ − 2) q N on top.
        out[..., :d, :] += (2.0 - kappa) * (lq @ (qt @ q) - q @ n) - (4.0 + extra) * lq
        return out.ravel()

    return velocity


def landed(
    velocity: Callable[[float, np.ndarray], np.ndarray],
    y0: np.ndarray,
    times: np.ndarray,
    rtol: float,
    atol: float,
    *,
    at_rest: float = 0.0,
) -> np.ndarray:
    """DOP853 from time 0, each of ``times`` (T,) reached by a step of its own -> (T, len(y0)).

    SciPy's dense output interpolates between steps at lower order (6e-10 off where the steps themselves err
    1e-13). A solution whose mean speed over many steps, displacement by time, is below ``at_rest`` of its highest
    speed has arrived: the rest of the times get the same. (At rest a solver wavers within its tolerances, and the
    speed at one instant with it.)

    Raises:
        RuntimeError: if SciPy's solver gives up, or has taken 500,000 steps.
    """
    out = np.empty((len(times), len(y0)))
    done = int(np.searchsorted(times, 0.0, side="right"))
    out[:done] = y0
    if done == len(times):
        return out
    solver = DOP853(velocity, 0.0, y0, float(times[-1]), rtol=rtol, atol=atol)
    highest, taken, looked = 0.0, 0, (0.0, y0)
    while done < len(times):
        before, y_before = solver.t, solver.y
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"DOP853 stopped at t = {solver.t:.6g}: {message}")
        while done < len(times) and times[done] <= solver.t:
            t = float(times[done])
            if t < solver.t:
                inner = solve_ivp(
                    velocity,
                    (before, t),
                    y_before,
                    "DOP853",
                    [t],
                    rtol=rtol,
                    atol=atol,
                    first_step=t - before,
                )
                out[done] = inner.y[:, 0]
            else:
                out[done] = solver.y
            done += 1
        highest = max(highest, float(np.abs(solver.f).max()))
        taken += 1
        if taken % _STILL_STEPS == 0:
            moved = float(np.abs(solver.y - looked[1]).max())
            if moved <= at_rest * highest * (solver.t - looked[0]):
                out[done:] = solver.y
                break
            looked = (solver.t, solver.y)
        if taken == _MOST_STEPS and done < len(times):
            raise RuntimeError(f"still under way at t = {solver.t:.6g}, after {taken:,} steps of DOP853")
    return out
