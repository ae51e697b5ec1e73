"""Runs compared in one figure for a paper: mean and band over seeds, one colour a constraint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sslmanifold.errors import UserError, notice, printable
from sslmanifold.plots.groups import Group, data_names, grouped
from sslmanifold.plots.scales import symmetric_log_if_wide
from sslmanifold.plots.style import figure_style
from sslmanifold.runs import ENDED
from sslmanifold.runs.keys import KEYS, RANK, TIME, key_of
from sslmanifold.runs.records import Record, collect, telling_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# inches: a column of two on a letter or A4 page, and the page's width
SIZES = {"single": (3.25, 2.2), "double": (6.75, 2.3)}
BANDS = ("std", "range", "none")
SCALES = ("auto", "linear", "log", "symlog")
# what a name on the command line stands for in metrics.csv
SHORT = {"time": TIME, "step": "step"}
_AXIS = {TIME: "time t = Σ lr", "step": "optimizer step"}
# groups of one constraint share its colour
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Band:
    """A mean over the runs of a group, and what it varies by.

    Attributes:
        x: (n,) to where the shortest of the runs ends.
        mean, low, high: (n,).
        count: runs and replicas.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int


def compare(
    runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    x: str = "time",
    y: str | Sequence[str] = RANK,
    *,
    band: str | bool = "std",
    size: str = "single",
    xscale: str = "auto",
    yscale: str = "auto",
) -> "Figure":
    """One figure of many runs, from their folders alone: a mean over seeds and replicas with its band, a colour a
    constraint, a line style for what else was varied, a panel a metric and data set.

    A mean goes to where the shortest run of its group ends, linearly interpolated onto the grid of the one that was
    logged most finely. On a logarithmic axis mean and deviation are the geometric ones, so that no band crosses zero.
    Differences that are rounding are drawn at its size there. A linear axis spans the runs that did not diverge. Runs
    without an end (failed, interrupted, still running) and runs without the metric are left out, with a line each.

    Args:
        runs: run folders, sweep folders or folders of them; :class:`~sslmanifold.runs.Run` and what
            :func:`~sslmanifold.train` returns are folders too.
        x: "time" (Σ lr, ``ode/time``), "step", or any column of ``metrics.csv``.
        y: a column of ``metrics.csv``, or several, e.g. ``["rank/effective", "train/optimality_gap"]``.
        band: "std" (one sample standard deviation either way; also True), "range" (smallest to largest) or "none".
        size: "single" (3.25 in, a column) or "double" (6.75 in, the page).
        xscale, yscale: "auto", "linear", "log" or "symlog"; auto is linear in x, and in y logarithmic where the
            metric is read so or its values span many decades.

    Returns:
        A matplotlib figure; ``figure.savefig("rank.pdf")`` embeds its fonts (type 42).

    Raises:
        UserError: for a folder without runs, or a name that no run has; those that there are, are listed.
    """
    band = {True: "std", False: "none"}.get(band, band) if isinstance(band, bool) else band
    for name, value, choices in (
        ("band", band, BANDS), ("size", size, tuple(SIZES)), ("xscale", xscale, SCALES), ("yscale", yscale, SCALES)
    ):  # fmt: skip
        if value not in choices:
            raise UserError(f"{name}={value} is none of: {', '.join(choices)}")
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if not folders:
        raise UserError("compare() wants at least one run folder")
    records = _with_an_end(collect([Path(folder) for folder in folders]))
    abscissa = SHORT.get(x, x)
    columns = list(dict.fromkeys([y] if isinstance(y, str) else y))
    for name, key, column in (("x", x, abscissa), *(("y", key, key) for key in columns)):
        _require(records, name, key, column)
    groups = grouped(records, telling_keys(records))
    names = data_names(records)
    with figure_style():
        import matplotlib.pyplot as plt

        figure = _draw(groups, names, abscissa, columns, str(band), size, (xscale, yscale))
        plt.close(figure)  # the caller shows it; a notebook would otherwise show it twice
    return figure


def _with_an_end(records: list[Record]) -> list[Record]:
    ended = [record for record in records if record.status in ENDED]
    if not ended:
        states = ", ".join(sorted({record.status for record in records}))
        raise UserError(
            f"none of the {len(records)} runs has an end ({states}): `sslmanifold runs DIR` says why"
        )
    for record in records:
        if record.status not in ENDED:
            notice(f"{record.name} is left out: {record.status}")
    return ended


def _require(records: Sequence[Record], name: str, key: str, column: str) -> None:
    """Raise UserError where no run logged a column."""
    if any(column in record.metrics for record in records):
        return
    logged = sorted({k for record in records for k in record.metrics} - {"step", TIME})
    logged = [k for k in logged if "_r" not in k or not k.rpartition("_r")[2].isdigit()]
    if name == "x":
        logged = [short for short, of in SHORT.items() if any(of in r.metrics for r in records)] + logged
    raise UserError(f"{name}={key} is logged by no run: there are {', '.join(logged) or 'no metrics'}")


def curves(record: Record, x: str, y: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(x, y) of a run, or of each of its replicas, where both are finite and x grows; empty without the columns."""
    metrics = record.metrics
    if x not in metrics or y not in metrics:
        return []
    columns = [k for k in (f"{y}_r{i}" for i in range(len(metrics))) if k in metrics] or [y]
    abscissa = np.asarray(metrics[x])
    found = []
    for column in columns:
        values = np.asarray(metrics[column])
        keep = np.isfinite(abscissa) & np.isfinite(values)
        ahead, kept = abscissa[keep], values[keep]
        first = (
            np.concatenate([[True], np.diff(np.maximum.accumulate(ahead)) > 0]) if ahead.size else keep[:0]
        )
        if first.any():
            found.append((ahead[first], kept[first]))
    return found


def mean_band(
    found: Sequence[tuple[np.ndarray, np.ndarray]], band: str, geometric: bool, floor: float = 0.0
) -> Band | None:
    """The mean of curves over what all of them span, with its band; None where they share no stretch.

    Args:
        found: (x, y) each, x ascending.
        band: as of :func:`compare`.
        geometric: mean and deviation of log y; values that are not positive are no part of it.
        floor: what is below is rounding, and drawn there on a logarithmic axis; 0 for none.
    """
    if geometric:
        found = [(x, np.maximum(y, floor)) for x, y in found]
        found = [(x[y > 0], np.log10(y[y > 0])) for x, y in found if (y > 0).any()]
    if not found:
        return None
    start, end = max(x[0] for x, _ in found), min(x[-1] for x, _ in found)
    finest = max(((x[(x >= start) & (x <= end)]) for x, _ in found), key=len)
    grid = np.unique([*finest, start, end]) if start <= end else finest
    if not grid.size:
        return None
    rows = np.stack([np.interp(grid, x, y) for x, y in found])
    mean, low, high = rows.mean(0), rows.min(0), rows.max(0)
    if band == "std":
        spread = rows.std(0, ddof=1) if len(rows) > 1 else np.zeros(len(grid))
        low, high = mean - spread, mean + spread
    if geometric:
        mean, low, high = 10.0**mean, 10.0**low, 10.0**high
    return Band(grid, mean, low, high, len(rows))


def _draw(
    groups: Sequence[Group],
    names: Sequence[str],
    x: str,
    columns: Sequence[str],
    band: str,
    size: str,
    scales: tuple[str, str],
) -> "Figure":
    """A row of panels a data set, a column a metric, one legend above them."""
    import matplotlib.pyplot as plt

    width, height = SIZES[size]
    plt.rcParams.update({"font.size": 8, "lines.linewidth": 1.3, "axes.titlesize": 8, "axes.linewidth": 0.7})
    figure, axes = plt.subplots(
        len(names),
        len(columns),
        figsize=(width, height * len(names)),
        squeeze=False,
        sharex="row",
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for number, (row, data) in enumerate(zip(axes, names, strict=True)):
        for panel, column in zip(row, columns, strict=True):
            scale = "log" if scales[1] == "auto" and key_of(column).logarithmic else scales[1]
            handles |= _panel(panel, groups, data, x, column, band, scale)
            if scales[0] != "auto":
                panel.set_xscale(scales[0])
            if scale != "auto":
                panel.set_yscale(scale)
            if number == len(names) - 1:
                panel.set_xlabel(_text(_AXIS.get(x, key_of(x).heading)), parse_math=False)
            heading = KEYS[column].heading if column in KEYS else key_of(column).heading
            panel.set_ylabel(_text(heading), parse_math=False)
            if len(names) > 1:
                panel.set_title(_text(data), loc="left", parse_math=False)
    longest = max((len(label) for label in handles), default=1)
    legend = figure.legend(
        handles.values(),
        handles,
        loc="outside upper left",
        ncols=max(1, min(len(handles), int(width * 15 / (longest + 6)))),
        fontsize="small",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _panel(
    panel: Any, groups: Sequence[Group], data: str, x: str, column: str, band: str, scale: str
) -> dict[str, Any]:
    """Draws the groups on one data set; returns label → line."""
    handles: dict[str, Any] = {}
    dashes: dict[str, str] = {}
    shades: dict[str, int] = {}
    for group in groups:
        constraint = str(group.records[0].summary.get("constraint"))
        dashes[group.label] = _DASHES[shades.get(constraint, 0) % len(_DASHES)]
        shades[constraint] = shades.get(constraint, 0) + 1
    reach: tuple[float, float] | None = None
    for group in sorted(groups, key=_diverged):
        one = _band(group, data, x, column, band, scale == "log")
        if one is None:
            continue
        if _diverged(group) and panel.lines and reach is None:
            reach = panel.get_ylim()
        if band != "none" and one.count > 1:
            panel.fill_between(one.x, one.low, one.high, color=group.colour, alpha=0.2, linewidth=0)
        (handles[group.label],) = panel.plot(
            one.x, one.mean, color=group.colour, linestyle=dashes[group.label]
        )
    if scale == "auto":
        _within(panel, reach)
    return {_text(g.label): handles[g.label] for g in groups if g.label in handles}


def _diverged(group: Group) -> bool:
    return all(record.status == "diverged" for record in group.records)


def _band(group: Group, data: str, x: str, column: str, band: str, geometric: bool) -> Band | None:
    """A group's mean on one data set; runs without the metric are left out, which is said."""
    members = group.on(data)
    found, lacking = [], []
    for record in members:
        drawn = curves(record, x, column)
        lacking += [] if drawn else [record]
        found += drawn
    if lacking:
        reason = next((r.faults[0] for r in lacking if r.faults), f"no {column} over {x}")
        which = f"{group.label} on {data}" + (f", {len(lacking)} of its runs" if found else "")
        notice(f"{which}: left out of the panel of {column}: {reason}")
    return mean_band(found, band, geometric, key_of(column).floor)


def _within(panel: Any, reach: tuple[float, float] | None) -> None:
    """A linear axis spans the runs that did not diverge (``reach``); where all did, it is logarithmic with a sign."""
    bottom, top = panel.get_ylim()
    if reach is not None and top - bottom > 3 * (reach[1] - reach[0]):
        panel.set_ylim(reach)
    elif reach is None and panel.lines:
        symmetric_log_if_wide(panel, np.concatenate([np.asarray(line.get_ydata()) for line in panel.lines]))


def _text(value: object) -> str:
    """Text of a folder as a figure shows it: matplotlib drops labels that begin with an underscore."""
    text = printable(str(value)).replace("\n", " ")
    return f" {text}" if text.startswith("_") else text
