"""Self-supervised models whose weights live on manifolds, next to their exact learning dynamics.

Importing the package is cheap: public names load on first use.
"""

from importlib import import_module

from sslmanifold.version import __version__

TYPE_CHECKING = (
    False  # typing's own would be imported: `python -m` looks into the current directory first until
)
if (
    TYPE_CHECKING
):  # sslmanifold.cli takes it off the import path, so nothing is imported here that is not loaded yet
    from typing import Any

_PUBLIC: dict[str, str] = {
    "DynamicsEmbedding": "sslmanifold.dynamics_embedding",
    "Run": "sslmanifold.runs",
    "constrain": "sslmanifold.constraints",
    "describe": "sslmanifold.constraints",
    "load_run": "sslmanifold.runs",
    "release": "sslmanifold.constraints",
    "train": "sslmanifold.api",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> "Any":
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(
        f"module 'sslmanifold' has no attribute {name!r}: public names are {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted(__all__)
