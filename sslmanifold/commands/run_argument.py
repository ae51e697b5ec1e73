"""``sslmanifold <command> DIR`` and ``sslmanifold <command> run=DIR`` are the same."""

import re
from collections.abc import Sequence
from pathlib import Path

_OVERRIDE = re.compile(r"(\+{0,2}|~)[\w./@:]+(=|$)", re.ASCII)
_FLAGS_WITH_VALUE = {
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--info", "-i",
}  # fmt: skip


def with_run_argument(arguments: Sequence[str], key: str = "run") -> list[str]:
    """The arguments with a positional folder turned into ``key=…``, and that path quoted.

    Hydra's grammar reads commas, brackets and equals signs; a path may have any of them. What exists on disk, or
    has no equals sign, is a folder; all else is an override or a flag.
    """
    result: list[str] = []
    value_follows = False
    for argument in arguments:
        if value_follows or argument.startswith(("-", "~")):
            value_follows = argument in _FLAGS_WITH_VALUE
            result.append(argument)
        elif argument.startswith(f"{key}="):
            path = argument[len(key) + 1 :]
            result.append(argument if path[:1] in ("'", '"', "") else f"{key}={_quoted(path)}")
        elif "=" in argument and _OVERRIDE.match(argument) and not Path(argument).exists():
            result.append(argument)
        else:
            result.append(f"{key}={_quoted(argument)}")
    return result


def _quoted(path: str) -> str:
    return "'" + path.replace("'", r"\'") + "'"
