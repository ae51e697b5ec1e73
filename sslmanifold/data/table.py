"""What one file holds: samples, labels as they stand there, and the way to name a place in it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sslmanifold.errors import UserError

Index = Literal["auto"] | bool

_SHOWN = 8  # rows listed
_INDEX_NAMES = {"id", "idx", "index", "row", "row_id", "#", "no", "no."}


@dataclass
class Table:
    """Samples ``x`` (n, …) in float64, raw ``labels`` (n,) or None, and what is said about them.

    ``where(row)`` and ``where(row, cell)`` name a place as the file's reader counts it, ``cell`` being a position in
    ``x`` flattened to (n, d). ``names`` are the features' names, where the file has names. ``facts`` is what was
    found, ``left_out`` what was not taken, for the line that a run starts with.
    """

    x: np.ndarray
    labels: np.ndarray | None
    where: Callable[..., str]
    names: list[str] | None = None
    facts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def require_finite(table: Table, source: str) -> None:
    """Raise UserError for a missing or infinite value, naming the first one's place in the file."""
    flat = table.x.reshape(len(table.x), math.prod(table.x.shape[1:]))
    rows, cells = np.nonzero(~np.isfinite(flat))
    if len(rows):
        value = flat[rows[0], cells[0]]
        kind = "a missing value or NaN" if np.isnan(value) else "Inf"
        several = ""
        if len(rows) > 1:
            faulty = np.unique(rows).tolist()
            more = ", …" if len(faulty) > _SHOWN else ""
            several = f" ({len(rows)} such values: {', '.join(map(table.where, faulty[:_SHOWN]))}{more})"
        raise UserError(
            f"{source}: {kind} in {table.where(int(rows[0]), int(cells[0]))}{several}: remove those rows, or fill in "
            "the values first"
        )


def row_index(name: str | None, values: np.ndarray, index: Index, others: int) -> str | None:
    """Why the first column is an index of the rows and no feature, or None if it is a feature.

    ``index=auto`` takes for one: a column without a name (pandas writes its index so); one that counts the rows from
    0 or 1, in any order from ten rows on; one called id or index whose values all differ.

    Args:
        name: the column's name; None in a file without names.
        values: (n,), numbers or text.
        index: ``data.index``; true or false decides.
        others: number of other columns that could be features: the only one is never an index.
    """
    if index is not True and (index is False or others == 0):
        return None
    if index is True:
        return "data.index=true"
    if name is not None and (name == "" or name.lower().startswith("unnamed: ")):
        return "it has no name"
    n = len(values)
    if values.dtype.kind in "iuf" and n >= 3:
        for start in (0, 1):
            counted = np.arange(start, start + n)
            if np.array_equal(values, counted) or (n >= 10 and np.array_equal(np.sort(values), counted)):
                return f"it counts the rows from {start}"
    if name is not None and name.lower() in _INDEX_NAMES and n >= 3 and len(set(values.tolist())) == n:
        return "no two rows share a value, and it is named so"
    return None


def index_remark(column: Any, why: str, *, asked: bool) -> str:
    """What is said about a column left out as an index."""
    line = f"left out {column} as an index of the rows"
    return line if asked else f"{line} ({why}; data.index=false keeps it as a feature)"
