"""A run read back from its folder."""

import csv
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sslmanifold.config.targets import Opened, require_targets, trusted_packages
from sslmanifold.errors import UserError
from sslmanifold.runs.folder import UNREADABLE, RunFolder, read_json
from sslmanifold.runs.identity import other_weights
from sslmanifold.runs.plain_yaml import read_yaml

if TYPE_CHECKING:
    from torch import Tensor

    from sslmanifold.models import ConstrainedNetwork

# the summary of a run with a thousand replicas has a few megabytes
LARGEST_SUMMARY = 1 << 26

# what every run's configuration chooses
GROUPS = ("data", "model", "loss", "constraint", "optimizer", "scheduler", "trainer", "logger")


class Run:
    """A finished (or interrupted) run, read back from its folder.

    Args:
        path: the folder.
        checkpoint: "last" or "best": which of its checkpoints ``model`` is read from.
        project: project weights that left their manifold instead of refusing them.
        trust: packages whose classes the folder may name besides this package's own, e.g. ``["my_package"]``.

    Attributes:
        path: the folder.
        opened: the folder and what it is trusted with, for what is built from its configuration.
        config: the resolved configuration, plain containers.
        summary: last values, extremes, status ("unreadable" and a reason where the file is damaged).
        metrics: column name → list of floats (NaN where a row has no value).
        trajectory: name → array.
        model: the network with the checkpoint's weights, in evaluation mode.
        signals: of a run that has just ended here, the signals that came while it ran.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        checkpoint: str = "last",
        project: bool = False,
        trust: str | Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.opened = Opened(self.path, trusted_packages(trust))
        self.folder = RunFolder(self.path)
        self.project = project
        self.signals: tuple[int, ...] = ()
        choices = {"last": self.folder.checkpoint, "best": self.folder.best}
        if checkpoint not in choices:
            raise UserError(f"checkpoint={checkpoint} is neither of: last, best")
        self.checkpoint: Path = choices[checkpoint]
        if not self.path.is_dir():
            raise UserError(
                f"{self.path} is not a folder: pass the run folder that `sslmanifold train` printed"
            )
        if not self.folder.config.exists():
            raise UserError(
                f"{self.path} is not a run folder: it has no config.yaml; pass a folder that has one"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.summary.get('status', 'unfinished')!r})"

    def __fspath__(self) -> str:
        """A run is its folder wherever a path is taken."""
        return str(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            config = read_yaml(self.folder.config)
            lacking = [key for key in GROUPS if not isinstance(config.get(key), dict)]
            if lacking:  # cut short, or of something else
                raise ValueError(f"it says nothing of {', '.join(lacking)}")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder.config} cannot be read ({error}): train the run again") from None
        return config

    @cached_property
    def summary(self) -> dict[str, Any]:
        if not self.folder.summary.exists():
            return {}
        try:
            summary = read_json(self.folder.summary)
            if isinstance(summary, dict):
                return summary
            fault = "it holds no keys"
        except (OSError, ValueError) as error:
            fault = str(error)
        return {"status": UNREADABLE, "reason": f"summary.json cannot be read: {fault}"}

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        if not self.folder.metrics.exists():
            return {}
        try:
            if (size := self.folder.metrics.stat().st_size) > memory() // 16:  # text takes a multiple of it
                raise ValueError(f"it has {size} bytes, too many for this machine's memory")
            with self.folder.metrics.open(encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                columns = next(reader, [])
                rows = [_numbers(cells, len(columns), reader.line_num) for cells in reader]
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{self.folder.metrics} cannot be read: {error}") from None
        return {key: [row[i] for row in rows] for i, key in enumerate(columns)} if rows else {}

    @cached_property
    def trajectory(self) -> dict[str, np.ndarray]:
        if not self.folder.trajectory.exists():
            return {}
        try:
            return read_arrays(self.folder.trajectory)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.folder.trajectory} cannot be read ({error}): train the run again"
            ) from None

    @cached_property
    def model(self) -> "ConstrainedNetwork":
        from sslmanifold.models.restore import read_checkpoint, restore_network

        if not self.checkpoint.exists():
            reason = self.summary.get("reason")
            raise UserError(
                f"{self.path} has no checkpoints/{self.checkpoint.name}"
                + (f" (the run {self.summary['status']}: {reason})" if reason else "")
                + f": train it first, `sslmanifold train ckpt_path={self.path}`"
            )
        require_targets({key: self.config[key] for key in ("constraint", "model")}, self.opened)
        checkpoint = read_checkpoint(self.checkpoint)
        for key, ours, theirs in other_weights(
            self.config, checkpoint["sslmanifold"].get("config") or self.config
        ):
            raise UserError(
                f"{self.checkpoint} was trained with {key}={theirs}, and {self.folder.config} says {ours}: restore it, "
                "or train another run"
            )
        return restore_network(self.config, checkpoint, self.checkpoint, self.opened, project=self.project)  # type: ignore[return-value]  # LinearMap has its interface

    def embed(self, x: Any) -> "Tensor":
        """Embed raw inputs (n, d) with the run's last weights: see ``ConstrainedNetwork.embed``."""
        return self.model.embed(x)


def _numbers(cells: Sequence[str], columns: int, line: int) -> list[float]:
    """One row of numbers, NaN for an empty cell."""
    if len(cells) != columns:
        raise ValueError(f"line {line} has {len(cells)} of {columns} cells; remove that line")
    try:
        return [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        wrong = next(cell for cell in cells if cell and not _is_number(cell))
        raise ValueError(f"line {line} has {wrong[:40]!r} where a number is due; remove that line") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without pickles, and no more of them than memory has room for.

    Args:
        path: the file.
        names: those that are wanted; None for all.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error: where it is no such file, or unpacks to more
            than half of this machine's memory.
    """
    with zipfile.ZipFile(path) as archive:
        wanted = [m for m in archive.infolist() if names is None or m.filename.removesuffix(".npy") in names]
        unpacked = sum(member.file_size for member in wanted)
    if unpacked > memory() // 2:
        raise ValueError(f"it unpacks to {unpacked / 1e9:.3g} GB, more than half of this machine's memory")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (arrays if names is None else names) if name in arrays}
    except MemoryError as error:  # an array whose header claims more than the file has
        raise ValueError(str(error)) from None


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_run(
    path: str | Path,
    *,
    checkpoint: str = "last",
    project: bool = False,
    trust: str | Sequence[str] | None = None,
) -> Run:
    """A run read back from its folder: ``load_run(DIR).embed(x)``.

    Nothing that the folder holds is executed: its checkpoint is read without code, and of the classes that its
    configuration names only this package's own are built.

    Args:
        path: the run folder.
        checkpoint: "last" or "best".
        project: project weights that left their manifold instead of refusing them.
        trust: packages whose classes the folder may name too, for a run of your own data, losses or constraints:
            ``["my_package"]``.

    Raises:
        UserError: where the folder is not a run's, or (on first use of ``model``) has no such checkpoint, one with
            weights off their manifold, or names a class of a package that is not trusted.
    """
    return Run(path, checkpoint=checkpoint, project=project, trust=trust)
