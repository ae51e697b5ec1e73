"""When are two jobs the same job, and two sweeps the same sweep?"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

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
    callbacks = kept.get("callbacks") or {}
    kept["callbacks"] = {name: options for name, options in callbacks.items() if name != "progress"}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sweep_line(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a sweep line, in an order that does not depend on how it was typed."""
    return sorted(o for o in overrides if not _beside_the_point(o.split("=")[0].lstrip("+~")))


def _beside_the_point(key: str) -> bool:
    """Whether a key, ``logger`` or ``logger.project``, changes nothing that is computed."""
    return key.split(".")[0] in NOT_IDENTITY or key.split(".")[:2] == ["callbacks", "progress"]
