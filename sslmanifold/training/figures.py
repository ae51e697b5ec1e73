"""Figures of a run, drawn when it has ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from lightning.pytorch import Callback
from pydantic import Field

from sslmanifold.config.check import build_group
from sslmanifold.config.targets import Opened
from sslmanifold.runs import RunFolder


@dataclass(kw_only=True)
class Figures(Callback):
    """Draws ``figures/`` from the run folder alone, after training.

    Attributes:
        points: at most this many points in the embedding scatter.
        formats: png, pdf and svg, those wanted; in PDFs fonts are embedded, in SVGs text is outlines.
    """

    points: Annotated[int, Field(gt=0)] = 2000
    formats: Annotated[list[Literal["png", "pdf", "svg"]], Field(min_length=1)] = field(
        default_factory=lambda: ["png"]
    )

    def draw(
        self, run_dir: Path, summary: Mapping[str, Any] | None = None, *, missing: bool = False
    ) -> list[Path]:
        """The paths of the figures drawn.

        Args:
            run_dir: the run folder.
            summary: what ``summary.json`` will say, where it is not written yet.
            missing: draw only those that are not there.
        """
        from sslmanifold.plots.run_figures import draw_run

        return draw_run(run_dir, points=self.points, summary=summary, missing=missing, formats=self.formats)


def draw_missing(config: Mapping[str, Any], folder: RunFolder, opened: Opened | None = None) -> None:
    """Draw the figures that a run was to have and has not."""
    for name, options in (config.get("callbacks") or {}).items():
        if options is not None:
            callback = build_group(options, f"callbacks.{name}", opened)
            if isinstance(callback, Figures):
                callback.draw(folder.path, missing=True)
