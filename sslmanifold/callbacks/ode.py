"""Does training follow its exact theory? The constraint's flow, advanced beside every optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
from sslmanifold.callbacks.head_comparison import HeadComparison
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.data import TripletBatch
from sslmanifold.errors import UserError, notice
from sslmanifold.metrics import subspace_distance
from sslmanifold.theory.flows.base import Flow, FlowBlowUp, pack, unpack
from sslmanifold.theory.flows.clocks import OwnClocks
from sslmanifold.theory.gradient import LossGradient
from sslmanifold.theory.moment_product import LARGEST_MOMENT


@dataclass(kw_only=True)
class ODEComparison(Observer):
    """Compares every state of the training with the constraint's flow at the same time t = Σ lr.

    The flow starts from the run's own initial weights. Any differentiable loss has one: the quadratic losses by C,
    every other by ∂L/∂m at the flow's own map (:class:`~sslmanifold.theory.LossGradient`; two evaluations a step,
    three where singular values are capped). For a nonlinear φ the network is compared with the linear flow, which is
    what Conjecture 1 is about. Logged keys:

    * ``ode/time``: t, in units of lr times the loss as differentiated;
    * ``ode/deviation``: ‖U − U_ode‖_F / ‖U_ode‖_F on the training points, and ``ode/deviation_max`` over every
      optimizer step so far;
    * ``ode/subspace_distance``: sine of the largest principal angle between span(m) and span(m_ode);
    * ``ode/loss_gap``: (L − L_ode) / |L_ode|.

    With momentum, time runs by the effective step lr · w_k (:mod:`sslmanifold.callbacks.effective_step`), and the
    deviation is of the order lr/(1 − μ)². What is in the training and not in the flow stands in the summary's
    ``ode/meaning`` and in one printed line. A run that no flow describes (a constraint without a flow at this depth,
    Adam) logs none of the keys, and the same line says why.

    In anybody else's LightningModule it follows a linear head on features that do not move, exactly, step by step
    with the realised batches (:class:`~sslmanifold.callbacks.head_comparison.HeadComparison`)::

        ODEComparison(head="projector", features="backbone", loss=Contrastive(reduction="mean"))

    Attributes:
        approximate: "auto" compares wherever time is known, momentum and weight decay included; True compares Adam
            too, at the time Σ lr; False refuses every run that the flow does not describe exactly.
        follow: whose C the flow is given: "population" for one fixed C, from which realised batches scatter by
            noise; "batches" for each step's own, which leaves a deviation of O(lr); "auto" for batches where there
            are minibatches or resampled triplets. Other than "auto" it asks for the comparison: a run that cannot
            have it is refused.
        every: compare after every so many steps, and where a row is written; the flow takes the time of all of them at
            once. More than 1 needs one loss for all steps: full batches, and slices that are not drawn anew.
        head: the name of the head: an ``nn.Linear`` or an ``nn.Sequential`` of one or two, without bias.
        features: the name of what computes its features, which must not be trained; only checked.
        loss: the quadratic loss that the module minimises, of the head's outputs for anchors, positives and
            negatives; it is compared with what ``training_step`` returns.

    Raises:
        UserError: before the first step, as ``approximate`` and ``follow`` say; in another's module for what no flow
            describes.
    """

    approximate: bool | Literal["auto"] = "auto"
    follow: Literal["auto", "population", "batches"] = "auto"
    every: int = 1
    head: str | None = None
    features: str | None = None
    loss: Any = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"callbacks.ode.every={self.every} must be at least 1: set callbacks.ode.every=1")
        if self.head is not None and self.every > 1:
            raise UserError(
                f"every={self.every}: a head is compared at every step: leave it out beside head="
            )
        self._head = None if self.head is None else HeadComparison(self.head, self.features, self.loss)
        self.absent = ""  # why there is no flow to compare with
        self.departures: list[str] = []  # what is in the training and not in the flow
        self.time: float | Tensor = 0.0
        self._clipped = False
        self.effective_step = EffectiveStep()
        self.flow: Flow | None = None
        self.state: Any = None
        self._resumed: dict[str, Any] | None = None
        self.blow_up_time: float | None = None
        self._driving: DrivingLoss | None = None
        self._pending: float | Tensor = 0.0  # time of the steps since the flow was last advanced
        self._module: Recorded | None = None
        self._deviation: Tensor | None = None
        self._deviation_max: Tensor | None = None

    # -- in anybody else's module -----------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._head is None and not isinstance(pl_module, Recorded):
            raise UserError(
                f"ODEComparison: no flow is known for the whole of {type(pl_module).__name__}; for a linear head on "
                "fixed features set head='projector' and loss=Contrastive(reduction='mean')"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._head is not None:
            self._head.open_batch()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._head is not None:
            self._head.before_step(optimizer)

    def _log_head(self, head: HeadComparison, trainer: Any, module: Any, outputs: Any) -> None:
        values = head.close_batch(outputs)
        if values and trainer.global_step % (trainer.log_every_n_steps or 1) == 0:
            module.log_dict(
                {key: value.squeeze() for key, value in values.items()}, on_step=True, on_epoch=False
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._head is not None:
            self._head.end()

    # -- in sslmanifold's own ---------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Recorded) -> None:  # type: ignore[override]
        if self._head is not None:
            self._head.begin(trainer, pl_module)
            return
        self._module = pl_module
        flow = self._flow(trainer, pl_module)
        if flow is None:
            return
        if self._clipped and pl_module.network.replicas > 1:
            flow = OwnClocks(flow)  # each replica is clipped by itself
        self.flow = flow
        start = flow.start(*(weight.detach().double().cpu() for weight in pl_module.network.weights))
        if self._resumed is None:
            self.state = start
        else:  # a resumed run brings its state along; None once the flow has blown up
            self.state = None if self._resumed["state"] is None else unpack(self._resumed["state"], start)
            self._pending = self._resumed.get("pending", 0.0)
            self._driving.load_state_dict(self._resumed.get("driving"))  # type: ignore[union-attr]
            self._resumed = None
        points = pl_module.points.double().cpu()
        # ‖X Δ‖_F through XᵀX where that is the smaller matrix
        self._gram = points.mT @ points if points.shape[0] > points.shape[1] else None
        self._points = points
        self._compare(pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Recorded, outputs: Any, batch: TripletBatch, batch_idx: int
    ) -> None:
        if self._head is not None:
            self._log_head(self._head, trainer, pl_module, outputs)
            return
        if self.flow is None or self.state is None or pl_module.diverged_at is not None:
            return
        if not pl_module.stepped:  # gradients are being accumulated
            return
        factor = 1.0 if pl_module.step_factor is None else pl_module.step_factor.cpu()
        step = self.effective_step(trainer.optimizers[0], pl_module.last_lr, factor)
        step = float(step) if isinstance(step, Tensor) and step.numel() == 1 else step
        self.time, self._pending = self.time + step, self._pending + step
        if pl_module.steps_done % self.every and pl_module.steps_done % trainer.log_every_n_steps:
            return
        self._advance(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._head is not None:
            self._head.end()
        elif (
            self.every > 1
            and self.flow is not None
            and self.state is not None
            and pl_module.diverged_at is None
        ):
            self._advance(pl_module)  # the last row is that of the last step

    def _advance(self, module: Recorded) -> None:
        """Take the flow to the time of the training, and compare."""
        assert self.flow is not None
        assert self._driving is not None
        step, self._pending = self._pending, 0.0
        moment = self._driving.of_step(module)
        if moment is not None and isinstance(moment, LossGradient):
            self.flow.drive(moment)
        try:
            self.state = self.flow.advance(self.state, step, moment)  # type: ignore[arg-type]
        except FlowBlowUp as blow_up:
            self.state, self.blow_up_time = None, float(blow_up.time)
            self._deviation = None
            return
        self._compare(module)

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
        tiny = torch.finfo(torch.float64).tiny
        if self._driving is not None:
            self._driving.watch(m)
        self._deviation = gap / self._norm(m).clamp_min(tiny)
        previous = self._deviation if self._deviation_max is None else self._deviation_max
        self._deviation_max = torch.maximum(previous, self._deviation)

    def state_dict(self) -> dict[str, Any]:
        """The flow's state in plain containers, for a checkpoint."""
        if self._head is not None:
            return self._head.state_dict()
        if self.flow is None:
            return self._resumed or {}
        state = None if self.state is None else pack(self.state)
        return {
            "state": state,
            "blow_up_time": self.blow_up_time,
            "deviation_max": self._deviation_max,
            "time": self.time,
            "momentum_weight": self.effective_step.weight,
            "momentum_started": self.effective_step.started,
            "pending": self._pending,
            "driving": None if self._driving is None else self._driving.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._head is not None:
            self._head.load_state_dict(state_dict)
        elif state_dict:
            self._resumed = state_dict
            self.blow_up_time = state_dict["blow_up_time"]
            self._deviation_max = state_dict["deviation_max"]
            self.time = state_dict["time"]
            self.effective_step.weight = state_dict["momentum_weight"]
            started = state_dict.get("momentum_started")  # version 0.1 knew it by the weight
            self.effective_step.started = state_dict["momentum_weight"] != 0 if started is None else started

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
            tiny = torch.finfo(torch.float64).tiny
            values["ode/loss_gap"] = (loss.double().cpu() - expected) / expected.abs().clamp_min(tiny)
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
            if self.departures:
                meaning.append(f"approximate: {'; '.join(self.departures)}")
            if meaning:
                entries["ode/meaning"] = "; ".join(meaning)
        if self.blow_up_time is not None:
            entries["ode/blow_up_time"] = self.blow_up_time
        return entries
