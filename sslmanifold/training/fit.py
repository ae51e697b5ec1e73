"""One training run: from an experiment to a finished run folder, whatever happens on the way."""

import signal
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException

from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder, atomic
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.figures import Figures
from sslmanifold.training.interruption import stop_on_signals
from sslmanifold.training.observer import Observer
from sslmanifold.training.quiet import quiet_lightning
from sslmanifold.training.recorder import Recorder
from sslmanifold.training.versions import versions

# points kept of the training embedding, for figures
SCATTER_POINTS = 2000


def run_training(config: dict[str, Any], run_dir: str | Path) -> Run:
    """Train what the configuration describes and leave a complete run folder.

    Args:
        config: the resolved configuration as plain containers.
        run_dir: the run folder; must not hold a run unless ``overwrite`` is true.

    Returns:
        The run, read back from its folder. A run that diverged or was stopped by a signal returns too: its
        status says so, and its checkpoint holds the last finite state.

    Raises:
        UserError: for a mistake in the configuration. The folder then holds ``summary.json`` with the reason.
    """
    started = time.monotonic()
    folder = RunFolder(run_dir)
    if folder.holds_run():
        if not config.get("overwrite"):
            raise UserError(f"{folder.path} already holds a run: choose another hydra.run.dir, or set overwrite=true")
        folder.clear()
    folder.write_config(config)
    try:
        experiment = Experiment(config)
    except Exception as error:
        choices = {key: config[key] for key in ("seed", "replicas") if key in config}
        folder.write_summary({"status": "failed", "reason": str(error), **choices, "versions": versions()})
        raise
    return _Training(experiment, folder, started).run()


class _Training:
    """The state of one run between its start and its summary."""

    def __init__(self, experiment: Experiment, folder: RunFolder, started: float) -> None:
        self.experiment = experiment
        self.module = experiment.module
        self.module.recorder = Recorder(folder)
        self.folder = folder
        self.started = started

    def run(self) -> Run:
        """Train, and leave a complete run folder whatever happens.

        Returns:
            The run, read back from its folder.
        """
        experiment = self.experiment
        loggers = experiment.logger.open(self.folder.path, experiment.config, experiment.names)
        figures: list[Path] = []
        try:
            first = self._embedding_arrays("initial")
            trainer = self._trainer(loggers)
            with stop_on_signals(trainer) as stopped, quiet_lightning():
                trainer.fit(self.module, datamodule=experiment.datamodule)
            status, reason = self._outcome(stopped)
            self.module.recorder.write()
            with atomic(self.folder.checkpoint) as temporary, quiet_lightning():
                trainer.save_checkpoint(temporary, weights_only=False)
            self._write_trajectory(first)
            self._write_summary(status, reason)
            for callback in experiment.callbacks:
                if isinstance(callback, Figures):
                    figures += callback.draw(self.folder.path)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self._write_summary(status, str(error) or type(error).__name__)
            raise
        finally:
            experiment.logger.finish(loggers, figures, Run(self.folder.path).summary)
        return Run(self.folder.path)

    def _trainer(self, loggers: list) -> lightning.Trainer:
        bar = any(isinstance(c, lightning.pytorch.callbacks.ProgressBar) for c in self.experiment.callbacks)
        options = {
            "max_epochs": 1,  # the loader yields exactly max_steps batches as one epoch
            "logger": loggers or False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": bar,
            "callbacks": self.experiment.callbacks,
            "default_root_dir": self.folder.path,
        }
        with quiet_lightning():
            try:
                return lightning.Trainer(**(options | self.experiment.trainer_options))
            except (ValueError, TypeError, MisconfigurationException) as error:
                raise UserError(f"trainer: {error}") from error

    def _outcome(self, stopped: list[int]) -> tuple[str, str]:
        module = self.module
        if module.diverged_at is not None:
            reason = f"the loss left the finite numbers after step {module.diverged_at} (time {module.time:.4g})"
            lowest = None if module.eigvals is None else float(module.eigvals[0])
            if lowest is not None and lowest < 0 and module.optimum() is None:
                reason += (
                    f"; the theory predicts it: constraint={self.experiment.constraint.name} has no minimum where C has a "
                    f"negative eigenvalue (λ1 = {lowest:.4g}). Set constraint=orthogonal, operator_norm or scaled"
                )
            else:
                reason += f"; the step is too large: set optimizer.lr below {self.experiment.learning_rate:.3g}"
            return "diverged", reason
        if stopped:
            return "interrupted", f"stopped by {signal.Signals(stopped[0]).name} at step {module.steps_done}"
        return "completed", ""

    def _embedding_arrays(self, when: str) -> dict[str, np.ndarray]:
        """The training embedding, at most SCATTER_POINTS of its points spread over the data, with labels."""
        embedding = self.module.embedding()
        chosen = np.unique(np.linspace(0, embedding.shape[-2] - 1, SCATTER_POINTS).astype(int))
        arrays = {f"embedding_{when}": embedding[:, chosen].numpy()}
        labels = self.experiment.datamodule.samples.train_y
        if labels is not None:
            arrays["labels"] = labels.numpy()[chosen]
        return arrays

    def _write_trajectory(self, first: dict[str, np.ndarray]) -> None:
        self.module._cache.clear()
        arrays = self.module.recorder.trajectory() | first | self._embedding_arrays("final")
        if self.module.eigvals is not None:
            arrays["eigvals"] = self.module.eigvals.numpy()
        self.folder.write_trajectory(arrays)

    def _write_summary(self, status: str, reason: str) -> None:
        module = self.module
        summary: dict[str, Any] = {"status": status, "reason": reason, **self.experiment.names}
        summary |= {key: self.experiment.options[key] for key in ("seed", "replicas")}
        summary |= {"steps": module.steps_done, "optimizer/lr": self.experiment.learning_rate}
        shape = module.network.shape
        summary |= {"dim": shape.dim, "hidden": shape.hidden, "embedding": shape.embedding, "n": self.experiment.datamodule.n}
        optimum = module.optimum()
        if optimum is not None:
            summary["train/optimum"] = optimum
        summary |= module.recorder.last
        for callback in self.experiment.callbacks:
            if isinstance(callback, Observer):
                summary |= callback.summary(module)
        summary |= {"wall_seconds": time.monotonic() - self.started, "versions": versions()}
        self.folder.write_summary(summary)


