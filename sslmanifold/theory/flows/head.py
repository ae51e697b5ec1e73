"""One linear layer u = mᵀx on features: the flows of a head, orthonormal or free."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.orthogonal import OrthogonalFlow
from sslmanifold.theory.frame import FrameState, check_orthonormal, frame_state
from sslmanifold.theory.moment_product import Moment, moment_product


class OrthogonalHeadFlow(OrthogonalFlow):
    """ṁ = −2(I − mmᵀ)Cm on St(d, z), Oja's flow, for every κ: mᵀCm is symmetric, so the κ-term vanishes.

    span m(t) = span e^{−2Ct} m(0). The equation is that of orthonormal rows in two layers.
    """

    name = "orthogonal head"

    def __init__(self, moment: Moment) -> None:
        super().__init__(moment, 0.0, rows=True)

    def start(self, *weights: Tensor) -> FrameState:
        """State of the one m (…, d, z) with mᵀm = I; UserError where it is not."""
        m = _only(weights)
        check_orthonormal(m, "W", f"orthogonal W (d×z) needs d ≥ z, got d={m.shape[-2]}, z={m.shape[-1]}")
        return frame_state(m, rows=0)


class MapState(NamedTuple):
    """The map m (…, d, z) of one layer, float64, at time Σ lr."""

    m: Tensor
    time: float = 0.0


class FreeHeadFlow(Flow[MapState]):
    """ṁ = −2Cm, m(t) = e^{−2Ct} m(0): one free layer grows along negative eigenvalues and never blows up."""

    name = "free head"
    rate = 2.0

    def start(self, *weights: Tensor) -> MapState:
        """State of the one m (…, d, z)."""
        return MapState(_only(weights))

    def _step(self, state: MapState, dt: float, moment: Moment) -> MapState:
        # RK4 of a linear equation: the exponential's series to fourth order
        term, m = state.m, state.m
        for order in range(1, 5):
            term = moment_product(moment, term) * (-2 * dt / order)
            m = m + term
        return MapState(m, state.time + dt)


def _only(weights: tuple[Tensor, ...]) -> Tensor:
    if len(weights) != 1:
        raise UserError(f"a head has one weight (…, d, z), got {len(weights)}: give m alone")
    return weights[0].detach().double()
