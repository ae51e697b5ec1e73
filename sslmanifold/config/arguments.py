"""The arguments of commands, before anything is composed: flags, folders, ``key=value`` and how a path is quoted."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sslmanifold.config.check import unknown_key
from sslmanifold.errors import UserError

# Hydra's flags: None takes no value, a tuple lists the values, "" is any value
FLAGS: dict[str, tuple[str, ...] | str | None] = {
    "--help": None, "--hydra-help": None, "--version": None, "--resolve": None, "--run": None, "--multirun": None,
    "--shell-completion": None, "--cfg": ("job", "hydra", "all"), "--package": "", "--config-path": "",
    "--config-name": "", "--config-dir": "",
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}  # fmt: skip
_SHORT = {
    "-h": "--help", "-r": "--run", "-m": "--multirun", "-sc": "--shell-completion", "-c": "--cfg", "-p": "--package",
    "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir", "-i": "--info",
}  # fmt: skip


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other arguments: its parser wants the flags first.

    Raises:
        UserError: for a flag that there is not, or one without its value.
    """
    flags: list[str] = []
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            others.append(argument)
            continue
        name, sign, value = argument.partition("=")
        name = _SHORT.get(name, name)
        if name == "--experimental-rerun":
            raise UserError(
                "--experimental-rerun reads a pickle, which can run any code: repeat the line, or go on with a run, "
                "ckpt_path=DIR"
            )
        if name not in FLAGS:
            raise UserError(
                f"unknown flag {argument}: the flags are {', '.join(FLAGS)}; overrides are key=value"
            )
        values = FLAGS[name]
        if values is None:
            if sign:
                raise UserError(f"{argument}: {name} takes no value")
            flags.append(name)
            continue
        if name == "--info" and not sign and not (rest and rest[0] in values):
            value = "all"
        elif not sign:
            if not rest:
                raise UserError(f"{argument} wants a value: {argument} {values[0] if values else 'DIR'}")
            value = rest.pop(0)
        if values and value not in values:
            raise UserError(f"{argument} {value}: {name} is one of {', '.join(values)}")
        flags += [name, value]
    return flags, others


_OVERRIDE = re.compile(r"(\+{0,2}|~)[\w./@:]+(=|$)", re.ASCII)


def named_folder(argument: str, key: str = "run") -> str:
    """An argument that names a folder, ``DIR`` or ``run=DIR``, as the override ``run='DIR'``; any other as it is.

    Hydra's grammar reads commas, brackets and equals signs; a path may have any of them. What exists on disk, or
    has no equals sign, is a folder; all else is an override.
    """
    if argument.startswith("~"):
        return argument
    if argument.startswith(f"{key}="):
        path = argument[len(key) + 1 :]
        return argument if path[:1] in ("'", '"', "") else f"{key}={quoted(path)}"
    if "=" in argument and _OVERRIDE.match(argument) and not Path(argument).exists():
        return argument
    return f"{key}={quoted(argument)}"


def require_plain(folder: Path) -> None:
    """Raise UserError for a folder into whose name Hydra would read an interpolation: it takes it unquoted."""
    if "${" in str(folder.absolute()):
        raise UserError(
            f"{folder.absolute()} has ${{ in its name, which Hydra takes for an interpolation: rename it, or start in "
            "and write into another folder"
        )


def quoted(value: object, *, interpolations: bool = False) -> str:
    """A value as Hydra's grammar takes it for that very text, whatever characters a path has.

    Args:
        value: the text.
        interpolations: whether a ``${…}`` in it is one all the same.
    """
    special = r"'" if interpolations else r"\$\{|'"
    text = re.sub(rf"(\\*)({special}|$)", lambda m: m[1] * 2 + (f"\\{m[2]}" if m[2] else ""), str(value))
    return f"'{text}'"


def unquoted(text: str) -> str:
    """The text that an override's value means, as :func:`quoted` writes it or as it was typed.

    What is not in quotes is taken as it is; in quotes a ``${now:…}`` or ``${oc.env:…}`` is resolved, as Hydra does.

    Raises:
        UserError: for an interpolation that has no value outside a composed configuration.
    """
    text = text.strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.utils import setup_globals
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    setup_globals()
    try:
        (override,) = OverridesParser.create().parse_overrides([f"value={text}"])
        return str(OmegaConf.create({"value": override.value()})["value"])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{text} is no folder: {str(error).splitlines()[0]}") from error


def dashed_options(
    arguments: Sequence[str], keys: Mapping[str, str], bare: Mapping[str, Sequence[str]]
) -> list[str]:
    """``--x time --x=time --band`` as the ``x=time x=time band=true`` that they mean; all else as it is.

    Args:
        arguments: as typed.
        keys: the options the command has.
        bare: option → the values that may follow it; before any other word it stands alone, for true.

    Raises:
        UserError: for a flag that there is not, or one without its value.
    """
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, sign, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            found.append(argument)
            continue
        if key not in keys:
            raise unknown_key("", key, list(keys))
        if not sign and key in bare:
            value = rest.pop(0) if rest and rest[0].lower() in bare[key] else "true"
        elif not sign:
            if not rest:
                raise UserError(f"{argument} wants a value: {argument} VALUE, or {key}=VALUE")
            value = rest.pop(0)
        found.append(f"{key}={value}")
    return found


def folders_and_options(
    arguments: Sequence[str], keys: Mapping[str, str], folder_key: str = "run"
) -> tuple[list[str], dict[str, str]]:
    """Split ``DIR DIR key=value`` and ``run=DIR key=value``; both ways of naming folders mean the same.

    Args:
        arguments: as typed.
        keys: the options the command has, with their meaning.
        folder_key: the key that also names folders; several as ``run=[A,B]`` or ``run=A,B``.

    Returns:
        The folders, and option → text.

    Raises:
        UserError: for an option the command does not have; the choices are listed.
    """
    folders: list[str] = []
    options: dict[str, str] = {}
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or "/" in key:
            folders.append(argument)
        elif key == folder_key:
            folders += [part.strip().strip("'\"") for part in value.strip("[]").split(",") if part.strip()]
        elif key in keys:
            options[key] = value.strip("'\"")
        elif Path(argument).exists():  # a folder may have an equals sign in its name
            folders.append(argument)
        else:
            raise unknown_key("", key, [folder_key, *keys])
    for folder in folders:
        if folder.startswith("-"):
            raise UserError(f"unknown option {folder}: the keys are {', '.join([folder_key, *keys])}")
    return folders, options
