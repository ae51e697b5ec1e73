"""Lightning's own callbacks in a run: which serve as they are, which cannot, and what they see of the rows."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch import callbacks as theirs

from sslmanifold.callbacks.observer import Observer
from sslmanifold.config.check import build_group
from sslmanifold.config.targets import Opened, locate
from sslmanifold.errors import UserError
from sslmanifold.training.trainer_flags import TrainerFlags

# they change weights or the learning rate behind the constraint and the flow
REFUSED: dict[type[Callback], str] = {
    theirs.StochasticWeightAveraging: "averages weights, and the mean of points of a manifold is off it: leave it out, "
    "or set scheduler=cosine for a decaying learning rate",
    theirs.WeightAveraging: "averages weights, and the mean of points of a manifold is off it: leave it out, or "
    "average with sslmanifold.geometry.ManifoldAveragedModel, which projects, in a loop of your own",
    theirs.ModelPruning: "sets entries to zero, which leaves the manifold: leave it out",
    theirs.BaseFinetuning: "freezes layers, and the flow moves all of them: leave it out, or probe=finetune afterwards",
    theirs.LearningRateFinder: "trains for a while to choose optimizer.lr: set optimizer.lr=auto, which reads it off C",
    theirs.BatchSizeFinder: "trains for a while to choose data.batch_size: set it to a number",
}
ONE_EPOCH = "for Lightning a run is one epoch of trainer.max_steps steps"


def build_callbacks(
    group: Mapping[str, Any], flags: TrainerFlags, opened: Opened | None = None
) -> dict[str, Callback]:
    """Name → callback of the ``callbacks`` group; ``callbacks.NAME=null`` leaves one out.

    Raises:
        UserError: for a callback that a run cannot have, naming it and what to write instead.
    """
    built = {}
    for name, options in group.items():
        where = f"callbacks.{name}"
        if options is None:
            continue
        if isinstance(options, Mapping) and "_target_" in options:
            target = locate(options["_target_"], where, opened)
            _require_usable(target, options, where)
            if issubclass(target, theirs.ProgressBar) and flags.enable_progress_bar is False:
                continue
        try:
            built[name] = build_group(options, where, opened)
        except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
            raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    return built


def _require_usable(target: type, options: Mapping[str, Any], where: str) -> None:
    for refused, reason in REFUSED.items():
        if issubclass(target, refused):
            raise UserError(f"{where}: {target.__name__} {reason}")
    if issubclass(target, theirs.EarlyStopping) and options.get("check_on_train_epoch_end"):
        raise UserError(
            f"{where}.check_on_train_epoch_end=true would check once, at the end: {ONE_EPOCH}; leave it out, and every "
            "logged row (trainer.log_every_n_steps) is checked"
        )
    if issubclass(target, theirs.ModelCheckpoint) and (options.get("every_n_epochs") or 1) > 1:
        raise UserError(
            f"{where}.every_n_epochs={options['every_n_epochs']} would never come: {ONE_EPOCH}; set "
            f"{where}.every_n_train_steps=100, or leave it out, and every logged row is ranked"
        )


def accumulated_batches(flags: TrainerFlags, callbacks: dict[str, Callback]) -> int:
    """Batches to an optimizer step, from the flag or a ``GradientAccumulationScheduler``, which is taken out.

    Raises:
        UserError: for both of them, or a schedule that changes during the run.
    """
    given = flags.accumulate_grad_batches
    for name, callback in list(callbacks.items()):
        if not isinstance(callback, theirs.GradientAccumulationScheduler):
            continue
        schedule = callback.scheduling
        if given is not None:
            raise UserError(
                f"callbacks.{name} and trainer.accumulate_grad_batches={given} both set how many batches a step has: "
                "leave one out"
            )
        if len(set(schedule.values())) > 1:
            raise UserError(
                f"callbacks.{name}.scheduling={schedule} changes between epochs: {ONE_EPOCH}; set one number, e.g. "
                f"trainer.accumulate_grad_batches={max(schedule.values())}"
            )
        given = schedule[0]
        del callbacks[name]
    flags.accumulate_grad_batches = given
    return given or 1


class Rows(Callback):
    """Has a row written before Lightning's callbacks act on its step, and shows it to them.

    A logged row is to a run what a validation is to other trainings: ``trainer.callback_metrics`` then holds it, and
    callbacks that are not ours get ``on_validation_end``. A callback with a ``monitor`` that this row lacks is not
    asked: its last value says nothing new.

    Args:
        others: name → callback that is not ours.
    """

    def __init__(self, others: Mapping[str, Callback]) -> None:
        self.others = others
        # a resumed run may give them other ones, and their saved state would put the old ones back
        self.patience = {
            name: c.patience for name, c in others.items() if isinstance(c, theirs.EarlyStopping)
        }

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        for name, patience in self.patience.items():
            self.others[name].patience = patience  # type: ignore[attr-defined]
        pl_module.record_start()
        _show(trainer, pl_module.recorder.last)
        self._require_monitors(pl_module.recorder.last)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        recorder = pl_module.recorder
        before = len(recorder.rows)
        pl_module.record_if_due()
        if not self.others or len(recorder.rows) == before:
            return
        row = recorder.rows[-1]
        _show(trainer, row)
        for callback in self.others.values():
            monitor = getattr(callback, "monitor", None)
            if monitor in recorder.last and monitor not in row:
                continue
            callback.on_validation_end(trainer, pl_module)

    def _require_monitors(self, known: Mapping[str, float]) -> None:
        """Every monitored key is one of the first row's; users' own callbacks may log others."""
        lightnings = all(type(c).__module__.startswith("lightning.") for c in self.others.values())
        for name, callback in self.others.items():
            monitor = getattr(callback, "monitor", None)
            if lightnings and monitor is not None and monitor not in known and monitor != "step":
                raise UserError(
                    f"callbacks.{name}.monitor={monitor} is not measured in this run: choose one of "
                    f"{', '.join(sorted(known))}"
                )


def _show(trainer: lightning.Trainer, row: Mapping[str, float]) -> None:
    """A row among the metrics that Lightning's callbacks read.

    ``log_dict`` would do it too, at 0.4 ms a step in between: it looks at all that was ever logged after every batch.
    """
    metrics = {key: torch.tensor(value, dtype=torch.float64) for key, value in row.items() if key != "step"}
    trainer.callback_metrics.update(metrics)
    trainer.logged_metrics.update(metrics)


def ordered(callbacks: Mapping[str, Callback]) -> list[Callback]:
    """Observers, then the row, then all others: a callback acts on the row of the step that has been taken."""
    observers = [c for c in callbacks.values() if isinstance(c, Observer)]
    rest = {name: c for name, c in callbacks.items() if not isinstance(c, Observer)}
    return [*observers, Rows({name: c for name, c in rest.items() if _is_foreign(c)}), *rest.values()]


def _is_foreign(callback: Callback) -> bool:
    ours = type(callback).__module__.startswith("sslmanifold.")
    return not ours and not isinstance(callback, theirs.ProgressBar)


def stopped_by(trainer: lightning.Trainer, callbacks: Mapping[str, Callback]) -> str:
    """Which callback ended the run before its last step, and why."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        remaining = callback.time_remaining() if isinstance(callback, theirs.Timer) else None
        if remaining is not None and remaining <= 0:
            names = [name for name, c in callbacks.items() if c is callback]
            owner = f"callbacks.{names[0]}.duration" if names else "trainer.max_time"
            return f"{owner} was up"
    for name, callback in callbacks.items():
        if isinstance(callback, theirs.EarlyStopping) and callback.stopping_reason_message:
            message = " ".join(
                callback.stopping_reason_message.removesuffix("Signaling Trainer to stop.").split()
            )
            return f"callbacks.{name}: {message.removesuffix('.')}"
    return "a callback set trainer.should_stop"
