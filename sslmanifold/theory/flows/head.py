"""One linear layer u = mᵀx: the flows of a head, orthonormal or free, for C or for any loss.

Those of a head in a ball, and of its scaled loss, stand with the flows of two such layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.orthogonal import OrthogonalFlow
from sslmanifold.theory.frame import FrameState, check_orthonormal, frame_state, runge_kutta
from sslmanifold.theory.gradient import LossGradient, tableau
from sslmanifold.theory.moment_product import Moment, moment_product
from sslmanifold.theory.velocities import kappa_of, lifted_velocity


class OrthogonalHeadFlow(OrthogonalFlow):
    """Ẇ = −[(I − WWᵀ)G + κ W skew(WᵀG)] on St(d, z), m = W, G = ∂L/∂m.

    For Tr(mᵀCm), and every loss that does not see rotations of the output, WᵀG is symmetric and κ drops out: Oja's
    flow Ẇ = −2(I − WWᵀ)CW, with span W(t) = span e^{−2Ct} W(0). (The equation of orthonormal rows in two layers.)

    Args:
        moment: C, see `Flow`.
        kappa: κ, or a metric's name.
    """

    name = "orthogonal head"

    def __init__(self, moment: Moment, kappa: float | str = 0.0) -> None:
        super().__init__(moment, 0.0, rows=True)
        self.head_kappa = kappa_of(kappa)

    def start(self, *weights: Tensor) -> FrameState:
        """State of the one m (…, d, z) with mᵀm = I; UserError where it is not."""
        m = only_weight(weights)
        check_orthonormal(m, "W", f"orthogonal W (d×z) needs d ≥ z, got d={m.shape[-2]}, z={m.shape[-1]}")
        return frame_state(m, rows=0)

    def _step(self, state: FrameState, dt: float, moment: Moment) -> FrameState:
        if not isinstance(moment, LossGradient):
            return super()._step(state, dt, moment)

        def velocity(m: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
            return lifted_velocity(m, 2 * (moment @ m), self.head_kappa), r

        return runge_kutta(velocity, state, dt, moment.tableau)


class MapState(NamedTuple):
    """The map m (…, d, z) of one layer, float64, at time Σ lr."""

    m: Tensor
    time: float = 0.0


class HeadFlow(Flow[MapState]):
    """Base of the flows of one layer that the map alone is the state of: RK4 (`tableau`)."""

    rate = 2.0

    def start(self, *weights: Tensor) -> MapState:
        """State of the one m (…, d, z) at time 0, put on the constraint first."""
        return MapState(self._feasible(only_weight(weights)))

    def _feasible(self, m: Tensor) -> Tensor:
        """The nearest map that the constraint allows."""
        return m

    @abstractmethod
    def _velocity(self, start: Tensor, moment: Moment) -> Callable[[Tensor], Tensor]:
        """m ↦ ṁ, both (…, d, z), within a step from ``start``."""

    def _step(self, state: MapState, dt: float, moment: Moment) -> MapState:
        velocity, method = self._velocity(state.m, moment), tableau(moment)
        rates: list[Tensor] = []
        for fraction in method.fractions:
            rates.append(velocity(state.m + fraction * dt * rates[-1] if rates else state.m))
        m = state.m
        for weight, rate in zip(method.weights, rates, strict=True):
            m = m + weight * dt * rate
        return MapState(m, state.time + dt)


class FreeHeadFlow(HeadFlow):
    """ṁ = −∂L/∂m; for C m(t) = e^{−2Ct} m(0): one free layer grows along negative eigenvalues and never blows up."""

    name = "free head"

    def _velocity(self, start: Tensor, moment: Moment) -> Callable[[Tensor], Tensor]:
        return lambda m: -2 * moment_product(moment, m)


def only_weight(weights: tuple[Tensor, ...]) -> Tensor:
    """A copy of the one weight of a head, float64; UserError for more."""
    if len(weights) != 1:
        raise UserError(f"a head has one weight (…, d, z), got {len(weights)}: give m alone")
    return weights[0].detach().to(torch.float64, copy=True)  # training moves its own in place
