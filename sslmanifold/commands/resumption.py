"""``sslmanifold train ckpt_path=DIR``: the command line of a run that goes on, from the one that started it."""

import re
from pathlib import Path
from typing import Any

from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder
from sslmanifold.training.resume import locate_checkpoint, resumed_config


def _key(argument: str) -> str:
    return argument.split("=")[0].lstrip("+~")


def _value(arguments: list[str], key: str) -> str | None:
    """The last value given to a key, without quotes; None where there is none or it is null."""
    values = [a.split("=", 1)[1] for a in arguments if "=" in a and _key(a) == key]
    if not values:
        return None
    value = re.sub(r"^(['\"])(.*)\1$", r"\2", values[-1].strip())
    return None if value in ("", "null") else value


def _quoted(value: object) -> str:
    """A value as Hydra's grammar takes it, whatever characters a path has."""
    return "'" + str(value).replace("'", r"\'") + "'"


def _recorded(folder: RunFolder) -> list[str]:
    """The overrides that the run was started with."""
    from omegaconf import OmegaConf

    path = folder.path / ".hydra" / "overrides.yaml"
    return [str(line) for line in OmegaConf.load(path)] if path.exists() else []


def resume_arguments(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """The arguments to compose, and the overrides among them that are new; None where nothing is resumed.

    Raises:
        UserError: for a ``ckpt_path`` that is no run's, a sweep, or another ``hydra.run.dir``.
    """
    ckpt_path = _value(arguments, "ckpt_path")
    if ckpt_path is None:
        return arguments, None
    run_dir = _value(arguments, "hydra.run.dir")
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(
            "ckpt_path goes on with one run: to finish a sweep repeat its line with resume=true and its hydra.sweep.dir"
        )
    folder, checkpoint = locate_checkpoint(ckpt_path, run_dir)
    new = [a for a in arguments if _key(a) not in ("ckpt_path", "hydra.run.dir")]
    here = f"hydra.run.dir={_quoted(folder.path)}"
    if not folder.holds_run():  # ckpt_path=last where nothing has run yet: a line that can simply be repeated
        return [*new, here], None
    if run_dir is not None and Path(run_dir).resolve() != folder.path.resolve():
        raise UserError(
            f"ckpt_path={ckpt_path} goes on in its own run folder, not in hydra.run.dir={run_dir}: leave "
            "hydra.run.dir out"
        )
    overrides = [a for a in new if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    replaced = {_key(a) for a in overrides} | {"ckpt_path", "overwrite"}
    before = [
        a
        for a in _recorded(folder)
        if _key(a) not in replaced and not _key(a).startswith(("hydra.", "hydra/"))
    ]
    target = checkpoint if checkpoint.exists() else folder.path
    return [*before, *new, here, f"ckpt_path={_quoted(target)}"], overrides


def resumed_options(options: dict[str, Any], folder: Path, overrides: list[str] | None) -> dict[str, Any]:
    """The configuration to go on with: that of the run folder, with what the new overrides may change."""
    if overrides is None or not options.get("ckpt_path"):
        return options
    saved = resumed_config(Run(folder).config, options, overrides, folder)
    return saved | {"ckpt_path": options["ckpt_path"]}
