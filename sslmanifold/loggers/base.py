"""Where rows go beside ``metrics.csv``, which is always written: W&B or TensorBoard when asked."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from sslmanifold.errors import UserError
from sslmanifold.runs import ENDED


class RunLogger(ABC):
    """A choice of ``logger=``."""

    @abstractmethod
    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        """Lightning loggers for this run; ``tags`` are the names of its choices.

        ``resumed`` is the step a resumed run goes on from: its loggers go on with what they have.
        """

    def finish(self, loggers: list[Logger], figures: list[Path], summary: dict[str, Any]) -> None:
        """Hand over figures and the summary, then close. Called once, however the run ended."""
        return


@dataclass(kw_only=True)
class CSVOnly(RunLogger):
    """Nothing beside ``metrics.csv``."""

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        return []


@dataclass(kw_only=True)
class TensorBoard(RunLogger):
    """TensorBoard event files in ``<run>/tensorboard``."""

    def open(
        self, run_dir: Path, config: dict[str, Any], tags: dict[str, str], resumed: int | None = None
    ) -> list[Logger]:
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            # points that a killed run logged after its checkpoint are hidden: they come again
            again: dict[str, Any] = {} if resumed is None else {"purge_step": resumed + 1}
            return [TensorBoardLogger(save_dir=run_dir, name="", version="tensorboard", **again)]
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard: pip install 'sslmanifold[tensorboard]', "
                "or set logger=csv"
            ) from error

    def finish(self, loggers: list[Logger], figures: list[Path], summary: dict[str, Any]) -> None:
        """Figures as images, the numbers of the summary as text, then close the event file."""
        import numpy as np
        from PIL import Image

        for logger in loggers:
            writer = logger.experiment  # type: ignore[attr-defined]
            for path in figures:
                writer.add_image(
                    f"figures/{path.stem}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC"
                )
            lines = [f"| {k} | {v} |" for k, v in summary.items() if not isinstance(v, dict)]
            writer.add_text("summary", "\n".join(["| key | value |", "| --- | --- |", *lines]))
            logger.finalize("success" if summary.get("status") in ENDED else "failed")
