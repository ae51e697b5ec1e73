"""The interface of a constraint's exact dynamics, and the error that ends the unconstrained one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.gradient import LossGradient, loss_at
from sslmanifold.theory.moment_product import (
    Moment,
    as_moment,
    estimate_norm,
    moment_features,
    spectral_norm,
)
from sslmanifold.theory.moment_spectrum import eigenvalues
from sslmanifold.theory.state import State
from sslmanifold.theory.trajectory import Trajectory

S = TypeVar("S", bound=State)

# How many sub-steps apart two looks are that tell whether a flow still moves.
_LOOK_EVERY = 128
# The longest that one `advance` goes without arriving, in sub-steps: minutes.
_LONGEST = 200_000


class FlowBlowUp(ArithmeticError):
    """The solution leaves every bound at a finite time, as the unconstrained flow does when λ1 < 0.

    Attributes:
        time: the blow-up time (Σ lr units), counted from the state that was started.
    """

    def __init__(self, time: float) -> None:
        super().__init__(f"the flow blows up at t = {time:.6g}: no solution exists beyond")
        self.time = time


class Flow(ABC, Generic[S]):
    """Exact, width-free gradient flow of the map m = W1ᵀW2 under one constraint, in float64.

    Time is Σ lr of gradient descent on the loss as differentiated: training with step η follows the flow up
    to O(η). Every tensor may carry leading batch dimensions (independent runs).

    Args:
        moment: C of Eq. 7 as differentiated: dense (d, d), its eigenvalues (d,) when m is in C's eigenbasis,
            or an operator that multiplies. Or a `LossGradient`, for any other loss of a linear map: every constraint
            has one flow, C m in it standing for ½ ∂L/∂m.
    """

    name: str
    # Whether a state holds d×d matrices, which is what d is limited by.
    holds_gram = False
    # Sub-steps keep dt·‖C‖·rate below this: RK4 then errs 1e-3 of what a training step of that size does, or
    # less.
    step_limit = 0.25
    rate = 4.0
    # A state that moves by less than this between two looks, twice in a row, relative to its size when `advance`
    # began, has arrived to rounding.
    at_rest = 1e-14

    def __init__(self, moment: Moment) -> None:
        self.moment: Moment = as_moment(moment)
        self._norm = 0.0

    @abstractmethod
    def start(self, *weights: Tensor) -> S:
        """State of W1 (…, h, d), W2 (…, h, z) at time 0; raises UserError for weights that break the constraint."""

    @abstractmethod
    def _step(self, state: S, dt: float, moment: Moment) -> S:
        """One step short enough to be accurate."""

    def advance(self, state: S, dt: float, moment: Moment | None = None) -> S:
        """State after dt more, dt ≥ 0, sub-stepped so that its error is far below that of a training step of size dt.

        A flow that has arrived to rounding is left where it is, so that the cost of a long dt is that of the way
        there: ‖C‖ over the smallest gap that decides it.

        ``moment`` replaces C during this step: give each step's realised C to follow minibatch training.

        Raises:
            FlowBlowUp: when the solution does not exist that long (the unconstrained flow with λ1 < 0).
            UserError: dt out of range, or so long that the flow neither arrives nor ends within minutes.
        """
        if not (math.isfinite(dt) and dt >= 0):
            raise UserError(f"dt={dt} must be finite and ≥ 0: give the step's learning rate")
        if dt == 0:
            return state
        if moment is None:
            moment = self.moment
        if isinstance(moment, LossGradient):
            norm = moment.norm(self._looked_at(state))
        elif moment is self.moment:
            if self._norm == 0.0:
                self._norm = spectral_norm(moment)
            norm = self._norm
        else:
            norm = estimate_norm(moment)
        left, taken, looked, still = dt, 0, state, 0
        scale = max(self._moved(None, state), 1e-300)
        while left > 0:
            # Recounted each time: the unconstrained flow gets faster as it goes.
            steps = max(1, math.ceil(left * norm * self._stiffness(state) / self.step_limit - 1e-9))
            if steps > 1 and taken and isinstance(moment, LossGradient):
                norm = moment.norm(self._looked_at(state))  # curvature changes on the way
            size = left / steps
            state = self._step(state, size, moment)
            left = 0.0 if steps == 1 else left - size
            taken += 1
            if taken % _LOOK_EVERY == 0 and left > 0:
                moved, looked = self._moved(looked, state), state
                still = still + 1 if moved <= self.at_rest * scale else 0
                if still == 2:
                    return cast(Any, state)._replace(time=state.time + left)
                if taken >= _LONGEST:
                    raise UserError(
                        f"the flow of {self.name} is still under way at t = {state.time:.4g}, after {taken:,} steps "
                        f"of {size:.2g}: eigenvalues of C this close together take longer than t = {dt:.4g} is "
                        f"worth waiting for; ask for a time up to {state.time:.2g}"
                    )
        return state

    def drive(self, moment: Moment) -> None:
        """From now on by this C, or this loss: what `advance` and `loss` take where they are given none."""
        self.moment, self._norm = as_moment(moment), 0.0

    def _moved(self, before: S | None, after: S) -> float:
        """Largest change of an entry of the map; its largest entry without ``before``."""
        return float((after.m if before is None else after.m - before.m).abs().max())

    def _looked_at(self, state: S) -> Tensor:
        """The map that the next step evaluates a gradient at anyway."""
        return state.m

    def _stiffness(self, state: S) -> float:
        """Fastest rate of the flow at this state, per ‖C‖."""
        return self.rate

    def loss(self, state: S) -> Tensor:
        """The objective as differentiated, Tr(mᵀ C m) (Eq. 8) unless the constraint rescales it: (…)."""
        return loss_at(self.moment, state.m)

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor | None:
        """Smallest loss L* that the constraint allows; None where there is none (unconstrained)."""
        return None

    def trajectory(self, state: S, times: Tensor | Iterable[float]) -> Trajectory:
        """Trajectory from `state` (at time 0) at ascending times ≥ 0: .times (T,), .q (T, …, d, z)."""
        points = as_times(times)
        maps, now = [], 0.0
        for t in points.tolist():
            state = self.advance(state, t - now)
            maps.append(state.m)
            now = t
        return Trajectory(points, torch.stack(maps), self.name)

    @property
    def features(self) -> int:
        """d."""
        return moment_features(self.moment)

    def _lowest(self, count: int) -> Tensor:
        """The ``count`` smallest eigenvalues of C, ascending (…, count)."""
        moment: Any = self.moment
        if isinstance(moment, LossGradient):
            raise UserError(
                f"the smallest loss under {self.name} is known for Tr(mᵀCm) alone: give the flow a C"
            )
        if not isinstance(moment, Tensor):
            return moment.eigenpairs(count)[0]
        if moment.ndim == 1:
            return moment.sort().values[:count]
        return eigenvalues(moment)[..., :count]


def as_times(times: Tensor | Iterable[float]) -> Tensor:
    """(T,) float64, checked to be finite, ≥ 0 and ascending."""
    points = (
        torch.as_tensor(times if isinstance(times, Tensor) else list(times), dtype=torch.float64)
        .flatten()
        .cpu()
    )
    if points.numel() == 0:
        raise UserError("no times: give at least one, for example times=[0.0, 1.0]")
    if not torch.isfinite(points).all() or bool((points < 0).any()) or bool((points.diff() < 0).any()):
        raise UserError("times must be finite, ≥ 0 and ascending (time 0 is where the flow starts)")
    return points


def pack(state: Any) -> Any:
    """The tensors and numbers of a state, (nested) named tuples as lists."""
    if isinstance(state, tuple | list):
        return [pack(part) for part in state]
    return state.detach().clone() if isinstance(state, Tensor) else state


def unpack(packed: Any, like: Any) -> Any:
    """The state that was packed, rebuilt in the types of ``like``, any state of the same flow.

    Tensors and numbers may differ from ``like``'s in value and shape, tuples may not in their nesting.
    """
    if isinstance(like, tuple):
        # a plain tuple is a row of parts of one kind, a named one has its fields
        parts = [unpack(part, template) for part, template in zip(packed, like, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
    return packed
