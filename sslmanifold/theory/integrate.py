"""Integrators of the orthogonal family: Euler (Eq. 12), RK4, the frame RK4, and an adaptive one that stays on
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import DOP853, solve_ivp
from torch import Tensor

from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.flows.orthogonal import frame_step
from sslmanifold.theory.state import FrameState
from sslmanifold.theory.trajectory import Trajectory
from sslmanifold.theory.velocities import orthogonal_flow, printed_flow


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
    state: FrameState, eigvals: Tensor, times: Tensor, *, kappa: float = 0.0, step: float | None = None
) -> Trajectory:
    """RK4 on the frame Y = [q; R] with polar projection: fourth order, exact structure for all t.

    Steps of at most ``step`` (default 0.0025/‖Λ‖₂: errors below 1e-10) that land on each time (T,). Returns a
    Trajectory (T, …, d, z).
    """
    points = as_times(times)
    norm = max(float(eigvals.abs().max()), 1e-300)
    step = 0.0025 / norm if step is None else step
    now, maps = 0.0, []
    for t in points.tolist():
        count = math.ceil((t - now) / step - 1e-9)
        for _ in range(count):
            state = frame_step(state, (t - now) / count, eigvals, kappa)
        maps.append(state.m)
        now = t
    return Trajectory(points, torch.stack(maps), "lifted_rk4")


def adaptive(
    state: FrameState,
    eigvals: Tensor,
    times: Tensor,
    *,
    kappa: float = 0.0,
    rtol: float = 1e-12,
    atol: float = 1e-13,
) -> Trajectory:
    """DOP853 on the frame Y = [q; R], with −γ Y(YᵀY − I) added, γ = ‖Λ‖₂ + 8 max(λd, 0).

    Off the manifold, I − YᵀY grows at most like e^{8 max(λd, 0) t} and decays like e^{−2γt}. The added term
    is zero on orthonormal frames, so solutions are unchanged, and makes them attracting, which the plain
    equation does not: an adaptive solver on q alone blows up at h = d. Lands on each of the times (T,).

    Raises:
        RuntimeError: if SciPy's solver gives up.
    """
    points = as_times(times)
    lam = eigvals.detach().double().cpu().numpy()
    frame = torch.cat([state.m, state.r], dim=-2).cpu().numpy()  # (…, d + k, z)
    shape, d = frame.shape, state.m.shape[-2]
    gamma = float(np.abs(lam).max()) + 8.0 * max(float(lam.max()), 0.0)
    diagonal = lam[:, None]

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        y = flat.reshape(shape)
        q = y[..., :d, :]
        qt = np.swapaxes(q, -1, -2)
        lq = diagonal * q
        n = qt @ lq
        excess = np.swapaxes(y, -1, -2) @ y
        excess[..., range(shape[-1]), range(shape[-1])] -= 1.0
        out = y @ (4.0 * n - gamma * excess)
        # [q; R](4N) is right for R; q needs −4Λq + (2 − κ)Λq qᵀq + (κ − 2) q N on top.
        out[..., :d, :] += (2.0 - kappa) * (lq @ (qt @ q) - q @ n) - 4.0 * lq
        return out.ravel()

    values = landed(velocity, frame.ravel(), points.numpy(), rtol, atol).reshape(len(points), *shape)
    q = torch.from_numpy(np.ascontiguousarray(values[..., :d, :])).to(state.m.device)
    return Trajectory(points, q, "adaptive")


def landed(
    velocity: Callable[[float, np.ndarray], np.ndarray],
    y0: np.ndarray,
    times: np.ndarray,
    rtol: float,
    atol: float,
) -> np.ndarray:
    """DOP853 from time 0, each of ``times`` (T,) reached by a step of its own -> (T, len(y0)).

    SciPy's dense output interpolates between steps at lower order (6e-10 off where the steps themselves err
    1e-13).
    """
    out = np.empty((len(times), len(y0)))
    done = int(np.searchsorted(times, 0.0, side="right"))
    out[:done] = y0
    if done == len(times):
        return out
    solver = DOP853(velocity, 0.0, y0, float(times[-1]), rtol=rtol, atol=atol)
    while done < len(times):
        before, y_before = solver.t, solver.y
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"DOP853 stopped: {message}")
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
    return out
