"""What every chart of a report shares: its frame, numbers for JSON, arrays of a run."""

import math
import zipfile
import zlib
from typing import Any

import numpy as np

from sslmanifold.runs.records import Record
from sslmanifold.runs.run import read_arrays

Chart = dict[str, Any]

_FONT = {"family": "system-ui, sans-serif", "size": 12}


def frame(title: str, x: str, y: str, logarithmic: bool = False) -> dict[str, Any]:
    return {
        "title": {"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 14}},
        "xaxis": {
            "title": {"text": x, "standoff": 6},
            "gridcolor": "#e8e8e8",
            "zeroline": False,
            "automargin": True,
        },
        "yaxis": {
            "title": {"text": y},
            "type": "log" if logarithmic else "linear",
            "gridcolor": "#e8e8e8",
            "zeroline": False,
            "automargin": True,
            **({"exponentformat": "power", "dtick": None} if logarithmic else {}),
        },
        # at the foot of the chart; the page makes the chart tall enough for it
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "margin": {"l": 56, "r": 12, "t": 40, "b": 36},
        "height": 380,
        "font": _FONT,
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "hovermode": "closest",
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """JSON numbers of four digits; null where not finite."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values.tolist()]


def read(record: Record, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a run's trajectory that are there; none where the file is missing or damaged."""
    path = record.run.folder.trajectory
    if not path.exists():
        return {}
    try:
        return read_arrays(path, names)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        fault = f"{path} cannot be read: {error}"
        if fault not in record.faults:
            record.faults.append(fault)
        return {}
