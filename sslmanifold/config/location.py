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
