"""One training run: from an experiment to a finished run folder, whatever happens on the way."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng

from sslmanifold.callbacks.observer import Observer
from sslmanifold.config.targets import Opened, named_packages, require_targets
from sslmanifold.errors import OutputError, UserError, notice
from sslmanifold.interrupts import is_of_a_signal
from sslmanifold.loggers.metrics import MetricsLogger
from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.claim import claimed
from sslmanifold.runs.keys import SECONDS
from sslmanifold.runs.summary import summary
from sslmanifold.runs.writing import writing
from sslmanifold.training.checkpointing import CheckedFiles
from sslmanifold.training.encoder_experiment import EncoderExperiment, encodes, in_epochs
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.figures import Figures, draw_missing
from sslmanifold.training.interruption import Interruption
from sslmanifold.training.lightning_callbacks import stopped_by
from sslmanifold.training.lightning_trainer import as_run, build_trainer, remarks
from sslmanifold.training.quiet import quiet_lightning
from sslmanifold.training.recorder import Recorder
from sslmanifold.training.resume import checkpoint_to_resume, finished, require_same_schedule

# points kept of the training embedding, for figures
SCATTER_POINTS = 2000


def run_training(
    config: dict[str, Any], run_dir: str | Path, *, trust: Sequence[str] = (), typed: bool = False
) -> Run:
    """Train what the configuration describes and leave a complete run folder.

    Args:
        config: the resolved configuration as plain containers.
        run_dir: the run folder; must not hold the results of a run unless ``overwrite`` is true, or ``ckpt_path``
            names that run: it then goes on from its checkpoint, with the same results as if it had never stopped.
        trust: packages whose classes the run that ``ckpt_path`` names may use besides this package's own.
        typed: whether a configuration with a ``ckpt_path`` is the user's own all the same, not the folder's, so that
            any class in it is their choice.

    Returns:
        The run, read back from its folder. A run that diverged or was stopped by a signal returns too: its
        status says so, and its checkpoint holds the last finite state.

    Raises:
        UserError: for a mistake in the configuration. The folder then holds ``summary.json`` with the reason.
    """
    folder = RunFolder(run_dir)
    config = {key: value for key, value in config.items() if key != "trust"}  # the user's, never a folder's
    if encodes(config):
        config = in_epochs(config)
    opened = None
    if config.get("ckpt_path") and not typed:
        opened = Opened(folder.path, tuple(trust))
        require_targets(config, opened)
    folder.refuse_redirections()
    with claimed(folder.path):
        folder.remove_partial_files()
        if not config.get("ckpt_path") and folder.holds_run():
            if folder.holds_results() and not config.get("overwrite"):
                raise UserError(
                    f"{folder.path} already holds a run: choose another hydra.run.dir, set overwrite=true, or go on "
                    f"with it: ckpt_path={folder.path}"
                )
            folder.clear()
        run = _resumed(config, folder, opened) if config.get("ckpt_path") else _begun(config, folder)
    # what was typed here, or trusted, need not be trusted again
    run.opened = opened or Opened(folder.path, named_packages(config))
    return run


def experiment_of(config: dict[str, Any], opened: Opened | None = None) -> Experiment | EncoderExperiment:
    """Everything that a configuration describes, for the kind of model that it names."""
    return EncoderExperiment(config, opened) if encodes(config) else Experiment(config, opened)


def _begun(config: dict[str, Any], folder: RunFolder) -> Run:
    """A run from its first step on; a mistake in its configuration leaves a summary with the reason."""
    folder.write_config(config)
    try:
        experiment = experiment_of(config)
    except (Exception, KeyboardInterrupt) as error:
        choices: dict[str, Any] = {key: config[key] for key in ("seed", "replicas") if key in config}
        stopped = is_of_a_signal(error)
        status = "interrupted" if stopped else "failed"
        reason = "stopped before the first step" if stopped else str(error)
        with suppress(OutputError):  # the error in hand is the one to tell
            folder.write_summary(summary(status, reason, choices))
        if stopped and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    return _Training(experiment, folder, None).run()


def _resumed(config: dict[str, Any], folder: RunFolder, opened: Opened | None) -> Run:
    """A run that goes on from its checkpoint. Nothing in its folder changes before it is known to be able to."""
    checkpoint = checkpoint_to_resume(config, folder)
    config = config | {"ckpt_path": None, "overwrite": False}
    if checkpoint is not None and finished(config, folder):
        draw_missing(config, folder, opened)
        return Run(folder.path)
    experiment = experiment_of(config, opened)
    if checkpoint is not None:
        require_same_schedule(experiment.factor, config, checkpoint)
    with writing(folder.summary):
        folder.summary.unlink(missing_ok=True)
    folder.write_config(config)
    return _Training(experiment, folder, checkpoint).run()


class _Training:
    """The state of one run between its start and its summary."""

    def __init__(
        self, experiment: Experiment | EncoderExperiment, folder: RunFolder, checkpoint: Path | None
    ) -> None:
        self.experiment = experiment
        self.checkpointing = experiment.checkpointing
        self.checkpointing.folder = folder
        self.module = experiment.module
        self.module.recorder = Recorder(folder)
        self.module.project_on_load = self.checkpointing.project
        self.folder = folder
        self.checkpoint = checkpoint
        self.interruption = Interruption()
        self.loggers: list[Logger] | None = None  # while they are open
        self.ran: dict[str, Any] = {}

    def run(self) -> Run:
        """Train, and leave a complete run folder whatever happens.

        The summary is written last: where it says that a run has ended, all else is there.

        Returns:
            The run, read back from its folder.
        """
        with self.interruption:
            try:
                first = self._embedding_arrays("initial")
                status, reason = self._outcome(self._fit())
                self.module.recorder.write()
                self._write_trajectory(first)
                content = self._summary(status, reason)
                figures = [
                    path for drawing in self._figures() for path in drawing.draw(self.folder.path, content)
                ]
                self._close_loggers(figures, content)
                self.folder.write_summary(content)
            except BaseException as error:
                after = self._leave(error)
                if isinstance(after, MisconfigurationException):  # a callback lacks what it needs
                    after = UserError(" ".join(str(error).split()))
                if after is error:
                    raise
                raise after from error
        run = Run(self.folder.path)
        run.signals = tuple(self.interruption.seen)
        return run

    def _fit(self) -> lightning.Trainer:
        """Lightning's training, from the first step or from the checkpoint."""
        experiment = self.experiment
        resumed = (
            None if self.checkpoint is None else read_checkpoint(self.checkpoint)["sslmanifold"]["steps_done"]
        )
        self.loggers = experiment.logger.open(self.folder.path, experiment.config, experiment.names, resumed)
        rows = MetricsLogger(self.module.recorder, self.folder.path)
        trainer = build_trainer(
            experiment, self.folder, [*self.loggers, rows], [self.interruption, self.checkpointing]
        )
        trainer.strategy.checkpoint_io = CheckedFiles()
        self.ran = as_run(trainer)
        if trainer.is_global_zero:
            for line in [*experiment.notices, *remarks(experiment.flags, self.ran)]:
                notice(line)
        with quiet_lightning(), isolate_rng():
            # what a user's callback draws depends on the seed, and on nothing that was drawn before
            seed_everything(experiment.options["seed"], verbose=False)
            trainer.fit(
                self.module,
                datamodule=experiment.datamodule,
                ckpt_path=self.checkpoint,
                weights_only=True if self.checkpoint else None,
            )
            self.interruption.ended = True
            if self.checkpoint and not self.checkpointing.began:
                self._close(trainer)
            self.checkpointing.save(trainer, self.module)
        return trainer

    def _leave(self, error: BaseException) -> BaseException:
        """A summary with the reason, and what to raise: KeyboardInterrupt for whatever a signal made of itself."""
        stopped = self.interruption.explains(error)
        self.interruption.deaf = True
        status = "interrupted" if stopped or isinstance(error, OutputError) else "failed"
        reason = str(error) or type(error).__name__
        if stopped:
            reason = f"stopped by {self.interruption.names()} at step {self.module.steps_done}"
        content = self._summary(status, reason)
        try:
            self.folder.write_summary(content)
        except OutputError:
            reason += " (nor can summary.json)" if self.folder.path.is_dir() else ""
        finally:
            self._close_loggers([], content)
        if stopped:
            return KeyboardInterrupt()
        if isinstance(error, OutputError) and self.folder.checkpoint.exists():
            return OutputError(f"{reason}; then go on with the run: ckpt_path={self.folder.path}")
        return error

    def _close_loggers(self, figures: list[Path], content: dict[str, Any]) -> None:
        """Hand over figures and the summary, once."""
        if self.loggers is not None:
            loggers, self.loggers = self.loggers, None
            self.experiment.logger.finish(loggers, figures, content)

    def _figures(self) -> list[Figures]:
        return [callback for callback in self.experiment.callbacks if isinstance(callback, Figures)]

    def _close(self, trainer: lightning.Trainer) -> None:
        """The last row of a run that was killed after its last step: Lightning has nothing to do and calls nobody."""
        for callback in self.experiment.callbacks:
            if isinstance(callback, Observer):
                callback.on_train_start(trainer, self.module)
        self.module.on_train_end()

    def _outcome(self, trainer: lightning.Trainer) -> tuple[str, str]:
        module = self.module
        if module.diverged_at is not None:
            reason = (
                f"the loss left the finite numbers after step {module.diverged_at} (time {module.time:.4g})"
            )
            lowest = None if module.eigvals is None else float(module.eigvals[0])
            if lowest is not None and lowest < 0 and module.optimum() is None:
                reason += (
                    f"; the theory predicts it: constraint={self.experiment.constraint.name} has no minimum "
                    f"where C has a negative eigenvalue (λ1 = {lowest:.4g}). "
                    "Set constraint=orthogonal, operator_norm or scaled"
                )
            else:
                reason += (
                    f"; the step is too large: set optimizer.lr below {self.experiment.learning_rate:.3g}"
                )
            return "diverged", reason
        if self.interruption.stopped and module.steps_done < self.experiment.steps:
            return "interrupted", f"stopped by {self.interruption.names()} at step {module.steps_done}"
        observers = [c for c in self.experiment.callbacks if isinstance(c, Observer)]
        reason = "; ".join(filter(None, (observer.reason() for observer in observers)))
        if reason:
            return "completed", reason
        flags, steps, done = self.experiment.flags, self.experiment.steps, module.steps_done
        if done < steps:
            cause = stopped_by(trainer, self.experiment.named_callbacks)
            return "stopped", f"{cause} at step {done} of {steps}"
        if steps < flags.max_steps:
            end = f"trainer.max_epochs={flags.max_epochs} was reached"
            return "stopped", f"{end} at step {done} of {flags.max_steps}"
        return "completed", ""

    def _embedding_arrays(self, when: str) -> dict[str, np.ndarray]:
        """The training embedding, at most SCATTER_POINTS of its points spread over the data, with labels."""
        embedding = self.module.embedding()
        chosen = np.unique(np.linspace(0, embedding.shape[-2] - 1, SCATTER_POINTS).astype(int))
        arrays = {f"embedding_{when}": embedding[:, chosen].numpy()}
        labels = self.experiment.labels
        if labels is not None:
            arrays["labels"] = labels.numpy()[chosen]
        return arrays

    def _write_trajectory(self, first: dict[str, np.ndarray]) -> None:
        self.module._cache.clear()
        arrays = self.module.recorder.trajectory() | first | self._embedding_arrays("final")
        if self.module.eigvals is not None:
            arrays["eigvals"] = self.module.eigvals.numpy()
        self.folder.write_trajectory(arrays)

    def _summary(self, status: str, reason: str) -> dict[str, Any]:
        """The content of ``summary.json``."""
        module = self.module
        measured: dict[str, Any] = {"steps": module.steps_done, **self.ran}
        measured |= {f"trainer/{key}": text for key, text in self.experiment.effects().items()}
        if module.steps_skipped:
            measured["trainer/steps_skipped"] = module.steps_skipped
        measured |= module.recorder.last
        for callback in self.experiment.callbacks:
            if isinstance(callback, Observer):
                measured |= callback.summary()
        measured |= {f"checkpoint/best_{key}": value for key, value in self.checkpointing.best_of.items()}
        return summary(
            status, reason, self.experiment.facts(), measured, {SECONDS: self.checkpointing.seconds}
        )
