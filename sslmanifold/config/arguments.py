"""The arguments of commands that need no composed configuration: folders and ``key=value``."""

from collections.abc import Mapping, Sequence

from sslmanifold.config.check import unknown_key
from sslmanifold.errors import UserError


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
        else:
            raise unknown_key("", key, [folder_key, *keys])
    for folder in folders:
        if folder.startswith("-"):
            raise UserError(f"unknown option {folder}: the keys are {', '.join([folder_key, *keys])}")
    return folders, options
