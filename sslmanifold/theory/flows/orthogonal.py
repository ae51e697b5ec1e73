"""The flow under orthogonality (Theorem 2 and its κ-family), integrated on a single orthonormal frame."""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.limits import optimum
from sslmanifold.theory.moment_product import Moment
from sslmanifold.theory.state import FrameState, as_weights, frame_state, normalise_frame
from sslmanifold.theory.velocities import frame_flow, kappa_of, row_flow

# How far start() lets weights be from orthonormal: float32 or float16-mixed training passes, a mistake does
# not.
_ORTHONORMAL = 1e-2


class OrthogonalFlow(Flow[FrameState]):
    """q̇ = −4Cq + (2 − κ)Cq qᵀq + (2 + κ) q qᵀCq (Eq. 9, Theorem 2) for W1ᵀW1 = I_d, W2ᵀW2 = I_z.

    Integrated as the frame Y = [q; R], YᵀY = I (`frame_flow`), by RK4 and a polar projection: ‖q‖₂ ≤ 1 and
    the rank of E = I − qᵀq hold exactly for all time, also where q alone is unstable (h = d and h < d + z −
    m).

    Args:
        moment: C, see `Flow`.
        kappa: κ, or a metric's name (grassmann 0, euclidean 1, canonical 2).
        rows: W1W1ᵀ = I_h instead (h < d), κ = 0 only: q̇ = −2(I − qqᵀ)Cq with qᵀq = I.

    Raises:
        UserError: rows with κ ≠ 0, whose flow does not close on q.
    """

    name = "orthogonal"

    def __init__(self, moment: Moment, kappa: float | str = 0.0, rows: bool = False) -> None:
        super().__init__(moment)
        self.kappa = kappa_of(kappa)
        self.rows = rows
        self.depth = 2
        if rows and self.kappa != 0:
            raise UserError(
                "orthonormal rows of W1 have a width-free flow for κ = 0 only: set metric=grassmann"
            )

    def start(self, *weights: Tensor) -> FrameState:
        """State of orthonormal W1 (…, h, d), W2 (…, h, z); UserError where WᵀW is not the identity or h is
        too small.
        """
        w1, w2 = as_weights(*weights)
        h, d, z = w1.shape[-2], w1.shape[-1], w2.shape[-1]
        if self.rows:
            check_orthonormal(w1.mT, "W1ᵀ", f"rows=True needs h ≤ d, got h={h}, d={d}")
            check_orthonormal(w2, "W2", f"orthogonal W2 (h×z) needs h ≥ z, got h={h}, z={z}")
            return frame_state(w1.mT @ w2, rows=0)
        check_feasible(h, d, z)
        check_orthonormal(w1, "W1")
        check_orthonormal(w2, "W2")
        return frame_from_weights(w1, w2)

    def _step(self, state: FrameState, dt: float, moment: Moment) -> FrameState:
        if self.rows:
            return _rk4_rows(state, dt, moment)
        return frame_step(state, dt, moment, self.kappa, self.depth)

    @property
    def rate(self) -> float:  # type: ignore[override]
        """Fastest rate per ‖C‖: the larger of 4 + c and 2 + κ + c."""
        return max(4.0, 2.0 + self.kappa) + (self.depth - 2) * self.kappa

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """L* = Σ_{i ≤ max(min(z, m), d + z − h)} λ_i; with rows=True all z smallest eigenvalues are used."""
        if self.rows:
            return self._lowest(embedding).sum(-1)
        forced = 0 if hidden is None else max(0, self.features + embedding - hidden)
        return optimum(self._lowest(max(embedding, forced)), embedding, forced=forced)


def frame_step(state: FrameState, dt: float, moment: Moment, kappa: float, depth: int = 2) -> FrameState:
    """One RK4 step of `frame_flow` with polar projection: local error O(dt⁵), exact structure."""
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


def _rk4_rows(state: FrameState, dt: float, moment: Moment) -> FrameState:
    m = state.m
    a = row_flow(m, moment)
    b = row_flow(m + (dt / 2) * a, moment)
    c = row_flow(m + (dt / 2) * b, moment)
    e = row_flow(m + dt * c, moment)
    return normalise_frame(FrameState(m + (dt / 6) * (a + 2 * (b + c) + e), state.r, state.time + dt))


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
