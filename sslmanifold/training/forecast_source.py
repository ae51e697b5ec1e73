"""What a forecast is of: the training that a line describes, or the run that a folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sslmanifold.errors import UserError
from sslmanifold.models.linear_map import LinearMap
from sslmanifold.runs import Run
from sslmanifold.runs.keys import RANK
from sslmanifold.training.dynamics import times_of
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.forecast import Forecast, constraints_of, forecast
from sslmanifold.training.forecast_start import drawn_start, saved_start

Progress = Callable[[str], None]


def forecast_line(training: dict[str, Any], options: dict[str, Any], progress: Progress) -> Forecast:
    """The forecast of a training before it begins.

    Args:
        training: the configuration as ``train`` takes it.
        options: as ``forecast_options`` gives them, without a folder.

    Raises:
        UserError: for a mistake in the configuration, or ``start`` at weights that only a run has.
    """
    if options["start"] in ("last", "best"):
        raise UserError(
            f"start={options['start']} is a checkpoint of a run: give its folder, sslmanifold forecast DIR "
            f"start={options['start']}, or leave it out"
        )
    return _from_the_draw(_experiment(training), options, progress)


def forecast_folder(
    asked: dict[str, Any], options: dict[str, Any], progress: Progress
) -> tuple[Forecast, Path]:
    """The forecast of a run's time to come, from its checkpoint, and where it is kept.

    Nothing that the folder holds is executed: see ``load_run``.

    Args:
        asked: the configuration as composed, of which ``threads`` counts.
        options: as ``forecast_options`` gives them.

    Raises:
        UserError: where the folder holds no run, or no such checkpoint, or names a class that it may not.
    """
    start = "last" if options["start"] == "auto" else options["start"]
    run = Run(options["run"], checkpoint="best" if start == "best" else "last", trust=options["trust"])
    training = {key: value for key, value in run.config.items() if key not in ("time", "points")}
    training |= {"threads": asked.get("threads", 1), "ckpt_path": None, "resume": False}
    training["logger"] = {"_target_": "sslmanifold.loggers.CSVOnly"}  # nothing is logged, and nothing sent
    if start == "initial":
        experiment = _experiment(training, run)
        return _from_the_draw(experiment, options, progress), run.folder.forecast
    model = run.model
    if isinstance(model, LinearMap):
        raise UserError(
            f"{run.path} was solved, not trained, and holds the map alone, no weights to go on from: set start=initial"
        )
    experiment = _experiment(training, run)
    shape = experiment.module.network.shape
    if shape != model.shape:
        raise UserError(
            f"{run.path}: its data now have {shape.dim} features, its model takes {model.shape.dim}: restore the data "
            f"that config.yaml names (data={experiment.names['data']})"
        )
    weights = list(model.weights)
    ranks = [value for value in run.metrics.get(RANK, []) if value == value]
    step = run.summary.get("steps")
    after = f" after {step} steps" if start == "last" and step is not None else ""
    found = forecast(
        experiment,
        constraints_of(experiment, options["constraints"]),
        lambda constraint: saved_start(constraint, shape, weights),
        times_of(experiment, options),
        origin=f"the weights in checkpoints/{run.checkpoint.name} of {run.path}{after}",
        largest=max(ranks, default=1.0),
        progress=progress,
    )
    return found, run.folder.forecast


def _experiment(training: dict[str, Any], run: Run | None = None) -> Experiment:
    """Built and checked as training would, in float64."""
    exact = training | {"trainer": dict(training["trainer"]) | {"precision": "64-true"}}
    return Experiment(exact, None if run is None else run.opened)


def _from_the_draw(experiment: Experiment, options: dict[str, Any], progress: Progress) -> Forecast:
    shape = experiment.module.network.shape
    generators = experiment.generators()
    return forecast(
        experiment,
        constraints_of(experiment, options["constraints"]),
        lambda constraint: drawn_start(constraint, shape, generators),
        times_of(experiment, options),
        origin=f"the orthonormal (Haar) weights that seed={experiment.options['seed']} draws",
        progress=progress,
    )
