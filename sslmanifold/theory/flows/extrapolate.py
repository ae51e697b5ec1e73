"""Flows whose constraint is a projection with kinks: step as training does, then extrapolate the step away.

Where singular values reach a cap, tie and leave it, a Runge–Kutta step has no fixed active set to work with.
The step here is the one that training makes (move, then project: Moreau's catching-up scheme), exactly, in
width-free variables; it is first order whatever the ties. Two solutions, of steps dt and dt/2, are carried
side by side and 2·fine − coarse (Richardson) is second order.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.moment_product import Moment


class Layers(Protocol):
    """The width-free state of one solution: anything with the map m (…, d, z)."""

    @property
    def m(self) -> Tensor: ...


L = TypeVar("L", bound=Layers)


class ExtrapolatedState(NamedTuple, Generic[L]):
    """Two solutions, of step dt and of step dt/2; the state is their extrapolation."""

    coarse: L
    fine: L
    time: float = 0.0

    @property
    def m(self) -> Tensor:
        """The map (…, d, z), 2·fine − coarse."""
        return 2 * self.fine.m - self.coarse.m


class ExtrapolatedFlow(Flow[ExtrapolatedState[L]], Generic[L]):
    """Base of the flows that are stepped by their own training step."""

    holds_gram = True
    # One step (three training steps' work) at the default learning rate 1/(20‖C‖).
    step_limit = 0.22
    at_rest = 5e-13  # two eigenproblems a step

    def start(self, *weights: Tensor) -> ExtrapolatedState[L]:
        """State of W1 (…, h, d), W2 (…, h, z) at time 0, any widths, put on the constraint first; of a head's one W."""
        layers = self._begin(*weights)
        return ExtrapolatedState(layers, layers)

    @abstractmethod
    def _begin(self, *weights: Tensor) -> L:
        """The solution's state at the start, projected onto the constraint."""

    @abstractmethod
    def _move(self, layers: L, dt: float, moment: Moment) -> L:
        """One training step of size dt: every layer along its gradient at once, then projected."""

    def _moved(self, before: ExtrapolatedState[L] | None, after: ExtrapolatedState[L]) -> float:
        """Of both solutions: their difference cancels noise that neither has settled."""
        if before is None:
            return float(after.fine.m.abs().max())
        pairs = ((before.coarse, after.coarse), (before.fine, after.fine))
        return max(float((b.m - a.m).abs().max()) for a, b in pairs)

    def _looked_at(self, state: ExtrapolatedState[L]) -> Tensor:
        return state.fine.m

    def _step(self, state: ExtrapolatedState[L], dt: float, moment: Moment) -> ExtrapolatedState[L]:
        middle = self._move(state.fine, dt / 2, moment)
        return ExtrapolatedState(
            self._move(state.coarse, dt, moment), self._move(middle, dt / 2, moment), state.time + dt
        )
