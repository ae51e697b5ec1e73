"""``sslmanifold train``: one run, or with -m a sweep of them."""

import functools
import sys
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sslmanifold.commands.application import EXIT_MISTAKE, complain, only_note_a_signal, run_application
from sslmanifold.config.compose import plain
from sslmanifold.config.targets import trusted_packages
from sslmanifold.errors import UserError, printable
from sslmanifold.runs.plain_yaml import yaml_text


def task(config: DictConfig, resumed: dict[str, Any] | None = None) -> Any:
    """One run: train, print the result table; returns the value of ``optimized_metric``.

    Args:
        config: as composed.
        resumed: the configuration of a run that goes on; None for a new run.
    """
    from sslmanifold.report.terminal import print_run
    from sslmanifold.runs import ENDED, Run, RunFolder
    from sslmanifold.sweeps.objective import objective
    from sslmanifold.training.resume import finished

    hydra = HydraConfig.get()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.get("resume") and hydra.mode != RunMode.MULTIRUN:
        raise UserError(
            "resume=true goes on with a sweep (-m): to go on with one run, give its folder, ckpt_path=DIR"
        )
    if hydra.mode == RunMode.MULTIRUN:
        run = _sweep_job(config, folder, hydra)
    else:
        options = plain(config)
        trust = trusted_packages(options["trust"])
        if resumed is not None:
            options = resumed | {"ckpt_path": options["ckpt_path"]}
        nothing_left = options.get("ckpt_path") and finished(options, RunFolder(folder))
        before = _written(folder)
        try:
            run = _train(options, folder, trust=trust)
        except KeyboardInterrupt:
            # between the summary, which is written last, and the line below a signal comes too late for the run
            if _written(folder) == before or Run(folder).summary.get("status") not in ENDED:
                raise
            run = Run(folder)
        if run.summary["status"] != "interrupted":
            only_note_a_signal()
        if nothing_left:
            steps = options["trainer"]["max_steps"]
            print(f"{folder} has done its {steps} steps: trainer.max_steps=N adds more", file=sys.stderr)
        print_run(run)
    if run.summary["status"] == "interrupted" or (run.signals and hydra.mode == RunMode.MULTIRUN):
        raise KeyboardInterrupt  # a sweep ends with a job that a signal came too late for
    return objective(run.summary, config.get("optimized_metric"))


def _written(folder: Path) -> int | None:
    """When the folder's summary was written, in nanoseconds; None where there is none."""
    summary = folder / "summary.json"
    return summary.stat().st_mtime_ns if summary.is_file() else None


def _train(options: dict[str, Any], folder: Path, **source: Any) -> Any:
    """Train with as many BLAS and OpenMP threads as ``threads`` says, not as many as there are cores."""
    from threadpoolctl import threadpool_limits

    from sslmanifold.training.fit import run_training

    logger = options.get("logger") or {}
    if (
        "group" in logger and logger["group"] is None
    ):  # W&B shows the runs of an experiment or a sweep together
        logger["group"] = _group(HydraConfig.get())
    threads = options.get("threads")
    with threadpool_limits(threads if isinstance(threads, int) and threads > 0 else 1):
        return run_training(options, folder, **source)


def _group(hydra: HydraConf) -> str | None:
    """The name of the experiment, else of the sweep's folder; None for a run of its own."""
    experiment = hydra.runtime.choices.get("experiment")
    if experiment and experiment != "none":
        return str(experiment)
    # W&B takes names of 128 characters
    return Path(hydra.sweep.dir).name[:128] if hydra.mode == RunMode.MULTIRUN else None


def _sweep_job(config: DictConfig, folder: Path, hydra: HydraConf) -> Any:
    from sslmanifold.report.terminal import job_line
    from sslmanifold.sweeps.job import JobFailed, run_job

    label = f"job {hydra.job.num} ({hydra.job.override_dirname})"
    serial = str(hydra.launcher.get("_target_", "")).endswith("BasicLauncher")

    def train(options: dict[str, Any], path: Path) -> Any:
        if not serial and options.get("callbacks"):  # bars of several processes overwrite each other
            options["callbacks"].pop("progress", None)
        return _train(options, path, typed=True)  # a job that goes on does what the user's own line says

    try:
        run, before = run_job(config, folder, Path(hydra.sweep.dir), dict(hydra.runtime.choices), train)
    except JobFailed as failure:
        print(f"{label} failed: {failure}", flush=True)
        raise
    print(job_line(label, run, before), flush=True)
    return run


def main(arguments: list[str]) -> int:
    resumed = None
    if any("ckpt_path=" in argument for argument in arguments):
        from sslmanifold.commands.resumption import resume_arguments

        try:
            arguments, resumed = resume_arguments(arguments)
        except UserError as error:
            return complain("train", str(error), EXIT_MISTAKE)
        if resumed is not None and "--cfg" in arguments:
            print(printable(yaml_text(resumed)), end="")
            return 0
    return run_application(
        "train", functools.partial(task, resumed=resumed) if resumed is not None else task, arguments
    )
