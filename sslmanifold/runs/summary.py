"""The versions a result was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("sslmanifold", "torch", "lightning", "geoopt", "hydra-core", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Package → installed version, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
