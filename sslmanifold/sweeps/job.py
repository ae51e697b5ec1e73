"""One job of a sweep: skip it where it is done, and leave a summary whatever happens."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from sslmanifold.config.application import plain, reason
from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder
from sslmanifold.sweeps.claim import claimed
from sslmanifold.sweeps.identity import config_key
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
    with claimed(folder):
        try:
            options = plain(config)
            if options.get("resume"):
                key = config_key(options)
                done = _finished(key, folder, sweep_dir)
                if done is not None:
                    return done, True
                folder = _place(key, folder)
                options["resume"] = False  # the run folder tells the same whether or not it was resumed
                if _can_go_on(key, folder):
                    try:
                        return train(options | {"ckpt_path": str(folder)}, folder), False
                    except UserError:
                        pass  # a checkpoint that cannot be gone on from: start again
                RunFolder(folder).clear()
            return train(options, folder), False
        except Exception as error:
            _leave_summary(folder, config, choices, error)
            raise JobFailed(reason(error)) from None


def _finished(key: str, folder: Path, sweep_dir: Path) -> Run | None:
    """The run with this key that the sweep already has: in its own folder, or where the manifest says."""
    manifest = Manifest.read(sweep_dir)
    elsewhere = None if manifest is None else manifest.done.get(key)
    for path in (folder, *([] if elsewhere is None else [sweep_dir / elsewhere])):
        if RunFolder(path).config.exists():
            run = Run(path)
            if run.summary.get("status") in DONE and config_key(run.config) == key:
                return run
    return None


def _place(key: str, folder: Path) -> Path:
    """``folder``, or one beside it where that holds another finished job (the sweep line has changed)."""
    if RunFolder(folder).config.exists():
        other = Run(folder)
        if other.summary.get("status") in DONE and config_key(other.config) != key:
            return folder.with_name(f"{folder.name}_{key[:8]}")
    return folder


def _can_go_on(key: str, folder: Path) -> bool:
    """Whether the folder holds a checkpoint of this very job, stopped from outside before its end."""
    run_folder = RunFolder(folder)
    if not (run_folder.config.exists() and run_folder.checkpoint.exists()):
        return False
    run = Run(folder)
    return run.summary.get("status", "interrupted") == "interrupted" and config_key(run.config) == key


def _leave_summary(folder: Path, config: DictConfig, choices: dict[str, Any], error: Exception) -> None:
    """Status and reason, with the names of the choices; a finished run that is already there stays."""
    from omegaconf import OmegaConf

    run_folder = RunFolder(folder)
    summary = Run(folder).summary if run_folder.config.exists() else {}
    if summary.get("status") in DONE:
        return
    if not run_folder.config.exists():
        run_folder.write_config(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    names = {key: choices[key] for key in ("data", "model", "loss", "constraint") if choices.get(key)}
    known = {"status": "failed", "reason": reason(error), **names, "seed": config.get("seed")}
    run_folder.write_summary({**known, **summary, "status": "failed"})
    if not isinstance(error, (UserError, MissingMandatoryValue)):
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
