"""A configuration composed outside a command: for Python, notebooks and tests."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from sslmanifold.config.arguments import quoted
from sslmanifold.config.check import unknown_key
from sslmanifold.config.location import at_home, command_dir
from sslmanifold.errors import UserError


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists: what checkpoints and loggers can hold."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def composed(command: str, overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """``conf/<command>.yaml`` with the overrides, as the command line composes it.

    Args:
        config_dir: a directory of further config groups, as ``--config-dir``.

    Raises:
        UserError: where it does not compose; the message lists the choices.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    lines = at_home(overrides)
    if config_dir is not None:
        lines.append(f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(command_dir(command)), version_base="1.3"):
            return compose(command, overrides=lines)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ValueError) and not of_no_choice(error):
            raise  # a defect, not a mistake
        raise UserError(composition_message(error, command, list(overrides))) from error
    finally:
        GlobalHydra.instance().hydra = before


def reason(error: Exception) -> str:
    """What to tell the user about an error, in one message."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: set {error.full_key}=…"
    return str(error) or type(error).__name__


def of_no_choice(error: Exception) -> bool:
    """Whether Hydra raised it for ``group=null``, the one mistake that it has no class for."""
    return isinstance(error, ValueError) and str(error).startswith("Config group override must be")


def composition_message(error: Exception, command: str, arguments: list[str]) -> str:
    """Hydra's reason for not composing, with the choices spelled out for an unknown key."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(c) for c in chain)
    if of_no_choice(error):
        return _no_choice(command, arguments)
    unknown = re.search(r"Could not override '([\w.@/]+)'", text)
    if unknown and ("not in struct" in text or "not in '" in text):
        return _unknown_key(unknown.group(1), command, arguments)
    present = re.search(r"Could not append to config\. An item is already at '([\w.]+)'", text)
    if present:
        given = next(
            (a for a in arguments if a.startswith(f"+{present.group(1)}=")), f"+{present.group(1)}=…"
        )
        return f"{given}: {present.group(1)} is a key already: set {given.removeprefix('+')}"
    missing = re.search(r"Could not delete from config\. '([\w.]+)' does not exist", text)
    if missing:
        return _unknown_key(missing.group(1), command, arguments)
    if isinstance(error, MissingMandatoryValue):
        return reason(error)
    # of a list of options, callbacks=[a,b], Hydra does not say which there are
    absent = re.search(r"Could not load '(\w+)/([\w-]+)'", text)
    if absent:
        group, name = absent.groups()
        options = sorted(path.stem for path in (command_dir(command) / group).glob("*.yaml"))
        return f"{group}: there is no {name}: choose from {', '.join(options)}"
    lines = [line for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    keep = [line for line in lines if not line.startswith(("See http", "Set the environment", "    "))]
    return "\n".join(keep)


def _no_choice(command: str, arguments: list[str]) -> str:
    for argument in arguments:
        group, sign, value = argument.lstrip("+").partition("=")
        folder = command_dir(command) / group
        if sign and value.strip().lower() in ("null", "") and folder.is_dir():
            names = sorted(path.stem for path in folder.glob("*.yaml"))
            none = {"callbacks": "callbacks=[]", "checkpoint": "~checkpoint", "scheduler": "scheduler=none"}
            without = f", or {none[group]} for none" if group in none else ""
            return f"{argument}: {group} is chosen by name, {' | '.join(names)}{without}"
    return f"a group is chosen by name, and null is none: sslmanifold {command} --help lists the names"


def _unknown_key(key: str, command: str, arguments: list[str]) -> str:
    from hydra import compose, initialize_config_dir

    name = key.split("=")[0]
    # the same composition without plain values: groups still choose which keys there are
    groups = [
        a
        for a in arguments
        if "=" in a and not a.startswith(("-", "+", "~", "hydra")) and "." not in a.split("=")[0]
    ]
    groups = [a for a in groups if "," not in a and a.split("=")[0] != name]
    with initialize_config_dir(str(command_dir(command)), version_base="1.3"):
        try:
            config = compose(command, overrides=groups)
        except Exception:
            config = compose(command)
    parent, _, leaf = name.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(node):
        return f"unknown key {name}: {parent or 'the configuration'} has no keys of its own"
    choices = [str(k) for k in node if str(k) not in ("_target_", "hydra")]
    return str(unknown_key(parent, leaf, choices))
