"""The flow under orthogonality (Theorem 2 and its κ-family), integrated on a single orthonormal frame."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow, as_times
from sslmanifold.theory.frame import (
    FrameState,
    check_feasible,
    check_orthonormal,
    frame_from_weights,
    frame_state,
    frame_step,
    runge_kutta,
)
from sslmanifold.theory.gradient import tableau
from sslmanifold.theory.limits import optimum
from sslmanifold.theory.moment_product import Moment, spectral_norm
from sslmanifold.theory.moment_spectrum import eigenbasis
from sslmanifold.theory.solve import oja, solve_frame
from sslmanifold.theory.state import as_weights
from sslmanifold.theory.velocities import kappa_of, row_flow

# Sub-steps beyond which the spectrum of C is worth finding.
_LONG = 1000


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

    def advance(self, state: FrameState, dt: float, moment: Moment | None = None) -> FrameState:
        # the spectrum costs more than a step: asked for where the time is long, and not before
        if moment is None and math.isfinite(dt) and isinstance(self.moment, Tensor):
            if self._norm == 0.0:
                self._norm = spectral_norm(self.moment)
            if dt * self._norm * self.rate > _LONG * self.step_limit and self._known_spectrum() is not None:
                at, _ = self.at(state, [dt])
                return FrameState(at.m[0], at.r[0], state.time + dt)
        return super().advance(state, dt, moment)

    def at(self, state: FrameState, times: Tensor | Iterable[float]) -> tuple[FrameState, str]:
        """m (T, …, d, z) and R (T, …, k, z) at ascending times after ``state``, and the method: closed form or DOP853.

        In C's eigenbasis, O(d z²) an evaluation, at a cost that does not grow with the time (`solve`).

        Raises:
            UserError: where C is known by its products alone, or differs between runs.
        """
        spectrum = self._known_spectrum()
        if spectrum is None:
            raise UserError(
                "C's spectrum is not known: advance() step by step, or give C as one (d, d) matrix"
            )
        eigvals, eigvecs = spectrum
        points, place = torch.unique_consecutive(as_times(times), return_inverse=True)
        q = state.m if eigvecs is None else eigvecs.mT @ state.m
        if self.rows:
            frames, method = oja(FrameState(q, state.r), eigvals, points / 2), "closed_form"
        else:
            frames, method = solve_frame(
                FrameState(q, state.r), eigvals, points, kappa=self.kappa, depth=self.depth
            )
        m = frames.m if eigvecs is None else eigvecs @ frames.m
        place = place.to(m.device)
        return FrameState(m[place], frames.r[place], state.time + float(points[-1])), method

    def _known_spectrum(self) -> tuple[Tensor, Tensor | None] | None:
        """Eigenvalues (d,), and eigenvectors unless C is diagonal already; None for operators and batches of C."""
        moment = self.moment
        if not isinstance(moment, Tensor) or moment.ndim > 2:
            return None
        return (moment, None) if moment.ndim == 1 else eigenbasis(moment)

    def _step(self, state: FrameState, dt: float, moment: Moment) -> FrameState:
        if self.rows:
            return runge_kutta(
                lambda m, r: (row_flow(m, moment), r.new_zeros(r.shape)), state, dt, tableau(moment)
            )
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
