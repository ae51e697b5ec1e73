"""A run read back from its folder."""

import csv
import json
import math
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sslmanifold.errors import UserError
from sslmanifold.runs.folder import UNREADABLE, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from sslmanifold.models import ConstrainedNetwork


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
        signals: of a run that has just ended here, the signals that came while it ran.
    """

    def __init__(self, path: str | Path, *, checkpoint: str = "last", project: bool = False) -> None:
        self.path = Path(path)
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
        from sslmanifold.models.restore import restore_network

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
