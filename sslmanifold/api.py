"""Training from Python: ``train("data=half_moons", constraint="none", seed=1)``."""

import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmanifold.config.arguments import quoted, unquoted
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import Tensor

    from sslmanifold.models import ConstrainedNetwork


class TrainingResult:
    """A finished run, as :func:`train` returns it.

    Attributes:
        run: the run folder, read on demand.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def __repr__(self) -> str:
        s = self.summary
        choices = ", ".join(f"{key}={s.get(key)}" for key in ("data", "model", "loss", "constraint", "seed"))
        return f"TrainingResult({choices}, status={s.get('status')!r}, path={str(self.path)!r})"

    def __fspath__(self) -> str:
        """A result is its run folder wherever a path is taken, as in ``sslmanifold.plots.compare([result])``."""
        return str(self.path)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.run.path

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self.run.config

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``: last values, extremes, status and the choices by name."""
        return self.run.summary

    @cached_property
    def metrics(self) -> "pandas.DataFrame":
        """``metrics.csv``: one row a logged step, indexed by ``step``; NaN where a row has no value."""
        import pandas

        return pandas.DataFrame(self.run.metrics).astype({"step": int}).set_index("step")

    @property
    def trajectory(self) -> dict[str, Any]:
        """Name → array over logged steps, and the embeddings at the start and at the end."""
        return self.run.trajectory

    @property
    def model(self) -> "ConstrainedNetwork":
        """The network with the run's last weights, in evaluation mode."""
        return self.run.model

    def embed(self, x: Any) -> "Tensor":
        """Embed raw inputs (n, d) with the run's last weights: (replicas, n, z)."""
        return self.run.embed(x)

    def plot(self, what: str = "loss", points: int = 2000) -> "Figure":
        """One of the run's figures: "loss" (against its ODE and optimum), "effective_rank", "singular_values" or
        "embedding".

        Args:
            points: at most this many points in the embedding scatter.

        Raises:
            UserError: for an unknown name (the choices are listed), or where the run has no data for the figure.
        """
        from sslmanifold.plots.run_figures import FIGURES
        from sslmanifold.plots.style import figure_style

        if what not in FIGURES:
            raise UserError(f"plot({what!r}) is not a figure: choose one of {', '.join(FIGURES)}")
        with figure_style():
            import matplotlib.pyplot as plt

            figure = FIGURES[what](self.run, points)
            if figure is None:
                raise UserError(f"the run has no data for plot({what!r}): see callbacks.* in its config.yaml")
            plt.close(figure)  # the caller shows it; a notebook would otherwise show it twice
        return figure


def train(
    *overrides: str,
    run_dir: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> TrainingResult:
    """One training run, as ``sslmanifold train`` with the same overrides.

    Args:
        overrides: as on the command line, e.g. ``"trainer.max_steps=100"``, or ``"ckpt_path=DIR"`` to go on with a run.
        run_dir: the run folder, as ``"hydra.run.dir=DIR"``; by default a new one in ``outputs/train``.
        config_dir: a directory of the caller's own config groups, as ``--config-dir``.
        progress: whether to draw the progress bar.
        options: the same as keywords: ``constraint="orthogonal"``, ``seed=1``, and mappings for keys inside a
            group, ``trainer={"max_steps": 100}``; a group is chosen inside its mapping by the key ``"_"``, e.g.
            ``data={"_": "half_moons", "n": 100}``.

    Returns:
        The result. A run that diverged returns too: ``result.summary["status"]`` says so.

    Raises:
        UserError: for a mistake in the configuration.
    """
    from sslmanifold.config.compose import composed, plain
    from sslmanifold.config.targets import trusted_packages
    from sslmanifold.training.fit import run_training

    lines = [*overrides, *(line for key, value in options.items() for line in _lines(key, value))]
    lines, folder = _without_run_dir(lines, run_dir)
    config, folder = _resumed(lines, folder, config_dir) or (
        plain(composed("train", lines, config_dir)),
        folder,
    )
    if not progress and config.get("callbacks"):
        config["callbacks"].pop("progress", None)
    trust = trusted_packages(config.get("trust"))
    where = folder or Path("outputs", "train", _new_name())
    return TrainingResult(run_training(config, where, trust=trust))


def _without_run_dir(lines: list[str], run_dir: str | Path | None) -> tuple[list[str], Path | None]:
    """The overrides that describe the run, and its folder where one is named.

    Raises:
        UserError: for two folders, and for what only the command line does.
    """
    kept: list[str] = []
    folder = None if run_dir is None else Path(run_dir)
    for line in lines:
        key = line.lstrip("+~").partition("=")[0]
        if line.startswith("-"):
            raise UserError(
                f"train({line!r}): the command line has flags, Python has config_dir= and run_dir="
            )
        if key == "hydra.run.dir":
            value = line.partition("=")[2]
            interpolated = "${" in value and value[:1] not in ("'", '"')
            named = Path(unquoted(f"'{value}'" if interpolated else value))
            if folder is not None and named.resolve() != folder.resolve():
                raise UserError(f"{line} and run_dir={folder} name two folders: leave one of them out")
            folder = named
        elif re.split(r"[./@]", key)[0] == "hydra" and key != "hydra.searchpath":
            raise UserError(
                f"{line} has no meaning in Python, where train() is one run: leave it out, or use the command line"
            )
        else:
            kept.append(line)
    return kept, folder


def _resumed(
    lines: list[str], run_dir: Path | None, config_dir: str | Path | None
) -> tuple[dict[str, Any], Path] | None:
    """The configuration and the folder of a run that ``ckpt_path=`` goes on with; None where nothing goes on."""
    from sslmanifold.training.resume import going_on, locate_checkpoint, value_of

    ckpt_path = value_of(lines, "ckpt_path")
    if ckpt_path is None:
        return None
    folder, checkpoint = locate_checkpoint(ckpt_path, run_dir)
    if not folder.holds_run():
        return None
    if run_dir is not None and run_dir.resolve() != folder.path.resolve():
        raise UserError(
            f"ckpt_path={ckpt_path} goes on in its own run folder, not in run_dir={run_dir}: leave run_dir out"
        )
    config = going_on(folder.path, lines, config_dir)
    target = checkpoint if checkpoint.exists() else folder.path
    trust = value_of(lines, "trust")
    return config | {"ckpt_path": str(target), "trust": trust and trust.strip("[]")}, folder.path


def _new_name() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid():x}{secrets.token_hex(2)}"


def _lines(key: str, value: Any) -> list[str]:
    """Keyword → overrides in Hydra's grammar."""
    if isinstance(value, Mapping):
        chosen = [f"{key}={value['_']}"] if "_" in value else []
        return chosen + [line for k, v in value.items() if k != "_" for line in _lines(f"{key}.{k}", v)]
    return [f"{key}={_text(value)}"]


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Path):
        return quoted(value)
    if isinstance(value, str) and not all(c.isalnum() or c in "_-./+:" for c in value):
        return quoted(value, interpolations=True)
    return str(value)
