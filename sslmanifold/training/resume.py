"""``ckpt_path=``: going on with a run in its own folder."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmanifold.config.arguments import unquoted
from sslmanifold.config.compose import composed
from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.identity import flat
from sslmanifold.runs.plain_yaml import read_plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What may differ between the parts of a run without making it another run.
CHANGEABLE = (
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.detect_anomaly",
    "trainer.profiler",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "threads",
    "checkpoint",
    "callbacks.progress",
    "callbacks.figures",
    "ckpt_path",
    "overwrite",
    "trust",
    "resume",
    "optimized_metric",
    "sweep",
    "hydra",
)

# keys of the command that goes on, not of the run
OF_THE_COMMAND = ("ckpt_path", "overwrite", "trust")


# Lightning's callbacks watch and stop; the ones that change training are refused, but for this one
_LIGHTNING, _ACCUMULATES = "lightning.pytorch.callbacks.", "GradientAccumulationScheduler"


def changeable(key: str, *configs: Mapping[str, Any]) -> bool:
    """Whether a run may be resumed with another value of this key, of which the ``configs`` are the two values."""
    if any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
        return True
    group, _, rest = key.partition(".")
    if group != "callbacks" or not rest:
        return False
    chosen = [(config.get("callbacks") or {}).get(rest.split(".")[0]) for config in configs]
    targets = [str(options.get("_target_")) for options in chosen if options]
    return bool(targets) and all(t.startswith(_LIGHTNING) and not t.endswith(_ACCUMULATES) for t in targets)


def locate_checkpoint(ckpt_path: str | Path, run_dir: str | Path | None = None) -> tuple[RunFolder, Path]:
    """The run folder and the checkpoint that ``ckpt_path`` means; the checkpoint need not exist.

    Args:
        ckpt_path: a run folder, its ``checkpoints`` folder, a checkpoint in it, or "last" or "best" for the
            one in ``run_dir``.

    Raises:
        UserError: where it is none of these.
    """
    if str(ckpt_path) in ("last", "best"):
        if run_dir is None:
            raise UserError(f"ckpt_path={ckpt_path} of which run? set hydra.run.dir=DIR, or ckpt_path=DIR")
        folder = RunFolder(run_dir)
        return folder, folder.checkpoint if str(ckpt_path) == "last" else folder.best
    path = Path(ckpt_path)
    if path.suffix == ".ckpt":
        folder, checkpoint = RunFolder(path.parent.parent), path
        if not path.exists():
            raise UserError(
                f"ckpt_path={path} does not exist: pass the run folder, or a file in its checkpoints/"
            )
        if path.parent.name != "checkpoints" or not folder.config.exists():
            raise UserError(
                f"ckpt_path={path} lies in no run folder: a run is resumed from DIR/checkpoints/*.ckpt, next to "
                "DIR/config.yaml"
            )
        return folder, checkpoint
    folder = RunFolder(path.parent if path.name == "checkpoints" else path)
    if not folder.config.exists():
        raise UserError(f"ckpt_path={path} is not a run folder: it has no config.yaml")
    return folder, folder.checkpoint


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ and which make a run another run; a trainer key that is null is one left out."""
    a, b = (
        {
            key: value
            for key, value in flat(config).items()
            if value is not None or not key.startswith("trainer.")
        }
        for config in (ours, theirs)
    )
    absent = object()
    return sorted(
        key
        for key in a.keys() | b.keys()
        if a.get(key, absent) != b.get(key, absent) and not changeable(key, ours, theirs)
    )


def key_of(argument: str) -> str:
    """The key of an override."""
    return argument.split("=")[0].lstrip("+~")


def value_of(arguments: Sequence[str], key: str) -> str | None:
    """The last value given to a key, without quotes; None where there is none or it is null."""
    values = [a.split("=", 1)[1] for a in arguments if "=" in a and key_of(a) == key]
    if not values:
        return None
    value = unquoted(values[-1])
    return None if value in ("", "null") else value


def of_hydra(argument: str) -> bool:
    """Whether an override is Hydra's own, as hydra.run.dir=DIR is."""
    return re.split(r"[./@]", key_of(argument))[0] == "hydra"


def _recorded(folder: RunFolder) -> list[str]:
    """The overrides that the run was started with, as far as they are that.

    They come with the folder, so they compose the run that new overrides are compared with, and are never given to
    Hydra as a command line.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        lines = read_plain(folder.path / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return []
    kept = []
    for line in lines if isinstance(lines, list) else []:
        if not isinstance(line, str) or of_hydra(line) or key_of(line) in OF_THE_COMMAND:
            continue
        try:
            (override,) = OverridesParser.create().parse_overrides([line])
        except HydraException:
            continue
        if not override.is_sweep_override() and "@" not in key_of(line):
            # a key that had to be added when the run was started may be one of the defaults by now
            kept.append(re.sub(r"^\+(?=trainer\.)", "++", line))
    return kept


def going_on(folder: Path, typed: Sequence[str], config_dir: str | Path | None = None) -> dict[str, Any]:
    """The configuration of a run folder with what new overrides may change in it.

    Args:
        folder: the run folder.
        typed: the new overrides.
        config_dir: a directory of further config groups.

    Raises:
        UserError: for an override that does not compose, or would make it another run.
    """
    saved = Run(folder).config
    new = [line for line in typed if not of_hydra(line) and key_of(line) not in OF_THE_COMMAND]
    if not new:
        return saved
    replaced = {key_of(line) for line in new}
    before = [line for line in _recorded(RunFolder(folder)) if key_of(line) not in replaced]
    try:
        wanted = composed("train", [*before, *new], config_dir)
    except UserError:
        if not before:
            raise
        # the run's own groups may be out of reach; what is new then has to compose alone
        wanted = composed("train", new, config_dir)
    return resumed_config(saved, wanted, new, folder)


def resumed_config(
    saved: dict[str, Any], wanted: "DictConfig", overrides: Sequence[str], where: Path
) -> dict[str, Any]:
    """The run's own configuration with what the overrides may change.

    Args:
        saved: ``config.yaml`` of the run.
        wanted: the run's overrides and the new ones, composed.
        overrides: the new ones, as typed; all else in ``wanted`` is ignored, so that a default that has
            changed since does not matter.
        where: the run folder, for messages.

    Raises:
        UserError: for an override that would make it another run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    result = copy.deepcopy(saved)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+~").replace("/", ".").split("@")[0]
        new, old = OmegaConf.select(wanted, key), _value_at(result, key)
        if OmegaConf.is_config(new):
            new = OmegaConf.to_container(new, resolve=True)
        if new == old:
            continue
        if not changeable(key, saved, OmegaConf.to_container(wanted)):  # type: ignore[arg-type]
            had = "a different value" if isinstance(old, dict | list) else old
            raise UserError(
                f"{override.input_line} would make another run of {where}, which was trained with {key}={had}: leave "
                "it out, or start a new run without ckpt_path"
            )
        *parents, leaf = key.split(".")
        group = result
        for parent in parents:
            if not isinstance(group.get(parent), dict):
                group[parent] = {}
            group = group[parent]
        group[leaf] = new
    return result


def _value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def checkpoint_to_resume(config: Mapping[str, Any], folder: RunFolder) -> Path | None:
    """The checkpoint that ``config["ckpt_path"]`` means, checked to belong to this run in this folder.

    Returns:
        None where the run was stopped before its first checkpoint: it then starts again.

    Raises:
        UserError: for a checkpoint of another folder, another configuration, or of a run that diverged.
    """
    from sslmanifold.models.restore import read_checkpoint

    source, checkpoint = locate_checkpoint(config["ckpt_path"], folder.path)
    if source.path.resolve() != folder.path.resolve():
        raise UserError(
            f"ckpt_path={config['ckpt_path']} goes on in its own run folder: set hydra.run.dir={source.path}, or "
            "leave it out"
        )
    if not checkpoint.exists():
        return None
    try:
        saved = read_checkpoint(checkpoint)["sslmanifold"]
    except UserError as error:
        other = folder.best if checkpoint != folder.best else folder.checkpoint
        way_out = f"try ckpt_path={other}, or " if other.exists() else ""
        raise UserError(
            f"{error}; {way_out}set overwrite=true hydra.run.dir={folder.path} to start again"
        ) from None
    if saved.get("kind") == "dynamics":
        raise UserError(f"{folder.path} was solved, not trained: there is nothing to go on with")
    for key in differences(config, saved["config"]):
        theirs = flat(saved["config"]).get(key, "nothing")
        raise UserError(
            f"{checkpoint} was trained with {key}={theirs}, not {flat(config).get(key, 'without it')}: resume with the "
            "config.yaml of its own run folder"
        )
    if saved["diverged_at"] is not None:
        raise UserError(
            f"{folder.path} diverged after step {saved['diverged_at']}: there is nothing to go on with; start a new "
            "run with a smaller optimizer.lr or another constraint"
        )
    done, asked = max(saved["steps_done"], _steps(folder)), config["trainer"]["max_steps"]
    if done > asked > 0:
        raise UserError(
            f"trainer.max_steps={asked} is less than the {done} steps that {folder.path} has done, and a run is not "
            "taken back: leave it out or ask for more, or start a new run without ckpt_path"
        )
    return checkpoint


def require_same_schedule(
    factor: Callable[[int, int], float], config: Mapping[str, Any], checkpoint: Path
) -> None:
    """Raise UserError where the steps done would have had other learning rates, had the run been this long at once.

    Args:
        factor: the schedule: step, number of steps → factor on the learning rate.
        config: of the run as it goes on.
        checkpoint: what it goes on from.
    """
    from sslmanifold.models.restore import read_checkpoint

    saved = read_checkpoint(checkpoint)["sslmanifold"]
    before, now = saved["config"]["trainer"]["max_steps"], config["trainer"]["max_steps"]
    if any(factor(step, before) != factor(step, now) for step in range(saved["steps_done"])):
        name = str(config["scheduler"]["_target_"]).rpartition(".")[2].lower()
        raise UserError(
            f"trainer.max_steps={now} would make another run: scheduler={name} spans trainer.max_steps={before}, so "
            f"the {saved['steps_done']} steps already done would have had other learning rates; leave it out, or start "
            "a new run without ckpt_path"
        )


def _steps(folder: RunFolder) -> int:
    """The steps that a completed run has done."""
    summary = Run(folder.path).summary
    return int(summary.get("steps", 0)) if summary.get("status") == "completed" else 0


def finished(config: Mapping[str, Any], folder: RunFolder) -> bool:
    """Whether the run has already done all the steps the configuration asks for, and written its summary."""
    asked = config["trainer"]["max_steps"]
    return asked > 0 and Run(folder.path).summary.get("status") == "completed" and _steps(folder) >= asked
