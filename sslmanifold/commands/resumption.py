"""``sslmanifold train ckpt_path=DIR``: the command line of a run that goes on, from the one that started it."""

from pathlib import Path
from typing import Any

from sslmanifold.config.arguments import quoted, require_plain, split_flags
from sslmanifold.errors import UserError
from sslmanifold.training.resume import going_on, key_of, locate_checkpoint, of_hydra, value_of


def resume_arguments(arguments: list[str]) -> tuple[list[str], dict[str, Any] | None]:
    """The arguments for Hydra, and the configuration to go on with; None where nothing is resumed.

    Raises:
        UserError: for a ``ckpt_path`` that is no run's, a sweep, another ``hydra.run.dir``, or a new override that
            would make it another run.
    """
    flags, overrides = split_flags(arguments)
    ckpt_path = value_of(overrides, "ckpt_path")
    if ckpt_path is None:
        return arguments, None
    run_dir = value_of(overrides, "hydra.run.dir")
    if "--multirun" in flags:
        raise UserError(
            "ckpt_path goes on with one run: to finish a sweep repeat its line with resume=true and its hydra.sweep.dir"
        )
    folder, checkpoint = locate_checkpoint(ckpt_path, run_dir)
    require_plain(folder.path)
    new = [a for a in overrides if key_of(a) not in ("ckpt_path", "hydra.run.dir")]
    here = f"hydra.run.dir={quoted(folder.path)}"
    if not folder.holds_run():  # ckpt_path=last where nothing has run yet: a line that can simply be repeated
        return [*flags, *new, here], None
    if run_dir is not None and Path(run_dir).resolve() != folder.path.resolve():
        raise UserError(
            f"ckpt_path={ckpt_path} goes on in its own run folder, not in hydra.run.dir={run_dir}: leave "
            "hydra.run.dir out"
        )
    config_dir = flags[flags.index("--config-dir") + 1] if "--config-dir" in flags else None
    config = going_on(folder.path, new, config_dir)
    target = checkpoint if checkpoint.exists() else folder.path
    # what the folder's configuration says is not composed anew; the record of how the run was started stays
    kept = [a for a in new if of_hydra(a) or key_of(a) == "trust"]
    return [*flags, *kept, here, "hydra.output_subdir=null", f"ckpt_path={quoted(target)}"], config
