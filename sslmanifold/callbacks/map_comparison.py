"""The constraint's exact flow beside the training of sslmanifold's own module, map against map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.callbacks.driving_loss import DrivingLoss
from sslmanifold.callbacks.effective_step import (
    EffectiveStep,
    counted_otherwise,
    not_gradient_steps,
    outside_the_flow,
)
from sslmanifold.callbacks.observer import Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.errors import UserError, notice
from sslmanifold.metrics import subspace_distance
from sslmanifold.theory.flows.base import Flow, FlowBlowUp, pack, unpack
from sslmanifold.theory.flows.clocks import OwnClocks
from sslmanifold.theory.gradient import LossGradient, Unfinished
from sslmanifold.theory.moment_product import LARGEST_MOMENT

_TINY = torch.finfo(torch.float64).tiny


class MapComparison:
    """What :class:`~sslmanifold.callbacks.ode.ODEComparison` does in sslmanifold's own module.

    Args:
        approximate, follow, every: see there.

    Raises:
        UserError: before the first step, for a comparison that was asked for and that the run cannot have.
    """

    def __init__(self, approximate: bool | str, follow: str, every: int) -> None:
        self.approximate, self.follow, self.every = approximate, follow, every
        self.absent = ""  # why there is no flow to compare with
        self.departures: list[str] = []  # what is in the training and not in the flow
        self.time: float | Tensor = 0.0
        self.effective_step = EffectiveStep()
        self.flow: Flow | None = None
        self.state: Any = None
        self.blow_up_time: float | None = None
        self.unfinished_at: int | None = None  # the step at which the flow was given up
        self._clipped = False
        self._resumed: dict[str, Any] | None = None
        self._driving: DrivingLoss | None = None
        self._pending: float | Tensor = 0.0  # time of the steps since the flow was last advanced
        self._module: Recorded | None = None
        self._deviation: Tensor | None = None
        self._deviation_max: Tensor | None = None

    def begin(self, trainer: Any, module: Recorded) -> None:
        """The flow from the run's initial weights, or from where a resumed run had taken it."""
        self._module = module
        flow = self._flow(trainer, module)
        if flow is None:
            return
        if self._clipped and module.network.replicas > 1:
            flow = OwnClocks(flow)  # each replica is clipped by itself
        self.flow = flow
        start = flow.start(*(weight.detach().double().cpu() for weight in module.network.weights))
        if self._resumed is None:
            self.state = start
        else:  # a resumed run brings its state along; None once the flow has blown up
            self.state = None if self._resumed["state"] is None else unpack(self._resumed["state"], start)
            self._pending = self._resumed.get("pending", 0.0)
            self._driving.load_state_dict(self._resumed.get("driving"))  # type: ignore[union-attr]
            self._resumed = None
        points = module.points.double().cpu()
        # ‖X Δ‖_F through XᵀX where that is the smaller matrix
        self._gram = points.mT @ points if points.shape[0] > points.shape[1] else None
        self._points = points
        self._compare(module)

    def after_step(self, trainer: Any, module: Recorded) -> None:
        """Count the time of the step just taken, and compare where that is due."""
        if self.flow is None or self.state is None or module.diverged_at is not None:
            return
        if not module.stepped:  # gradients are being accumulated
            return
        factor = 1.0 if module.step_factor is None else module.step_factor.cpu()
        step = self.effective_step(trainer.optimizers[0], module.last_lr, factor)
        step = float(step) if isinstance(step, Tensor) and step.numel() == 1 else step
        self.time, self._pending = self.time + step, self._pending + step
        if module.steps_done % self.every and module.steps_done % trainer.log_every_n_steps:
            return
        self._advance(module)

    @staticmethod
    def _unfinished() -> str:
        return (
            "the loss changes there faster than a training step can see, and following it takes many times the "
            "training (losses on the unit sphere: loss.normalize=false; or a smaller optimizer.lr)"
        )

    def end(self, module: Recorded) -> None:
        """The last row is that of the last step."""
        going_on = self.flow is not None and self.state is not None and module.diverged_at is None
        if self.every > 1 and going_on:
            self._advance(module)

    def _advance(self, module: Recorded) -> None:
        """Take the flow to the time of the training, and compare."""
        assert self.flow is not None
        assert self._driving is not None
        step, self._pending = self._pending, 0.0
        moment = self._driving.of_step(module)
        if moment is not None and isinstance(moment, LossGradient):
            self.flow.drive(moment)
        self._driving.allow(module.steps_done)
        try:
            self.state = self.flow.advance(self.state, step, moment)  # type: ignore[arg-type]
        except Unfinished:
            self.state, self.unfinished_at, self._deviation = None, module.steps_done, None
            notice(
                f"the comparison with the exact dynamics ends at step {module.steps_done}: {self._unfinished()}"
            )
            return
        except FlowBlowUp as blow_up:
            self.state, self.blow_up_time = None, float(blow_up.time)
            self._deviation = None
            return
        self._compare(module)

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        if self.flow is None:
            return {}
        values = {"ode/time": torch.as_tensor(self.time, dtype=torch.float64)}
        if self.state is None or self._deviation is None or self._deviation_max is None:
            return values
        values["ode/deviation"] = self._deviation
        values["ode/deviation_max"] = self._deviation_max
        if snapshot.map is not None:
            values["ode/subspace_distance"] = subspace_distance(snapshot.map, self.state.m)
        loss = self._objective(snapshot)
        if loss is not None:
            expected = self.flow.loss(self.state)
            values["ode/loss_gap"] = (loss.double().cpu() - expected) / expected.abs().clamp_min(_TINY)
        return values

    def _objective(self, snapshot: Snapshot) -> Tensor | None:
        """The objective at the trained weights, (S,): of a linear network by what drives the flow."""
        if not snapshot.linear or snapshot.map is None:
            return snapshot.loss
        assert self._driving is not None
        assert self._module is not None
        weights = [weight.detach().double().cpu() for weight in snapshot.weights]
        return self._module.constraint.objective(self._driving.loss(snapshot.map), weights)

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """The flow's map and loss, (S, d, z) and (S,), NaN once the flow has blown up."""
        if self.flow is None:
            return {}
        if self.state is None:
            m = torch.full_like(snapshot.map, torch.nan)  # type: ignore[arg-type]
            return {"ode_m": m.numpy(), "ode_loss": torch.full(m.shape[:1], torch.nan).double().numpy()}
        return {"ode_m": self.state.m.numpy(), "ode_loss": self.flow.loss(self.state).numpy()}

    def summary(self) -> dict[str, object]:
        entries: dict[str, object] = {}
        if self.absent:
            entries["ode/meaning"] = f"absent: {self.absent}"
        if self.flow is not None:
            entries["ode/flow"] = self.flow.name
            meaning = []
            assert self._module is not None
            assert self._driving is not None
            if not self._module.network.linear:
                meaning.append("nonlinear network against the linear flow: Conjecture 1")
            if self._driving.follows_batches:
                meaning.append("the flow follows the realised batches")
            if self._driving.follows_draws:
                meaning.append("the flow is given the loss that was drawn for each step")
            meaning += self._driving.rough()
            if self._clipped:
                meaning.append("a clipped step takes the time of its clipped length")
            if self.unfinished_at is not None:
                meaning.append(f"the flow was given up at step {self.unfinished_at}: {self._unfinished()}")
            if self.departures:
                meaning.append(f"approximate: {'; '.join(self.departures)}")
            if meaning:
                entries["ode/meaning"] = "; ".join(meaning)
        if self.blow_up_time is not None:
            entries["ode/blow_up_time"] = self.blow_up_time
        return entries

    def state_dict(self) -> dict[str, Any]:
        """The flow's state in plain containers, for a checkpoint."""
        if self.flow is None:
            return self._resumed or {}
        state = None if self.state is None else pack(self.state)
        return {
            "state": state,
            "blow_up_time": self.blow_up_time,
            "unfinished_at": self.unfinished_at,
            "deviation_max": self._deviation_max,
            "time": self.time,
            "momentum_weight": self.effective_step.weight,
            "momentum_started": self.effective_step.started,
            "pending": self._pending,
            "driving": None if self._driving is None else self._driving.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._resumed = state_dict
            self.blow_up_time = state_dict["blow_up_time"]
            self.unfinished_at = state_dict.get("unfinished_at")
            self._deviation_max = state_dict["deviation_max"]
            self.time = state_dict["time"]
            self.effective_step.weight = state_dict["momentum_weight"]
            started = state_dict.get("momentum_started")  # version 0.1 knew it by the weight
            self.effective_step.started = state_dict["momentum_weight"] != 0 if started is None else started

    def _flow(self, trainer: Any, module: Recorded) -> Flow | None:
        """The flow to compare with, None where there is none; says what is missing from it, or why there is none."""
        flow, optimizer = None, trainer.optimizers[0]
        # one step of the flow for one of training, or longer ones for many
        order = 2 if self.every == 1 else 4
        self._driving = DrivingLoss(module, self.follow, module.next_batch, order=order)
        self.absent = self._driving.absent
        if not self.absent:
            flow = module.constraint.flow(self._driving.moment, module.network.shape)
            if flow is None:
                layers = module.network.shape.layers
                self.absent = f"constraint={module.constraint.name} has no exact flow for {layers} layers"
            elif flow.holds_gram and module.network.shape.dim > LARGEST_MOMENT:
                d = module.network.shape.dim
                self.absent = (
                    f"the flow of constraint={module.constraint.name} holds matrices of {d} × {d} entries"
                )
            elif self.approximate is not True:
                self.absent = not_gradient_steps(optimizer)
        self.departures = [] if self.absent else self._departures(trainer, module)
        if module.steps_done == 0:  # what goes on has been accepted before
            self._refuse_what_was_asked_for()
        if trainer.is_global_zero and self.absent:
            notice(f"no comparison with the exact dynamics (callbacks.ode): {self.absent}")
        elif trainer.is_global_zero and self.departures:
            notice(f"the comparison with the exact dynamics is approximate: {'; '.join(self.departures)}")
        return None if self.absent else flow

    def _refuse_what_was_asked_for(self) -> None:
        """Raise where the options ask for a comparison that this run cannot have."""
        way_out = "leave it out, or ~callbacks.ode to drop the comparison"
        if self.absent and self.follow != "auto":
            raise UserError(f"callbacks.ode.follow={self.follow}: {self.absent}: {way_out}")
        lacking = self.absent or "; ".join(self.departures)
        if lacking and self.approximate is False:
            raise UserError(f"callbacks.ode.approximate=false: not in the flow: {lacking}: {way_out}")
        if self.every > 1 and not self.absent and self._driving is not None and self._driving.changes:
            raise UserError(
                f"callbacks.ode.every={self.every}: what drives the flow changes from step to step here (minibatches, "
                "resampled triplets, slices drawn anew): set callbacks.ode.every=1"
            )

    def _departures(self, trainer: Any, module: Recorded) -> list[str]:
        optimizer = trainer.optimizers[0]
        found = counted_otherwise(optimizer)
        outside = outside_the_flow(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        self._clipped = bool(trainer.gradient_clip_val) and not any("clipped" in words for words in outside)
        found += outside
        assert self._driving is not None
        if not module.full_batch and not self._driving.follows_batches:
            found.append(
                "the noise of minibatches or resampled triplets about callbacks.ode.follow=population"
            )
        return found

    def _norm(self, difference: Tensor) -> Tensor:
        """‖X Δ‖_F for Δ (S, d, z)."""
        if self._gram is not None:
            return (difference * (self._gram @ difference)).sum((-2, -1)).clamp_min(0).sqrt()
        return torch.linalg.matrix_norm(self._points @ difference)

    def _compare(self, module: Recorded) -> None:
        if self.state is None:
            return
        m = self.state.m
        if module.network.linear:
            gap = self._norm(module.map() - m)
        else:
            gap = torch.linalg.matrix_norm(module.embedding() - self._points @ m)
        if self._driving is not None:
            self._driving.watch(m)
        self._deviation = gap / self._norm(m).clamp_min(_TINY)
        previous = self._deviation if self._deviation_max is None else self._deviation_max
        self._deviation_max = torch.maximum(previous, self._deviation)
