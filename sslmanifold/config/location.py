"""Where the yaml files lie: beside the package in a checkout, inside it in a wheel."""

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
