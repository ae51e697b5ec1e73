"""Shell completion of ``sslmanifold <command> key=value``: Hydra's, with the command name in between."""

import os
from importlib import import_module

from sslmanifold.config.location import command_dir


def complete(arguments: list[str], commands: list[str]) -> int:
    """``sslmanifold -sc install=bash | uninstall=bash | query=bash`` (also zsh and fish).

    ``query`` is what the shell calls: it reads the line from COMP_LINE and prints the choices.
    """
    action = arguments[1] if len(arguments) > 1 else "install=bash"
    if not action.startswith("query="):
        return _hydra("train", action)
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        typed = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in commands if name.startswith(typed)))
        return 0
    command = words[1]
    if command not in commands or not (command_dir(command) / f"{command}.yaml").exists():
        return 0
    overrides = [
        word for word in words[2:] if not word.startswith("-")
    ]  # Hydra completes no flags beside keys
    os.environ["COMP_LINE"] = " ".join(["sslmanifold", *overrides]) + (" " if line.endswith(" ") else "")
    return _hydra(command, action)


def _hydra(command: str, action: str) -> int:
    return import_module(f"sslmanifold.commands.{command}").main(["-sc", action])
