"""Any differentiable loss of a linear network has its exact, width-free flow: the data enter through ∂L/∂m alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.frame import (
    FrameState,
    check_feasible,
    check_orthonormal,
    frame_state,
    normalise_frame,
    runge_kutta,
)
from sslmanifold.theory.gradient import Loss, LossGradient
from sslmanifold.theory.integrate import landed
from sslmanifold.theory.trajectory import Solution
from sslmanifold.theory.velocities import kappa_of, lifted_velocity, loss_frame_flow

LossMethod = Literal["auto", "adaptive", "lifted_rk4"]
# (m, R) -> (ṁ, Ṙ, how fast a deviation from YᵀY = I may grow (…, 1, 1))
Velocity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

_RTOL, _ATOL = 1e-12, 1e-13
# Mean speed, relative to the highest so far, at which the flow has arrived.
_AT_REST = 1e-12
# Fixed steps are halved until two solutions agree this well.
_AGREED, _MOST_HALVINGS = 1e-11, 12


def solve_loss(
    loss: Loss,
    m0: Tensor,
    times: Tensor | Iterable[float],
    *,
    kappa: float | str = 0.0,
    layers: int = 2,
    hidden: int | None = None,
    method: LossMethod = "auto",
) -> Solution:
    """Trajectory of orthogonal training on any loss L(m) of the linear map m, from m0 at time 0, and L along it.

    Two layers, m = W1ᵀW2 with orthonormal columns of both, at any width:

        ṁ = −2G + (1 − κ/2)(G mᵀm + m mᵀG) + κ m Gᵀm,  G = ∂L/∂m (`loss_velocity`).

    One layer, m = W with WᵀW = I: Ẇ = −[(I − WWᵀ)G + κ W skew(WᵀG)], where κ drops out for a loss that does not see
    rotations of the output. L ≥ 3 layers with square hidden ones: the first, minus (L − 2)(κ/2)(G − m Gᵀm).

    Args:
        loss: m (…, d, z) float64 -> (…,), differentiable by autograd; for a loss of embeddings, ``lambda m: L(x @ m,
            x_pos @ m)``. Batch dimensions are independent runs: each entry depends on its own m.
        m0: (…, d, z), ‖m0‖₂ ≤ 1; for one layer m0ᵀm0 = I.
        times: (T,), finite, ≥ 0, ascending, in units of Σ lr of this loss; 0 need not be among them.
        kappa: κ, or a metric's name (grassmann 0, euclidean 1, canonical 2).
        layers: number of weight matrices.
        hidden: h, which decides how many singular values of m are forced to be 1 (d + z − h); None: h ≥ d + z.
        method: "adaptive" (and "auto"): DOP853 on the frame [m; R], rtol 1e-12. "lifted_rk4": RK4 on it with polar
            projection, steps halved until they agree to 1e-11; a second opinion.

    Returns:
        Solution with .times (T,), .m (T, …, d, z), .loss (T, …), .method, float64.

    Raises:
        UserError: shapes, NaN, times, ‖m0‖₂ > 1; a loss that does not give (…,), does not depend on m, leaves the
            finite numbers or has a singularity on the path.
    """
    asked = as_times(times)
    points, place = torch.unique_consecutive(asked, return_inverse=True)
    kappa = kappa_of(kappa)
    m0 = torch.as_tensor(m0).detach().to(torch.float64)
    if m0.ndim < 2:
        raise UserError(f"m0 of shape {tuple(m0.shape)}: give the map as (…, d, z)")
    if not torch.isfinite(m0).all():
        raise UserError("m0 holds NaN or infinite entries")
    if layers < 1:
        raise UserError(f"layers={layers} must be at least 1: set layers=2")
    gradient = LossGradient(loss, m0.shape[-2])
    state = _begin(m0, layers, hidden)
    velocity = _head(gradient, kappa) if layers == 1 else _network(gradient, kappa, layers)
    if method in ("auto", "adaptive"):
        maps, used = _adaptive(velocity, state, points), "adaptive"
    elif method == "lifted_rk4":
        maps, used = _lifted_rk4(velocity, state, points), "lifted_rk4"
    else:
        raise UserError(f"unknown method {method!r}: use auto, adaptive or lifted_rk4")
    maps = maps[place.to(maps.device)]
    return Solution(asked, maps, torch.stack([gradient.value(m) for m in maps]), used)


def _begin(m0: Tensor, layers: int, hidden: int | None) -> FrameState:
    d, z = m0.shape[-2:]
    if layers == 1:
        check_orthonormal(m0, "m0", f"one orthonormal layer needs d ≥ z, got d={d}, z={z}")
        return normalise_frame(FrameState(m0, m0[..., :0, :]), iterations=5)
    if hidden is not None:
        check_feasible(hidden, d, z)
    return frame_state(m0, rows=z if hidden is None else min(z, hidden - d))


def _network(gradient: LossGradient, kappa: float, layers: int) -> Velocity:
    factor = abs(2 - kappa) + abs(kappa) * layers / 2

    def velocity(m: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = gradient.gradient(m)
        growth = 2 * factor * torch.linalg.matrix_norm(m.mT @ g, keepdim=True)
        return *loss_frame_flow(m, r, g, kappa, layers), growth

    return velocity


def _head(gradient: LossGradient, kappa: float) -> Velocity:
    def velocity(m: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = gradient.gradient(m)
        growth = 2 * (1 + abs(kappa)) * torch.linalg.matrix_norm(m.mT @ g, keepdim=True)
        return lifted_velocity(m, g, kappa), r, growth

    return velocity


def _adaptive(velocity: Velocity, state: FrameState, points: Tensor) -> Tensor:
    """DOP853 on Y = [m; R] with −γ Y(YᵀY − I) added: zero on frames, and faster than what leads off them.

    The added term gives D = YᵀY − I the rate −2γ; the flow itself at most ``growth`` = 2(|2 − κ| + |κ|L/2)‖mᵀG‖.
    """
    d = state.m.shape[-2]
    frame = torch.cat([state.m, state.r], -2)
    eye = torch.eye(frame.shape[-1], dtype=frame.dtype, device=frame.device)

    def right_side(_: float, flat: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(flat).reshape(frame.shape).to(frame.device)
        m, r = y[..., :d, :], y[..., d:, :]
        dm, dr, growth = velocity(m, r)
        out = torch.cat([dm, dr], -2) - 0.75 * growth * (y @ (y.mT @ y - eye))
        return np.asarray(out.reshape(-1).cpu().numpy())

    try:
        values = landed(
            right_side, frame.reshape(-1).cpu().numpy(), points.numpy(), _RTOL, _ATOL, at_rest=_AT_REST
        )
    except RuntimeError as error:
        raise UserError(
            f"{error}: the loss has a kink or a singularity there (a norm at 0, a hinge); smooth it, or ask for "
            "times before"
        ) from error
    return torch.from_numpy(values).reshape(len(points), *frame.shape)[..., :d, :].to(frame.device)


def _lifted_rk4(velocity: Velocity, state: FrameState, points: Tensor) -> Tensor:
    """RK4 with polar projection, each stretch between times in n steps, n doubled until nothing changes."""

    def solved(per_stretch: int) -> Tensor:
        now, current, maps = 0.0, state, []
        for t in points.tolist():
            for _ in range(per_stretch if t > now else 0):
                current = runge_kutta(lambda m, r: velocity(m, r)[:2], current, (t - now) / per_stretch)
            maps.append(current.m)
            now = t
        return torch.stack(maps)

    count, coarse = 16, solved(16)
    for _ in range(_MOST_HALVINGS):
        count *= 2
        fine = solved(count)
        if float((fine - coarse).abs().max()) < _AGREED:
            return fine
        coarse = fine
    raise UserError(
        f"{count} steps of RK4 a stretch do not settle: ask for times closer together, or method=auto"
    )
