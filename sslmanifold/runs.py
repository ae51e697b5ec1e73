"""The run folder: the only file that knows what lies where in it.

config.yaml           the resolved configuration
metrics.csv           one row a logged step
summary.json          last values, extremes, status, versions
trajectory.npz        arrays over logged steps, embeddings at the start and at the end
checkpoints/last.ckpt  refreshed while training; best.ckpt beside it
figures/*.png
probes/               <probe>.json and table.csv
export/               the embedding without this package
"""

import csv
import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sslmanifold.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from sslmanifold.models import ConstrainedNetwork

STATUSES = ("completed", "diverged", "failed", "interrupted")
# of a run whose summary.json cannot be read
UNREADABLE = "unreadable"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(
            0o666 & ~mask
        )  # mkstemp's files are private; a run folder is shared like any other file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def finite_json(value: Any) -> Any:
    """The same structure with every NaN and infinity as null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(v) for v in value]
    return value


class RunFolder:
    """Paths of one run and atomic writes into it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    config = property(lambda self: self.path / "config.yaml")
    metrics = property(lambda self: self.path / "metrics.csv")
    summary = property(lambda self: self.path / "summary.json")
    trajectory = property(lambda self: self.path / "trajectory.npz")
    checkpoint = property(lambda self: self.path / "checkpoints" / "last.ckpt")
    best = property(lambda self: self.path / "checkpoints" / "best.ckpt")
    probes = property(lambda self: self.path / "probes")
    export = property(lambda self: self.path / "export")
    figures = property(lambda self: self.path / "figures")

    def holds_run(self) -> bool:
        """Whether a run has already written here."""
        return self.config.exists() or self.summary.exists()

    def write_config(self, config: Mapping[str, Any]) -> None:
        from omegaconf import OmegaConf

        with atomic(self.config) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        with atomic(self.summary) as temporary:
            temporary.write_text(
                json.dumps(finite_json(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """All rows, ``step`` first; a key that a row lacks is an empty cell."""
        keys = sorted({key for row in rows for key in row} - {"step"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=["step", *keys], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic(self.metrics) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def write_trajectory(self, arrays: Mapping[str, np.ndarray]) -> None:
        with atomic(self.trajectory) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Remove what a former run wrote, and nothing else."""
        import shutil

        for path in (self.config, self.metrics, self.summary, self.trajectory, self.path / "traceback.txt"):
            path.unlink(missing_ok=True)
        former = (self.checkpoint.parent, self.figures, self.probes, self.export)
        for path in (*former, self.path / "wandb", self.path / "tensorboard"):
            shutil.rmtree(path, ignore_errors=True)

    def remove_partial_files(self) -> None:
        """Remove what a killed process was writing; the files themselves are whole."""
        for path in (self.config, self.metrics, self.summary, self.trajectory, self.checkpoint, self.best):
            for partial in path.parent.glob(f".{path.name}.*"):
                partial.unlink(missing_ok=True)


class Run:
    """A finished (or interrupted) run, read back from its folder.

    Args:
        path: the folder.
        checkpoint: "last" or "best": which of its checkpoints ``model`` is read from.
        project: project weights that left their manifold instead of refusing them.

    Attributes:
        path: the folder.
        config: the resolved configuration, plain containers.
        summary: last values, extremes, status ("unreadable" and a reason where the file is damaged).
        metrics: column name → list of floats (NaN where a row has no value).
        trajectory: name → array.
        model: the network with the checkpoint's weights, in evaluation mode.
    """

    def __init__(self, path: str | Path, *, checkpoint: str = "last", project: bool = False) -> None:
        self.path = Path(path)
        self.folder = RunFolder(self.path)
        self.project = project
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

    @cached_property
    def config(self) -> dict[str, Any]:
        import yaml
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            config = OmegaConf.to_container(OmegaConf.load(self.folder.config))
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{self.folder.config} cannot be read ({error}): train the run again") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.folder.config} is not a run's configuration: train the run again")
        return config  # type: ignore[return-value]

    @cached_property
    def summary(self) -> dict[str, Any]:
        if not self.folder.summary.exists():
            return {}
        try:
            summary = json.loads(self.folder.summary.read_text(encoding="utf-8"))
            if isinstance(summary, dict):
                return summary
            fault = "it holds no keys"
        except ValueError as error:
            fault = str(error)
        return {"status": UNREADABLE, "reason": f"summary.json cannot be read: {fault}"}

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        if not self.folder.metrics.exists():
            return {}
        with self.folder.metrics.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = rows[0].keys() if rows else ()
        return {key: [float(row[key]) if row[key] else math.nan for row in rows] for key in columns}

    @cached_property
    def trajectory(self) -> dict[str, np.ndarray]:
        if not self.folder.trajectory.exists():
            return {}
        try:
            with np.load(self.folder.trajectory) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.folder.trajectory} cannot be read ({error}): train the run again"
            ) from None

    @cached_property
    def model(self) -> "ConstrainedNetwork":
        from sslmanifold.training.restore import restore_network

        if not self.checkpoint.exists():
            reason = self.summary.get("reason")
            raise UserError(
                f"{self.path} has no checkpoints/{self.checkpoint.name}"
                + (f" (the run {self.summary['status']}: {reason})" if reason else "")
                + f": train it first, `sslmanifold train ckpt_path={self.path}`"
            )
        return restore_network(self.config, self.checkpoint, project=self.project)  # type: ignore[return-value]  # LinearMap has its interface

    def embed(self, x: Any) -> "Tensor":
        """Embed raw inputs (n, d) with the run's last weights: see ``ConstrainedNetwork.embed``."""
        return self.model.embed(x)


def load_run(path: str | Path, *, checkpoint: str = "last", project: bool = False) -> Run:
    """A run read back from its folder: ``load_run(DIR).embed(x)``.

    Args:
        path: the run folder.
        checkpoint: "last" or "best".
        project: project weights that left their manifold instead of refusing them.

    Raises:
        UserError: where the folder is not a run's, or (on first use of ``model``) has no such checkpoint, or
            one with weights off their manifold.
    """
    return Run(path, checkpoint=checkpoint, project=project)
