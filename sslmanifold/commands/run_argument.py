"""``sslmanifold <command> DIR`` and ``sslmanifold <command> run=DIR`` are the same."""

from collections.abc import Sequence


def with_run_argument(arguments: Sequence[str], key: str = "run") -> list[str]:
    """The arguments with the first positional one turned into ``key=…``, and every such path quoted.

    Hydra's grammar reads commas, brackets and equals signs; a path may have any of them.
    """
    result: list[str] = []
    takes_value = False
    for argument in arguments:
        is_flag = argument.startswith("-")
        override = argument.partition("=")[0].lstrip("+~").replace("/", "").replace(".", "").replace("_", "")
        names_key = "=" in argument and (override.isalnum() or argument.startswith("~"))
        if takes_value or is_flag or names_key or argument.startswith("~"):
            takes_value = argument in (
                "--config-dir",
                "-cd",
                "--config-name",
                "-cn",
                "--config-path",
                "-cp",
                "--package",
            )
            if argument.startswith(f"{key}=") and argument[len(key) + 1 : len(key) + 2] not in ("'", '"', ""):
                argument = f"{key}={_quoted(argument[len(key) + 1 :])}"
            result.append(argument)
        else:
            result.append(f"{key}={_quoted(argument)}")
    return result


def _quoted(path: str) -> str:
    return "'" + path.replace("'", r"\'") + "'"
