"""Does training follow its exact theory? The constraint's flow, advanced beside every optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from sslmanifold.callbacks.effective_step import EffectiveStep
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.data import TripletBatch
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.metrics import subspace_distance
from sslmanifold.theory import cross_moment
from sslmanifold.theory.flows.base import Flow, FlowBlowUp, pack, unpack

if TYPE_CHECKING:
    from sslmanifold.constraints import Constraint


@dataclass(kw_only=True)
class ODEComparison(Observer):
    """Compares every state of the training with the constraint's flow at the same time t = Σ lr.

    The flow starts from the run's own initial weights. For a nonlinear φ the network is compared with the
    linear flow, which is what Conjecture 1 is about. Logged keys:

    * ``ode/time``: t, in units of lr times the loss as differentiated;
    * ``ode/deviation``: ‖U − U_ode‖_F / ‖U_ode‖_F on the training points, and ``ode/deviation_max`` over every
      optimizer step so far;
    * ``ode/subspace_distance``: sine of the largest principal angle between span(m) and span(m_ode);
    * ``ode/loss_gap``: (L − L_ode) / |L_ode|.

    A run whose constraint has no flow logs none of them.

    With minibatches or resampled triplets the flow can follow the population C, from which the realised batches
    scatter by noise, or the very batches that training sees, each for its own step: then the deviation is O(lr)
    again. With momentum, time runs by the effective step lr · w_k (:mod:`sslmanifold.callbacks.effective_step`),
    and the deviation is of the order lr/(1 − μ)².

    Attributes:
        approximate: compare even where the flow does not describe the training (momentum, Adam, weight decay,
            batches against the population).
        follow: "population" for one fixed C, "batches" for each step's own.

    Raises:
        UserError: before the first step, where ``approximate`` would be needed.
    """

    approximate: bool = False
    follow: Literal["population", "batches"] = "population"

    def __post_init__(self) -> None:
        self.time = 0.0
        self.effective_step = EffectiveStep()
        self.flow: Flow | None = None
        self.state: Any = None
        self._resumed: dict[str, Any] | None = None
        self.blow_up_time: float | None = None
        self._moment: Tensor | None = None
        self._constraint: Constraint | None = None
        self._linear = self._full_batch = True
        self._deviation: Tensor | None = None
        self._deviation_max: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Recorded) -> None:  # type: ignore[override]
        if pl_module.moment is None:
            return
        self._moment, self._constraint = pl_module.moment.double().cpu(), pl_module.constraint
        self._linear, self._full_batch = pl_module.network.linear, pl_module.full_batch
        flow = self._constraint.flow(self._moment, pl_module.network.shape)
        if flow is None:
            return
        if not self.approximate:
            self._refuse_what_no_flow_describes(trainer, pl_module)
        self.flow = flow
        start = flow.start(*(weight.detach().double().cpu() for weight in pl_module.network.weights))
        if self._resumed is None:
            self.state = start
        else:  # a resumed run brings its state along; None once the flow has blown up
            self.state = None if self._resumed["state"] is None else unpack(self._resumed["state"], start)
            self._resumed = None
        points = pl_module.points.double().cpu()
        # ‖X Δ‖_F through XᵀX where that is the smaller matrix
        self._gram = points.mT @ points if points.shape[0] > points.shape[1] else None
        self._points = points
        self._compare(pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Recorded, outputs: Any, batch: TripletBatch, batch_idx: int
    ) -> None:
        if self.flow is None or self.state is None or pl_module.diverged_at is not None:
            return
        step = self.effective_step(trainer.optimizers[0], pl_module.last_lr)
        self.time += step
        moment = (
            None
            if self.follow == "population" or pl_module.full_batch
            else self._batch_moment(pl_module, batch)
        )
        try:
            self.state = self.flow.advance(self.state, step, moment)
        except FlowBlowUp as blow_up:
            self.state, self.blow_up_time = None, float(blow_up.time)
            self._deviation = None
            return
        self._compare(pl_module)

    @staticmethod
    def _batch_moment(module: Recorded, batch: TripletBatch) -> Tensor:
        """C of one batch as its loss was differentiated, (d, d)."""
        tensors = [None if t is None else t.double().cpu() for t in batch]
        return cross_moment(tensors[0], tensors[1], tensors[2], reduction=module.loss.reduction)  # type: ignore

    def _refuse_what_no_flow_describes(self, trainer: Any, module: Recorded) -> None:
        way_out = "or callbacks.ode.approximate=true to compare all the same, or ~callbacks.ode to drop the comparison"
        optimizer = trainer.optimizers[0]
        if not isinstance(optimizer, RiemannianSGD):
            name = type(optimizer).__name__
            raise UserError(
                f"callbacks.ode: the flow follows plain gradient steps, not {name}: set optimizer=sgd, {way_out}"
            )
        for key in ("momentum", "weight_decay"):
            value = optimizer.param_groups[0].get(key, 0)
            if value:
                raise UserError(
                    f"callbacks.ode: the flow follows plain gradient steps, got optimizer.{key}={value:g}: "
                    f"set optimizer.{key}=0, {way_out}"
                )
        if not module.full_batch and self.follow == "population":
            raise UserError(
                "callbacks.ode: the flow follows one fixed C, got minibatches or resampled triplets: set "
                "callbacks.ode.follow=batches to give it the same batches, or data.batch_size=null "
                f"data.resample=never, {way_out}"
            )

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
        self._deviation = gap / self._norm(m).clamp_min(tiny)
        previous = self._deviation if self._deviation_max is None else self._deviation_max
        self._deviation_max = torch.maximum(previous, self._deviation)

    def state_dict(self) -> dict[str, Any]:
        """The flow's state in plain containers, for a checkpoint."""
        if self.flow is None:
            return self._resumed or {}
        state = None if self.state is None else pack(self.state)
        return {
            "state": state,
            "blow_up_time": self.blow_up_time,
            "deviation_max": self._deviation_max,
            "time": self.time,
            "momentum_weight": self.effective_step.weight,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._resumed = state_dict
            self.blow_up_time = state_dict["blow_up_time"]
            self._deviation_max = state_dict["deviation_max"]
            self.time = state_dict["time"]
            self.effective_step.weight = state_dict["momentum_weight"]

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        if self.flow is None:
            return {}
        values = {"ode/time": torch.tensor(self.time, dtype=torch.float64)}
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
        """The objective at the trained weights, (S,): of a linear network by the flow's own C."""
        if not snapshot.linear or snapshot.map is None:
            return snapshot.loss
        assert self._moment is not None
        assert self._constraint is not None
        loss = (snapshot.map * (self._moment @ snapshot.map)).sum((-2, -1))  # Tr(mᵀ C m), Eq. 8
        weights = [weight.detach().double().cpu() for weight in snapshot.weights]
        return self._constraint.objective(loss, weights)

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
        if self.flow is not None:
            entries["ode/flow"] = self.flow.name
            if not self._linear:
                entries["ode/meaning"] = "nonlinear network against the linear flow: Conjecture 1"
            elif self.effective_step.weight > 0:
                entries["ode/meaning"] = "approximate: momentum, compared at the effective time Σ lr·w"
            elif not self._full_batch and self.follow == "batches":
                entries["ode/meaning"] = "the flow follows the realised batches"
            elif self.approximate:
                entries["ode/meaning"] = "approximate: callbacks.ode.approximate=true"
        if self.blow_up_time is not None:
            entries["ode/blow_up_time"] = self.blow_up_time
        return entries
