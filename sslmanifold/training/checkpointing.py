"""Checkpoints while training: the last one, refreshed often enough to lose little, and the best one."""

import io
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from pydantic import Field

from sslmanifold.models.checkpoint_file import load_file
from sslmanifold.runs import RunFolder, atomic
from sslmanifold.runs.folder import replace_durably
from sslmanifold.runs.keys import GAP, KEYS, RANK
from sslmanifold.runs.writing import writing


def save_file(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` so that ``path`` holds either the former file or the whole new one, never a part."""
    buffer = io.BytesIO()  # torch's own writer, where a disk is full, fails a second time while it fails
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class CheckedFiles(TorchCheckpointIO):
    """How Lightning writes and reads its checkpoints here: atomically, and with their checksums looked at."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_file(Path(path))


@dataclass(kw_only=True)
class Checkpointing(Checkpoint):
    """Refreshes ``checkpoints/last.ckpt`` at the start, while training and at the end, and keeps the best.

    A run that is killed at any moment loses the steps since the last refresh and nothing else:
    ``ckpt_path=<run folder>`` repeats them bit for bit.

    Attributes:
        every_n_steps: optimizer steps between refreshes; None for no such limit.
        every_seconds: seconds between refreshes; None for no such limit.
        best: which logged value ranks the checkpoints that were written at a logged step: the optimality gap
            (smallest), the effective rank (largest), or "auto" for the gap where L* exists and else the rank.
            None keeps no ``checkpoints/best.ckpt``.
        project: project weights that left their manifold when a checkpoint is loaded to resume.
    """

    every_n_steps: Annotated[int, Field(gt=0)] | None = 500
    every_seconds: Annotated[float, Field(gt=0)] | None = 30.0
    best: Literal["auto", "train/optimality_gap", "rank/effective"] | None = "auto"
    project: bool = False

    def __post_init__(self) -> None:
        self.folder: RunFolder | None = None
        self.began = False  # whether Lightning had a step to take, and so told the callbacks
        self.best_of: dict[str, Any] = {}
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._saved_at = self._started
        self._saved_step = -1

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its parts if it was resumed."""
        return self._seconds_before + time.monotonic() - self._started

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.began = True
        if pl_module.steps_done == 0:
            pl_module.record_start()  # Lightning asks callbacks first: the row belongs to this state
            self.save(trainer, pl_module)
        self._saved_step, self._saved_at = pl_module.steps_done, time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.every_n_steps is not None and pl_module.steps_done - self._saved_step >= self.every_n_steps
        if self.every_seconds is not None:
            late = time.monotonic() - self._saved_at >= self.every_seconds
            # clocks differ between processes, and all of them must save or none
            due |= (
                late if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(late, all=False)
            )
        if due and pl_module.steps_done > self._saved_step:
            pl_module.record_if_due()  # as above
            self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Refresh ``last.ckpt``, and ``best.ckpt`` where this is the best so far."""
        if self.folder is None:
            return
        self.folder.require()
        better = self._is_best(pl_module)
        trainer.save_checkpoint(self.folder.checkpoint, weights_only=False)
        if better and trainer.is_global_zero:
            self._link_best(self.folder)
        self._saved_step, self._saved_at = pl_module.steps_done, time.monotonic()

    def _is_best(self, pl_module: Any) -> bool:
        rows = pl_module.recorder.rows
        if self.best is None or not rows or rows[-1]["step"] != pl_module.steps_done:
            return False
        key = (GAP if GAP in rows[-1] else RANK) if self.best == "auto" else self.best
        value = rows[-1].get(key)
        if value is None:
            return False
        if self.best_of and self.best_of["key"] == key:
            former = self.best_of["value"]
            if not (value > former if KEYS[key].larger else value < former):
                return False
        self.best_of = {"key": key, "value": value, "step": pl_module.steps_done}
        return True

    def _link_best(self, folder: RunFolder) -> None:
        """The file just written under a second name: a refresh of ``last.ckpt`` replaces the name, not the file."""
        partial = folder.best.with_name(f".{folder.best.name}.partial")
        with writing(folder.best):
            try:
                partial.unlink(missing_ok=True)
                try:
                    os.link(folder.checkpoint, partial)
                except OSError:  # a file system without hard links
                    shutil.copyfile(folder.checkpoint, partial)
                replace_durably(partial, folder.best)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best_of": dict(self.best_of), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_of = dict(state_dict["best_of"])
        self._seconds_before, self._started = state_dict["seconds"], time.monotonic()
