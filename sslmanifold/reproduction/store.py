"""Finished parts on disk, so that a reproduction that was stopped goes on where it was."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.reproduction.part import IMAGE_PARTS, Result, Settings
from sslmanifold.runs import atomic, finite_json
from sslmanifold.version import __version__

FIGURE_KINDS = ("png", "pdf")


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
        """Whether this part has been computed with these settings; what cannot be read has not."""
        try:
            record = self.record(name)
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and record.get("identity") == self.identity(name, settings)

    def whole(self, name: str) -> bool:
        """Whether the arrays of a finished part are there as they were written."""
        try:
            with zipfile.ZipFile(self.folder / f"{name}.npz") as arrays:
                return arrays.testzip() is None
        except (OSError, zipfile.BadZipFile):
            return False

    def drawn(self, name: str, figures: Path) -> bool:
        """Whether every figure of a finished part has been drawn, and is there as PNG and PDF."""
        names = self.record(name).get("figures")
        return names is not None and all(
            (figures / f"{figure}.{kind}").exists() for figure in names for kind in FIGURE_KINDS
        )

    def note_drawn(self, name: str, figures: Sequence[str]) -> None:
        """Note that these figures are what a part has, all of them drawn."""
        self._write(name, self.record(name) | {"figures": list(figures)})

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
        self._write(name, record)

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
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
