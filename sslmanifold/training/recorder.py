"""Rows of measurements: to every logger, and kept for the summary and the trajectory."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.callbacks.observer import spread
from sslmanifold.runs import RunFolder


class Recorder:
    """Sends one row a logged step to ``metrics.csv`` and Lightning's loggers, and remembers it.

    The whole file is rewritten atomically, at most once a second while training: a reader never sees half a
    row, and a resumed run continues the same file.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.last: dict[str, float] = {}
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._written = 0.0
        self._added: dict[str, float] = {}
        self._closing: tuple[dict[str, float], list[str]] | None = None

    def record(
        self,
        step: int,
        values: Mapping[str, Tensor],
        arrays: Mapping[str, Any],
        loggers: list,
        *,
        closing: bool = False,
    ) -> None:
        """Log one row; a step that is already recorded is not recorded twice.

        A ``closing`` row is there only because training stopped at that step: a run that goes on from there has
        no such row, so checkpoints leave it out.
        """
        if self.rows and self.rows[-1]["step"] == step:
            return
        self._closing = (dict(self.last), list(arrays)) if closing else None
        row = spread(values)
        measured, row, self._added = row, self._added | row, {}
        self.rows.append({"step": step, **row})
        self.last = self.last | row
        for name, array in arrays.items():
            self._arrays.setdefault(name, []).append(np.asarray(array))
        for logger in loggers:
            logger.log_metrics(measured, step=step)
        if time.monotonic() - self._written > 1.0:
            self.write(durable=False)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Take what a callback logged about a step into its row, or into the next one there will be."""
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        if self.rows and step <= self.rows[-1]["step"]:
            self.rows[-1] |= finite
            self.last |= finite
        else:
            self._added |= finite

    def write(self, *, durable: bool = True) -> None:
        """Write ``metrics.csv``, if there is a folder to write it to."""
        if self.folder is not None and self.rows:
            self.folder.write_metrics(self.rows, durable=durable)
        self._written = time.monotonic()

    def trajectory(self) -> dict[str, np.ndarray]:
        """``steps`` (T,) and every array stacked over the rows that have it: (T, …)."""
        return {"steps": np.array([row["step"] for row in self.rows])} | {
            k: np.stack(v) for k, v in self._arrays.items()
        }

    def state_dict(self) -> dict[str, Any]:
        rows, last, arrays = self.rows, self.last, dict(self._arrays)
        if self._closing is not None:
            rows, last = rows[:-1], self._closing[0]
            arrays |= {name: arrays[name][:-1] for name in self._closing[1]}
        return {
            "rows": [dict(row) for row in rows],
            "last": dict(last),
            "arrays": {k: torch.from_numpy(np.stack(v)) for k, v in arrays.items() if v},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
        self.last = dict(state["last"])
        self._arrays = {k: list(v.numpy()) for k, v in state["arrays"].items()}
        self._closing = None
