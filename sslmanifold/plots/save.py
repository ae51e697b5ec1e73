"""Figures as files: atomic, with embedded fonts, the same bytes from the same figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmanifold.plots.style import figure_style
from sslmanifold.runs import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")


def save(
    figure: "Figure", path: Path, formats: Sequence[str], description: str = "", **options: Any
) -> list[Path]:
    """Write ``path.png``, ``path.pdf``, … of a figure; returns the paths.

    Args:
        figure: a matplotlib figure.
        path: without a suffix; a dot in its name is part of it.
        formats: of ``FORMATS``. Text in a PDF is TrueType (type 42), in an SVG outlines: both look the same everywhere.
        description: kept in the file's metadata.
        options: of ``Figure.savefig``.

    Raises:
        OutputError: where a file cannot be written.
    """
    # no dates: a file that is made again from the same runs is the same file
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Description": description},
        "pdf": {"Subject": description, "CreationDate": None},
        "svg": {"Description": description, "Date": None},
    }
    paths = [path.with_name(f"{path.name}.{suffix}") for suffix in formats]
    with figure_style():
        for suffix, target in zip(formats, paths, strict=True):
            with atomic(target) as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata[suffix], **options)
    return paths
