"""One job of a sweep: skip it where it is done, and leave a summary whatever happens."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from sslmanifold.config.compose import plain, reason
from sslmanifold.errors import OutputError, UserError
from sslmanifold.interrupts import is_of_a_signal, none_lost
from sslmanifold.runs import Run, RunFolder, atomic
from sslmanifold.runs.claim import claimed
from sslmanifold.runs.identity import config_key
from sslmanifold.runs.summary import summary
from sslmanifold.sweeps.manifest import DONE, Manifest


class JobFailed(UserError):
    """A job of a sweep failed: its label and the reason, in a form that travels between processes."""


def run_job(
    config: DictConfig,
    folder: Path,
    sweep_dir: Path,
    choices: dict[str, Any],
    train: Callable[[dict[str, Any], Path], Run],
) -> tuple[Run, bool]:
    """Run one job, unless ``resume`` is set and the sweep already has its result.

    Args:
        config: the job's composed configuration.
        folder: where Hydra wants the job.
        sweep_dir: the folder of the whole sweep.
        choices: group → chosen option, for the summary of a job that fails early.
        train: resolved configuration, run folder → finished run.

    Returns:
        The run, and whether it had been done before.

    Raises:
        JobFailed: for any failure; ``summary.json`` then has ``status: failed`` and the reason.
    """
    with none_lost():  # a worker process has no other that sees to it
        return _run_job(config, folder, sweep_dir, choices, train)


def _run_job(
    config: DictConfig,
    folder: Path,
    sweep_dir: Path,
    choices: dict[str, Any],
    train: Callable[[dict[str, Any], Path], Run],
) -> tuple[Run, bool]:
    resume = bool(config.get("resume"))
    try:
        options = plain(config)
        key = config_key(options)
        if resume:
            folder = _place(key, folder, sweep_dir)
    except Exception as error:
        if is_of_a_signal(error):
            raise KeyboardInterrupt from error
        _leave_summary(folder, config, choices, error)
        raise JobFailed(reason(error)) from None
    with claimed(folder, wait=True):
        try:
            if resume:
                _restore_config(key, folder)
                if _holds(key, folder) and Run(folder).summary.get("status") in DONE:
                    return Run(folder), True
                options["resume"] = False  # the run folder tells the same whether or not it was resumed
                if _can_go_on(key, folder):
                    try:
                        return train(options | {"ckpt_path": str(folder)}, folder), False
                    except UserError:
                        pass  # a checkpoint that cannot be gone on from: start again
                RunFolder(folder).clear()
            elif RunFolder(folder).holds_results() and not options.get("overwrite"):
                raise UserError(
                    f"{folder} already holds a run: set resume=true to do what is missing or failed, overwrite=true "
                    "to do everything again, or another hydra.sweep.dir"
                )
            return train(options, folder), False
        except Exception as error:
            if is_of_a_signal(error):
                raise KeyboardInterrupt from error
            _leave_summary(folder, config, choices, error)
            raise JobFailed(reason(error)) from None


def _holds(key: str, folder: Path) -> bool:
    """Whether the folder holds a run of this configuration, finished or not."""
    try:
        return RunFolder(folder).config.exists() and config_key(Run(folder).config) == key
    except UserError:  # a damaged config.yaml is nobody's
        return False


def _readable(folder: Path) -> bool:
    """Whether the folder's configuration says whose it is; a damaged one is the job's whose number the folder has."""
    try:
        return bool(Run(folder).config)
    except UserError:
        return False


def _restore_config(key: str, folder: Path) -> None:
    """A damaged config.yaml again, where the checkpoint beside it is this job's: it has a copy."""
    from sslmanifold.models.restore import read_checkpoint

    run = RunFolder(folder)
    if run.config.exists() and run.checkpoint.exists() and not _readable(folder):
        with suppress(UserError):
            saved = read_checkpoint(run.checkpoint)["sslmanifold"].get("config") or {}
            if config_key(saved) == key:
                run.write_config(saved)


def _place(key: str, folder: Path, sweep_dir: Path) -> Path:
    """Where the sweep has this job already, else ``folder``, else one beside it: job numbers shift when the line
    changes, and no job takes the folder of another."""
    manifest = Manifest.read(sweep_dir)
    known = None if manifest is None else manifest.folders.get(key)
    if known is not None and _holds(key, sweep_dir / known):
        return sweep_dir / known
    if _holds(key, folder) or not RunFolder(folder).config.exists() or not _readable(folder):
        return folder
    return folder.with_name(f"{folder.name}_{key[:8]}")


def _can_go_on(key: str, folder: Path) -> bool:
    """Whether the folder holds a checkpoint of this very job, stopped from outside before its end."""
    if not (_holds(key, folder) and RunFolder(folder).checkpoint.exists()):
        return False
    return Run(folder).summary.get("status", "interrupted") == "interrupted"


def _leave_summary(folder: Path, config: DictConfig, choices: dict[str, Any], error: Exception) -> None:
    """Status and reason, with the names of the choices; a finished run that is already there stays."""
    with suppress(OutputError):  # the error in hand is the one to tell
        _write_left(RunFolder(folder), config, choices, error)


def _write_left(run_folder: RunFolder, config: DictConfig, choices: dict[str, Any], error: Exception) -> None:
    from omegaconf import OmegaConf

    former = Run(run_folder.path).summary if run_folder.config.exists() else {}
    if former.get("status") in DONE:
        return
    if not run_folder.config.exists():
        run_folder.write_config(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    status = (
        "interrupted" if isinstance(error, OutputError) else "failed"
    )  # there may be room, when it is resumed
    names = {key: choices[key] for key in ("data", "model", "loss", "constraint") if choices.get(key)}
    known = {**names, "seed": config.get("seed")}
    run_folder.write_summary(summary(status, reason(error), known, former))
    if not isinstance(error, (UserError, MissingMandatoryValue)):
        with atomic(run_folder.path / "traceback.txt") as temporary:
            temporary.write_text(traceback.format_exc(), encoding="utf-8")
