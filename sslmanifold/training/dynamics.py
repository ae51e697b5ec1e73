"""A run solved instead of trained: the same folder from the exact flow alone."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from sslmanifold.config.check import validated
from sslmanifold.errors import OutputError, UserError, notice
from sslmanifold.interrupts import is_of_a_signal
from sslmanifold.metrics import effective_rank, stable_rank, subspace_distance
from sslmanifold.models.linear_map import LinearMap
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.claim import claimed
from sslmanifold.runs.keys import GAP, LOSS, RANK, SECONDS, STABLE_RANK, TIME
from sslmanifold.runs.summary import summary
from sslmanifold.theory.trajectory import Solution
from sslmanifold.training.checkpointing import save_file
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.figures import Figures
from sslmanifold.training.flow_time import time_of_training
from sslmanifold.training.forecast_drive import Drive, drive_of
from sslmanifold.training.options import dynamics_options
from sslmanifold.training.recorder import Recorder

_KIND = {"kind": "dynamics"}
# of a loss without C, for each step of the training: more are a flow that does not come to its end
_EVALUATIONS = 60


def solve_dynamics(config: dict[str, Any], run_dir: str | Path) -> Run:
    """Solve the flow that training with this configuration follows, and leave a run folder like training's.

    Rows of ``metrics.csv`` are points in time (``ode/time``, Σ lr); ``step`` counts them. The checkpoint holds
    the map m at the last time, so that ``load_run(DIR).embed(x)`` embeds new points.

    Raises:
        UserError: for a mistake in the configuration, a nonlinear model, a constraint without a flow, or a flow that
            does not come to its end.
    """
    started = time.monotonic()
    folder = RunFolder(run_dir)
    with claimed(folder.path):
        folder.remove_partial_files()
        if folder.holds_run():
            if folder.holds_results() and not config.get("overwrite"):
                raise UserError(
                    f"{folder.path} already holds a run: choose another hydra.run.dir, or set overwrite=true"
                )
            folder.clear()
        folder.write_config(config)
        try:
            return _solved(config, folder, started)
        except (Exception, KeyboardInterrupt) as error:
            stopped = is_of_a_signal(error)
            reason = "stopped by a signal" if stopped else str(error) or type(error).__name__
            status = "interrupted" if stopped or isinstance(error, OutputError) else "failed"
            with suppress(OutputError):  # the error in hand is the one to tell
                folder.write_summary(summary(status, reason, _KIND))
            raise


def _solved(config: dict[str, Any], folder: RunFolder, started: float) -> Run:
    own: dict[str, Any] = {key: config[key] for key in ("time", "points") if key in config}
    training = {key: value for key, value in config.items() if key not in own}
    training["trainer"] = dict(config["trainer"]) | {"precision": "64-true"}
    options = dynamics_options(**validated(dynamics_options, own, ""))
    experiment = Experiment(training)
    _require_linear(experiment)
    drive = drive_of(experiment)
    for note in drive.notes:
        notice(note)
    solution = _solve(experiment, drive, times_of(experiment, options))
    loggers = experiment.logger.open(folder.path, experiment.config, experiment.names)
    figures: list[Path] = []
    content = summary("failed", "", _KIND)
    try:
        content = _write(experiment, solution, folder, loggers) | {SECONDS: time.monotonic() - started}
        for callback in experiment.callbacks:
            if isinstance(callback, Figures):
                figures += callback.draw(folder.path, content)
    finally:
        experiment.logger.finish(loggers, figures, content)
    folder.write_summary(content)  # last: where it says that the run has ended, all else is there
    return Run(folder.path)


def times_of(experiment: Experiment, options: dict[str, Any]) -> Tensor:
    """Ascending times (T,), quadratically spaced: most of what happens, happens early."""
    end = options["time"]
    if end == "auto":
        end = time_of_training(experiment)
    return end * torch.linspace(0, 1, options["points"], dtype=torch.float64) ** 2


def _require_linear(experiment: Experiment) -> None:
    if not experiment.linear:
        activation = experiment.config["model"]["activation"]
        raise UserError(
            f"the dynamics are those of a linear network, got model.activation={activation}: "
            "set model.activation=linear, or train"
        )


def _solve(experiment: Experiment, drive: Drive, times: Tensor) -> Solution:
    network, constraint = experiment.module.network, experiment.constraint
    weights = [weight.detach().double() for weight in network.weights]
    # replicas are solved in turn where a constraint caps singular values
    limit = _EVALUATIONS * (experiment.steps + len(times)) * network.replicas
    try:
        drive.flow(constraint, network.shape, limit)
        if drive.loss is None:
            return constraint.solve(drive.of(network.shape.dim, limit), network.shape, weights, times)
        # a capped flow of a loss without C is no more exact than its steps: two for each of the training
        between = torch.linspace(0, float(times[-1]), 2 * experiment.steps + 1, dtype=torch.float64)
        fine = torch.cat([times, between]).unique()
        solved = constraint.solve(drive.of(network.shape.dim, limit), network.shape, weights, fine)
        asked = torch.isin(solved.times, times)
        return solved._replace(times=solved.times[asked], m=solved.m[asked], loss=solved.loss[asked])
    except UserError as error:
        raise UserError(f"constraint={constraint.name}: {error}") from None


def _write(
    experiment: Experiment, solution: Solution, folder: RunFolder, loggers: list[Logger]
) -> dict[str, Any]:
    """Everything but figures and summary; returns the content of the latter."""
    blow_up = solution.blow_up
    module, samples = experiment.module, experiment.datamodule.samples
    best = module.optimum()
    recorder = Recorder(folder)
    limit = _limit_subspace(experiment)
    for index, (t, m) in enumerate(zip(solution.times, solution.m, strict=True)):
        embedding = samples.train_x @ m  # (n, d) @ (S, d, z)
        values: dict[str, Tensor] = {TIME: t}
        values[LOSS] = solution.loss[index]
        if best is not None:
            floor = 1e-12 * float(module.eigvals.abs().max())  # type: ignore[union-attr]
            values[GAP] = (solution.loss[index] - best) / max(abs(best), floor)
        values[RANK] = effective_rank(embedding)
        values[STABLE_RANK] = stable_rank(embedding)
        if limit is not None:
            values["ode/limit_distance"] = subspace_distance(m, limit)
        centred = embedding - embedding.mean(-2, keepdim=True)
        arrays = {
            "time": t,
            "ode_m": m.numpy(),
            "ode_loss": solution.loss[index].numpy(),
            "singular_values": torch.linalg.svdvals(centred).numpy(),
        }
        recorder.record(index, values, arrays, loggers)
    recorder.write()

    model = LinearMap(solution.m[-1], module.network.shape.hidden, module.network.preprocessing)
    saved = {"config": experiment.config, "time": float(solution.times[-1]), "kind": "dynamics"}
    save_file({"state_dict": model.state_dict(), "sslmanifold": saved}, folder.checkpoint)
    arrays = recorder.trajectory()
    chosen = np.unique(np.linspace(0, samples.n - 1, 2000).astype(int))
    points = samples.train_x[torch.from_numpy(chosen)]
    arrays |= {
        "embedding_initial": (points @ solution.m[0]).numpy(),
        "embedding_final": (points @ model.m).numpy(),
    }
    if samples.train_y is not None:
        arrays["labels"] = samples.train_y.numpy()[chosen]
    if module.eigvals is not None:
        arrays["eigvals"] = module.eigvals.numpy()
    folder.write_trajectory(arrays)

    status, reason = "completed", ""
    if blow_up is not None:
        status = "diverged"
        reason = (
            f"the flow blows up at t = {blow_up:.6g}: constraint={experiment.constraint.name} has no minimum"
        )
    solved = {"steps": len(solution.times) - 1, "ode/method": solution.method, **recorder.last}
    if blow_up is not None:
        solved["ode/blow_up_time"] = blow_up
    return summary(status, reason, _KIND, experiment.facts(), solved)


def _limit_subspace(experiment: Experiment) -> Tensor | None:
    """The span the trajectory converges to (Conjecture 2), where one is known and unique."""
    if experiment.moment is None:
        return None
    try:
        return experiment.constraint.limit_subspace(experiment.moment, experiment.module.network.shape)
    except UserError:  # a tie at the boundary: the limit depends on the start
        return None
