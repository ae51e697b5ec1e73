"""Figures of a run, drawn when it has ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lightning.pytorch import Callback
from pydantic import Field


@dataclass(kw_only=True)
class Figures(Callback):
    """Draws ``figures/*.png`` from the run folder alone, after training.

    Attributes:
        points: at most this many points in the embedding scatter.
    """

    points: Annotated[int, Field(gt=0)] = 2000

    def draw(self, run_dir: Path) -> list[Path]:
        """The paths of the figures drawn."""
        from sslmanifold.plots.run_figures import draw_run

        return draw_run(run_dir, points=self.points)
