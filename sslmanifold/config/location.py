"""Where things lie: the yaml files, beside the package in a checkout and inside it in a wheel; the home folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path


def config_dir() -> Path:
    """The absolute path of ``conf/``."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").exists():
            return candidate
    raise FileNotFoundError(
        f"sslmanifold's conf/ directory is neither in {package} nor beside it: reinstall the package"
    )


def command_dir(command: str) -> Path:
    """The folder of ``<command>.yaml``: ``conf/``, or a folder of the command's own.

    In ``conf/`` a key with the name of a group chooses one of its files; a command whose plain keys have such
    names, as ``reproduce data=mnist`` has, lies apart from the groups.
    """
    own = config_dir() / command
    return own if (own / f"{command}.yaml").exists() else config_dir()


def at_home(arguments: Sequence[str]) -> list[str]:
    """Arguments with the ``~`` of ``key=~/file`` spelled out: shells leave it there, and Hydra's grammar has none."""

    def home(match: re.Match[str]) -> str:
        return os.path.expanduser(match[0])

    return [
        argument if re.search(r"['\"]", argument) else re.sub(r"(?<=[=,\[])~[\w.-]*(?=/)", home, argument)
        for argument in arguments
    ]
