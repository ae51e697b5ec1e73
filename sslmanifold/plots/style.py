"""One look for every figure: the same colour for the same constraint everywhere, safe for colour-blind readers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/)
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}

CONSTRAINT_COLOURS = {
    "none": OKABE_ITO["vermillion"],
    "frobenius": OKABE_ITO["orange"],
    "operator_norm": OKABE_ITO["sky"],
    "scaled": OKABE_ITO["green"],
    "orthogonal": OKABE_ITO["blue"],
    "product": OKABE_ITO["purple"],
}

THEORY = OKABE_ITO["black"]


def constraint_colour(name: str) -> str:
    """The colour of a constraint; grey for one the package does not ship."""
    return CONSTRAINT_COLOURS.get(name, "#777777")


@contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib settings for the block, drawn without a display; a notebook keeps its own way of showing."""
    import matplotlib

    if not os.environ.get("MPLBACKEND"):
        matplotlib.use("Agg")
    with matplotlib.rc_context(
        {
            "text.usetex": False,  # a matplotlibrc beside the run would have LaTeX started
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "pdf.fonttype": 42,  # fonts embedded as TrueType: journals refuse type 3
            "ps.fonttype": 42,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    ):
        yield
