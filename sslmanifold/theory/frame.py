"""Y = [m; R], YᵀY = I: the width-free state under orthogonality, from weights or from the map, and its RK4 step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.gradient import RK4, LossGradient, Tableau
from sslmanifold.theory.moment_product import Moment
from sslmanifold.theory.velocities import frame_flow, loss_frame_flow

FrameVelocity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# How far start() lets weights be from orthonormal: float32 or float16-mixed training passes, a mistake does
# not.
_ORTHONORMAL = 1e-2


class FrameState(NamedTuple):
    """Y = [m; R] with YᵀY = I: the width-free state under orthogonality, with W1 gauge-fixed at [I; 0].

    m (…, d, z); r (…, k, z), RᵀR = E = I − mᵀm, with k = min(z, h − d) rows, which is how the width h enters:
    the rank of E never changes along the flow. Float64; leading batch dimensions are independent runs.
    """

    m: Tensor
    r: Tensor
    time: float = 0.0


def frame_state(m: Tensor, rows: int, time: float = 0.0) -> FrameState:
    """[m; R] with R = the ``rows`` largest eigen-directions of (I − mᵀm)^{1/2}, then Y made orthonormal.

    Args:
        m: (…, d, z) with ‖m‖₂ ≤ 1 (up to 1e-6: float32 weights are cleaned up here).
        rows: min(z, h − d), the most that E = I − mᵀm can have as rank; 0 for h = d.

    Raises:
        UserError: if ‖m‖₂ > 1, or if m has not the d + z − h unit singular values that this width forces.
    """
    m = m.detach().to(torch.float64)
    z = m.shape[-1]
    eye = torch.eye(z, dtype=m.dtype, device=m.device)
    e, v = torch.linalg.eigh(eye - m.mT @ m)  # ascending; (…, z), (…, z, z)
    if float(e.min()) < -2e-4:
        raise UserError(
            f"‖q0‖₂ = {float((1 - e.min()).sqrt()):.6g} > 1 cannot come from orthonormal weights: "
            "divide q0 by its norm, torch.linalg.matrix_norm(q0, 2)"
        )
    forced = e[..., : z - rows]
    if forced.numel() and float(forced.max()) > 2e-4:
        raise UserError(
            f"with this width {z - rows} singular values of q0 must be 1, but 1 − σ² = {float(forced.max()):.3g}: "
            "take q0 = W1ᵀW2 of orthonormal weights of this width, or a larger hidden"
        )
    # Eigenvalues below rounding are zero: kept, they would grow like e^{8λt} in positive directions.
    e = torch.where(e < 1e-14, torch.zeros_like(e), e)
    r = e[..., z - rows :].sqrt()[..., :, None] * v[..., :, z - rows :].mT  # (…, rows, z)
    return normalise_frame(FrameState(m, r, time), iterations=4)


def normalise_frame(state: FrameState, iterations: int = 2) -> FrameState:
    """Nearest orthonormal frame (the polar factor) by Newton–Schulz: quadratic, for frames already close to one."""
    m, r = state.m, state.r
    for _ in range(iterations):
        gram = m.mT @ m + r.mT @ r  # (…, z, z)
        correction = -0.5 * gram
        correction.diagonal(dim1=-2, dim2=-1).add_(1.5)
        m, r = m @ correction, r @ correction
    return FrameState(m, r, state.time)


def frame_step(state: FrameState, dt: float, moment: Moment, kappa: float, depth: int = 2) -> FrameState:
    """One RK4 step of `frame_flow` with polar projection: local error O(dt⁵), exact structure.

    For a `LossGradient` one of `loss_frame_flow`, of that gradient's order.
    """
    if isinstance(moment, LossGradient):
        return runge_kutta(
            lambda m, r: loss_frame_flow(m, r, 2 * (moment @ m), kappa, depth), state, dt, moment.tableau
        )
    # Written out, not `runge_kutta`: its sums round otherwise, and the rows of runs stay what they were bit for bit.
    m, r = state.m, state.r

    def velocity(m: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return frame_flow(m, r, moment, kappa, depth)

    a, ra = velocity(m, r)
    b, rb = velocity(m + (dt / 2) * a, r + (dt / 2) * ra)
    c, rc = velocity(m + (dt / 2) * b, r + (dt / 2) * rb)
    e, re = velocity(m + dt * c, r + dt * rc)
    m = m + (dt / 6) * (a + 2 * (b + c) + e)
    r = r + (dt / 6) * (ra + 2 * (rb + rc) + re)
    return normalise_frame(FrameState(m, r, state.time + dt))


def runge_kutta(velocity: FrameVelocity, state: FrameState, dt: float, method: Tableau = RK4) -> FrameState:
    """One step of (ṁ, Ṙ) = velocity(m, R) with polar projection."""
    m, r, rates = state.m, state.r, [velocity(state.m, state.r)]
    for fraction in method.fractions[1:]:
        dm, dr = rates[-1]
        rates.append(velocity(m + fraction * dt * dm, r + fraction * dt * dr))
    for weight, (dm, dr) in zip(method.weights, rates, strict=True):
        m, r = m + weight * dt * dm, r + weight * dt * dr
    return normalise_frame(FrameState(m, r, state.time + dt))


def frame_from_weights(w1: Tensor, w2: Tensor) -> FrameState:
    """[q; R] with q = W1ᵀW2 and R a z-column factor of the part of W2 outside W1's range."""
    q = w1.mT @ w2
    outside = w2 - w1 @ q  # (…, h, z), rank ≤ h − d
    rows = min(w2.shape[-1], w1.shape[-2] - w1.shape[-1])
    if rows == 0:
        return normalise_frame(FrameState(q, q[..., :0, :]), iterations=5)
    _, s, vh = torch.linalg.svd(outside, full_matrices=False)
    r = s[..., :rows, None] * vh[..., :rows, :]
    return normalise_frame(FrameState(q, r), iterations=5)


def check_feasible(hidden: int, features: int, embedding: int) -> None:
    """W1ᵀW1 = I_d needs h ≥ d and W2ᵀW2 = I_z needs h ≥ z; raises UserError naming the override."""
    if hidden < features:
        raise UserError(
            f"orthogonal W1 (h×d) needs h ≥ d, got h={hidden}, d={features}: "
            f"set model.hidden={features} or data.pca={hidden}"
        )
    if hidden < embedding:
        raise UserError(
            f"orthogonal W2 (h×z) needs h ≥ z, got h={hidden}, z={embedding}: "
            f"set model.hidden={embedding} or model.embedding={hidden}"
        )


def check_orthonormal(w: Tensor, name: str, shape_message: str | None = None) -> None:
    """Raise UserError unless the columns of w (…, h, p) are orthonormal to 1e-2."""
    if w.shape[-2] < w.shape[-1]:
        raise UserError(shape_message or f"{name} of shape {tuple(w.shape)} cannot have orthonormal columns")
    eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    residual = float((w.mT @ w - eye).abs().max())
    if not residual < _ORTHONORMAL:
        raise UserError(
            f"{name}ᵀ{name} differs from the identity by {residual:.3g}: start from orthonormal weights, "
            "for example torch.linalg.qr(W).Q"
        )
