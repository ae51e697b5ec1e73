"""When are two jobs the same job, and two sweeps the same sweep?"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from sslmanifold.config.targets import RENAMED

# keys that change how a job is run or watched, never what it computes
NOT_IDENTITY = (
    "resume",
    "overwrite",
    "trust",
    "threads",
    "optimized_metric",
    "ckpt_path",
    "checkpoint",
    "logger",
)


def config_key(config: Mapping[str, Any]) -> str:
    """A short name of a resolved configuration, seed included: equal exactly where the results must be.

    Left out are the keys of ``NOT_IDENTITY`` and the progress bar.

    Args:
        config: the resolved configuration as plain containers.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    # null is Lightning's default, and so is a key that an older version did not list
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if value is not None}
    callbacks = kept.get("callbacks") or {}
    kept["callbacks"] = {name: options for name, options in callbacks.items() if name != "progress"}
    figures = kept["callbacks"].get("figures")
    if isinstance(figures, Mapping) and figures.get("formats") == ["png"]:  # which 0.1.0 did not list
        kept["callbacks"]["figures"] = {key: value for key, value in figures.items() if key != "formats"}
    text = json.dumps(_named_as_now(kept), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named_as_now(value: Any) -> Any:
    """The same with every class under the path it has now: an earlier version's run is the same job."""
    if isinstance(value, Mapping):
        return {str(key): _named_as_now(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named_as_now(inner) for inner in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value


def sweep_line(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a sweep line, in an order that does not depend on how it was typed."""
    return sorted(o for o in overrides if not _beside_the_point(o.split("=")[0].lstrip("+~")))


def _beside_the_point(key: str) -> bool:
    """Whether a key, ``logger`` or ``logger.project``, changes nothing that is computed."""
    return key.split(".")[0] in NOT_IDENTITY or key.split(".")[:2] == ["callbacks", "progress"]


# what a run's weights and their data are made of
_MADE_OF = ("seed", "replicas", "data", "model", "loss", "constraint")
# where files lie may change, as when a run is opened on another machine; which files they are may not
_PLACES = ("data.root", "data.path", "data.test_path", "data.labels", "data.test_labels")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of every leaf."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves


def other_weights(config: Mapping[str, Any], saved: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value, value saved) wherever a configuration is not that of the weights saved with the other one."""
    absent = "nothing"
    ours, theirs = (
        flat({key: value for key, value in one.items() if key in _MADE_OF}) for one in (config, saved)
    )
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key, absent), theirs.get(key, absent)
        moved = key in _PLACES and (
            key == "data.root"
            or (isinstance(one, str) and isinstance(other, str) and _file(one) == _file(other))
        )
        if one != other and not moved:
            found.append((key, one, other))
    return found


def _file(path: str) -> str:
    return PurePath(path).name
