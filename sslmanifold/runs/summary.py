"""What ``summary.json`` holds, whoever leaves it: a training, a solution, a job that failed before either."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sslmanifold.runs.folder import STATUSES

PACKAGES = ("sslmanifold", "torch", "lightning", "geoopt", "hydra-core", "numpy", "scipy", "scikit-learn")


def summary(status: str, reason: str, *entries: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``: how the run ended and why, what is known of it, and the versions used.

    Args:
        status: one of ``STATUSES``.
        reason: in words; empty for a run that simply completed.
        entries: what is known, later ones over earlier ones.
    """
    assert status in STATUSES
    content: dict[str, Any] = {"status": status, "reason": reason}
    for known in entries:
        content |= {key: value for key, value in known.items() if key not in ("status", "reason", "versions")}
    return content | {"versions": versions()}


def versions() -> dict[str, str]:
    """Package → installed version, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
