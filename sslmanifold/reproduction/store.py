"""Finished parts on disk, so that a reproduction that was stopped goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.reproduction.part import IMAGE_PARTS, Result, Settings
from sslmanifold.runs import atomic, finite_json
from sslmanifold.version import __version__


class Store:
    """``parts/<name>.json`` (claims, facts, settings) and ``parts/<name>.npz`` (arrays) of an output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "parts"

    def identity(self, name: str, settings: Settings) -> dict[str, Any]:
        """What a finished part must have been made with to count as finished."""
        return {
            "seed": settings.seed,
            "quick": settings.quick,
            "data": settings.data if name in IMAGE_PARTS else None,
            "version": __version__,
        }

    def finished(self, name: str, settings: Settings) -> bool:
        """Whether this part has been computed with these settings."""
        path = self.folder / f"{name}.json"
        return path.exists() and self.record(name)["identity"] == self.identity(name, settings)

    def save(self, name: str, settings: Settings, result: Result, seconds: float, cpu: float) -> None:
        """Write a part; the json last, since it is what says that the part is finished."""
        with atomic(self.folder / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **dict(result.arrays))  # type: ignore[arg-type]
        record = {
            "identity": self.identity(name, settings),
            "claims": [claim.to_dict() for claim in result.claims],
            "facts": dict(result.facts),
            "caption": result.caption,
            "command": settings.command(name),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
        }
        with atomic(self.folder / f"{name}.json") as temporary:
            temporary.write_text(
                json.dumps(finite_json(record), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )

    def record(self, name: str) -> dict[str, Any]:
        """A finished part's json."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def arrays(self, name: str) -> Mapping[str, np.ndarray]:
        """A finished part's arrays."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)
