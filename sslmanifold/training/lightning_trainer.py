"""Lightning's Trainer for one run, every argument given: none is left to Lightning's defaults for other uses."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, profilers
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from sslmanifold.errors import UserError
from sslmanifold.runs import RunFolder
from sslmanifold.training.encoder_experiment import EncoderExperiment
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.lightning_callbacks import ordered
from sslmanifold.training.quiet import quiet_lightning
from sslmanifold.training.trainer_flags import TrainerFlags

PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}


def build_trainer(
    experiment: Experiment | EncoderExperiment,
    folder: RunFolder,
    loggers: Sequence[Logger],
    own: Sequence[Callback],
) -> lightning.Trainer:
    """The trainer of a run.

    Args:
        loggers: Lightning's, as the run opened them.
        own: callbacks that the run itself needs, after the configured ones.

    Raises:
        UserError: for arguments that Lightning refuses, several processes, or a device without float64.
    """
    for callback in experiment.callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder.checkpoint.parent)
    options = _arguments(experiment.flags, folder.path) | {
        "max_steps": experiment.steps,
        "min_steps": experiment.least_steps,
        "accumulate_grad_batches": experiment.accumulate,
        "logger": list(loggers),
        "callbacks": [*ordered(experiment.named_callbacks), *own],
        "enable_progress_bar": bool(experiment.flags.enable_progress_bar)
        or any(isinstance(callback, ProgressBar) for callback in experiment.callbacks),
    }
    with quiet_lightning():
        try:
            trainer = lightning.Trainer(**options)
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    _require_one_process(trainer)
    return trainer


def _arguments(flags: TrainerFlags, run_dir: Path) -> dict[str, Any]:
    """The flags over Lightning's defaults, so that no PL_TRAINER_… variable of the environment slips in."""
    parameters = inspect.signature(lightning.Trainer.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "self"}
    given = {f.name: getattr(flags, f.name) for f in fields(flags) if getattr(flags, f.name) is not None}
    profiler = None if flags.profiler is None else PROFILERS[flags.profiler]
    return (
        defaults
        | given
        | {
            # passes are counted as steps, and batches are limited where they are drawn
            "max_epochs": 1,
            "min_epochs": 0,
            "limit_train_batches": None,
            "overfit_batches": 0.0,
            # a row is to a run what a validation is to others: see sslmanifold.training.lightning_callbacks
            "check_val_every_n_epoch": None,
            "val_check_interval": flags.log_every_n_steps,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": True,
            "enable_model_summary": bool(flags.enable_model_summary),
            "gradient_clip_val": flags.gradient_clip_val or None,
            "max_time": None if flags.max_time is None else timedelta(seconds=flags.seconds),
            "default_root_dir": run_dir,
            "profiler": None
            if profiler is None
            else profiler(dirpath=run_dir / "profile", filename=flags.profiler),
        }
    )


def _require_one_process(trainer: lightning.Trainer) -> None:
    if trainer.world_size > 1:
        raise UserError(
            f"trainer: {trainer.world_size} processes would each train on the same batches, which is the run of one, "
            "slower: set trainer.devices=1 trainer.num_nodes=1; replicas=8 trains initialisations side by side, and a "
            "sweep (-m) its jobs"
        )
    device = trainer.strategy.root_device.type
    if device not in ("cpu", "cuda"):
        raise UserError(
            f"trainer.accelerator: {device} has no float64, which C and the flow need: set cpu or gpu"
        )


def as_run(trainer: lightning.Trainer) -> dict[str, str]:
    """Precision and device that Lightning runs with, for the summary."""
    return {"trainer/precision": str(trainer.precision), "trainer/device": trainer.strategy.root_device.type}


def remarks(flags: TrainerFlags, ran: Mapping[str, str]) -> list[str]:
    """What is printed at the start: where the run is not what its flags say."""
    lines = []
    if ran["trainer/precision"] != flags.precision:
        lines.append(
            f"trainer.precision={flags.precision} runs as {ran['trainer/precision']}: a CPU has no float16 autocast"
        )
    return lines
