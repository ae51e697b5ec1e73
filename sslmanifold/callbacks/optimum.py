"""What the theory predicts of a run, what was seen, and stopping once the optimum is certified."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.callbacks.effective_step import EffectiveStep
from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.data import TripletBatch
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianSGD

# points in time at which the flow is asked whether it has arrived
_GRID = 400
# how far ahead it is asked, in units of 1/‖Λ‖₂: 2,000 steps of the default size. Beyond, solving costs more than a
# prediction is worth before training; `sslmanifold dynamics` goes any distance.
_HORIZON = 100.0
_LONGEST = 100_000


@dataclass(kw_only=True)
class Optimum(Observer):
    """Predicts when the optimality gap (L − L*)/|L*| passes a tolerance, notes when it does, and can stop there.

    L* is the theory's (Propositions 2–3, Conjecture 2), so stopping is certified: no weights that the constraint
    allows are better by more than the tolerance. Entries of the summary:

    * ``predicted/limit_rank``: rank of the limit of the map, under orthogonality;
    * ``predicted/steps_to_tolerance``: from the exact flow of these initial weights and this learning rate (with
      momentum at its effective steps), under orthogonality with full batches; absent where the run ends before, it
      lies beyond t = 100/‖Λ‖₂, or no time is known in advance (Adam, weight decay, clipping);
    * ``predicted/largest_stable_step``: above it gradient descent leaves the optimum, under orthogonality;
    * ``seen/steps_to_tolerance``: the first step after which the gap is below the tolerance.

    Attributes:
        tolerance: of the gap.
        stop: end the run there.

    Raises:
        UserError: where ``stop`` is asked of a run that has no L*.
    """

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    stop: bool = False

    def __post_init__(self) -> None:
        self.predicted: dict[str, object] = {}
        self.seen: int | None = None
        self._best: float | None = None
        # the initial weights, while the number of steps is all that kept the prediction from being made
        self._start: list[Tensor] | None = None

    def on_train_start(self, trainer: Any, pl_module: Recorded) -> None:  # type: ignore[override]
        self._best = pl_module.optimum() if pl_module.moment is not None else None
        if self._best is None:
            if self.stop:
                raise UserError(
                    "callbacks.optimum.stop=true needs an optimum L*, which this run has not "
                    "(no constraint, a nonlinear model, or a loss without C): set callbacks.optimum.stop=false"
                )
            return
        if pl_module.steps_done == 0:
            self._start = [
                weight.detach().cpu().to(torch.float64, copy=True) for weight in pl_module.network.weights
            ]
        if self._start is not None:  # a resumed run may have been given more steps
            self.predicted = self._predict(pl_module, trainer, self._start)
        if self.seen is None:
            self._look(pl_module, trainer)
        elif self.stop:  # a run that was resumed after it had arrived
            trainer.should_stop = True

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Recorded, outputs: Any, batch: TripletBatch, batch_idx: int
    ) -> None:
        if self._best is not None and self.seen is None and pl_module.diverged_at is None:
            self._look(pl_module, trainer)

    def _gap(self, module: Recorded, loss: Tensor) -> Tensor:
        assert self._best is not None
        assert module.eigvals is not None
        return (loss - self._best) / max(abs(self._best), 1e-12 * float(module.eigvals.abs().max()))

    def _look(self, module: Recorded, trainer: Any) -> None:
        """Note the step once every replica is within the tolerance."""
        if bool((self._gap(module, module.moment_loss()) <= self.tolerance).all()):
            self.seen = module.steps_done
            if self.stop:
                trainer.should_stop = True

    def _predict(self, module: Recorded, trainer: Any, weights: list[Tensor]) -> dict[str, object]:
        constraint, shape = module.constraint, module.network.shape
        assert module.moment is not None
        moment = module.moment.double().cpu()
        entries: dict[str, object] = dict(constraint.predictions(moment, shape))
        optimizer = trainer.optimizers[0]
        group, step = optimizer.param_groups[0], EffectiveStep()
        timed = isinstance(optimizer, RiemannianSGD | torch.optim.SGD) and not (
            trainer.gradient_clip_val
            or any(group.get(key) for key in ("weight_decay", "max_norm", "maximize"))
        )
        if not entries or not module.full_batch or not timed:
            self._start = None
            return entries
        lr = float(group["initial_lr"])
        assert module.eigvals is not None
        end, times = _HORIZON / float(module.eigvals.abs().max()), [0.0]
        while len(times) <= min(trainer.max_steps, _LONGEST) and times[-1] <= end:
            times.append(times[-1] + float(step(optimizer, lr * module.schedule(len(times) - 1))))
        spaced = torch.linspace(0, 1, _GRID, dtype=torch.float64) ** 2 * (len(times) - 1)
        chosen = spaced.round().long().unique()
        solved = constraint.solve(moment, shape, weights, torch.tensor(times, dtype=torch.float64)[chosen])
        worst = self._gap(module, solved.loss).amax(-1)  # (T, S) -> (T,)
        reached = (worst <= self.tolerance).nonzero()
        if reached.numel():
            entries["predicted/steps_to_tolerance"] = int(chosen[int(reached[0])])
        if reached.numel() or times[-1] > end or len(times) > _LONGEST:
            self._start = None
        return entries

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        return {}

    def reason(self) -> str:
        if not self.stop or self.seen is None:
            return ""
        return (
            f"stopped at step {self.seen}: the optimality gap is within {self.tolerance:g}, certified by L*"
        )

    def summary(self) -> dict[str, object]:
        entries: dict[str, object] = {"optimum/tolerance": self.tolerance, **self.predicted}
        if self.seen is not None:
            entries["seen/steps_to_tolerance"] = self.seen
        return entries if self._best is not None else {}

    def state_dict(self) -> dict[str, Any]:
        predicted = {k: v for k, v in self.predicted.items() if _plain(v)}
        return {"seen": self.seen, "predicted": predicted, "start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.predicted = state_dict["seen"], dict(state_dict["predicted"])
        self._start = state_dict.get("start")


def _plain(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
