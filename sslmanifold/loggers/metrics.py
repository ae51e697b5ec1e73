"""``metrics.csv`` as one of Lightning's loggers: what callbacks log goes into the rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class Rows(Protocol):
    """What takes values into the row of a step."""

    def add(self, metrics: Mapping[str, float], step: int) -> None: ...


class MetricsLogger(Logger):
    """A Lightning logger that hands what callbacks log, learning rates and device statistics, to the run's rows.

    Lightning counts the step that a value belongs to from 0 and logs it before or after that step; here it joins the
    row of the state after it, or the next row there is.

    Args:
        rows: of the run.
        run_dir: its folder.
    """

    def __init__(self, rows: Rows, run_dir: Path) -> None:
        super().__init__()
        self.rows, self.run_dir = rows, run_dir

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.run_dir)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning's number of the epoch is 0 in all of a run
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        self.rows.add(values, 0 if step is None else step + 1)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        return  # config.yaml has them
