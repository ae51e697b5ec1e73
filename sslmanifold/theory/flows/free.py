"""No constraint: the flow that blows up in finite time, and when."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslmanifold.theory.flows.base import FlowBlowUp
from sslmanifold.theory.flows.gram import Generators, GramFlow, LowRankUpdated
from sslmanifold.theory.moment_product import Moment, moment_product, spectral_norm
from sslmanifold.theory.state import GramState

# Growth of the Gram matrices beyond which what is left of the time is below rounding.
_LARGE = 1e12


class FreeFlow(GramFlow):
    """ṁ = −2 C m H2 − 2 H1 C m, Ḣ1 = −2(m mᵀC + C m mᵀ), Ḣ2 = −4 mᵀ C m (any widths).

    With λ1 < 0 it generically leaves every bound at a finite time (`FlowBlowUp` from `advance`, carrying the
    time) and normalised it collapses to rank 1 (Prop. 1). W1W1ᵀ − W2W2ᵀ is conserved.
    """

    name = "none"

    def _generators(self, m: Tensor, h1: LowRankUpdated, h2: Tensor, moment: Moment) -> Generators:
        return Generators(-2 * moment_product(moment, m))

    def _step(self, state: GramState, dt: float, moment: Moment) -> GramState:
        size = float(state.h2.diagonal(dim1=-2, dim2=-1).sum(-1).max()) + float(state.m.abs().max())
        if not size < _LARGE:
            raise FlowBlowUp(state.time + dt / self.step_limit)
        return super()._step(state, dt, moment)


def blow_up_time(moment: Moment, w1: Tensor, w2: Tensor, *, horizon: float | None = None) -> float:
    """Time (Σ lr) at which the unconstrained flow from W1 (h, d), W2 (h, z) leaves every bound; inf if it does not.

    inf is returned when the gradient vanishes, or nothing has happened by ``horizon`` (default 1e4/(‖C‖₂
    ‖m‖₂)). With leading batch dimensions, the earliest. (Balanced rank 1 along v1: T = 1/(4|λ1| |m|)
    exactly.)
    """
    flow = FreeFlow(moment)
    flow.step_limit = 0.06  # the time of the blow-up to 1e-6
    state = flow.start(w1, w2)
    norm = spectral_norm(flow.moment)
    size = float(torch.linalg.matrix_norm(state.m, 2).max())
    if norm == 0 or size == 0:
        return math.inf
    horizon = 1e4 / (norm * size) if horizon is None else horizon
    chunk = 1 / (norm * flow._stiffness(state))
    try:
        while state.time < horizon:
            state = flow.advance(state, chunk)
            gradient = float(moment_product(flow.moment, state.m).norm())
            if gradient <= 1e-14 * norm * size:
                return math.inf
            chunk *= 1.5
    except FlowBlowUp as blow_up:
        return blow_up.time
    return math.inf
