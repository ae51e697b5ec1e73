"""The interactive charts of a report, as Plotly figures in plain containers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from sslmanifold.plots.groups import Group, data_names
from sslmanifold.plots.style import OKABE_ITO, THEORY
from sslmanifold.report.chart import Chart, frame, numbers, read
from sslmanifold.report.findings import predicted_pairs
from sslmanifold.report.scatters import embeddings
from sslmanifold.runs.keys import DEVIATION, GAP, KEYS, LOSS, RANK
from sslmanifold.runs.records import Record

POINTS = 80  # points of a curve after thinning
SINGLE_RUNS = 120  # with more runs than these in a report, only medians are drawn

# drawn over the optimizer step
CURVES = (RANK, DEVIATION, GAP)


@dataclass(frozen=True)
class Section:
    """Charts of one kind.

    Attributes:
        heading: above them.
        says: what they show and what is good.
        charts: ``{"data": …, "layout": …}`` each, for ``Plotly.newPlot``.
        small: whether they are many and small.
    """

    heading: str
    says: str
    charts: list[Chart]
    small: bool = False


# above the curves: what each shows and what is good
_SAYS = {
    RANK: "How many dimensions the embedding uses while it trains. Good: it stays near the largest it can be; a curve "
    "that falls to 1 is a collapse.",
    DEVIATION: "Distance of the trained embedding from its exact dynamics, relative. Good: small, and smaller with a "
    "smaller learning rate; 1 means that the two have nothing in common.",
    GAP: "How far the loss is above the theory's optimum L*, relative to |L*|. Good: it goes down to rounding; a curve "
    "that levels off above 0.01 stopped short.",
}


def charts(groups: Sequence[Group], records: Sequence[Record]) -> list[Section]:
    """The sections that have charts, the final effective rank first."""
    names = data_names(records)
    sections = [
        Section(
            "Where the effective rank ended",
            "One dot a run. Good: near min(z, d), every dimension used; at the dotted line the embedding is one line, "
            "collapsed.",
            [c for data in names if (c := _final(groups, data))],
        )
    ]
    for key in CURVES:
        drawn = [_curves(groups, data, key, KEYS[key].logarithmic, len(records)) for data in names]
        sections.append(Section(KEYS[key].heading, _SAYS[key], [chart for chart in drawn if chart]))
    sections += [
        Section(
            "Loss against the ODE",
            "The loss of the training (solid) and of its exact dynamics (dashed). Good: the two lie on each other.",
            [c for data in names if (c := _loss(groups, data, len(records)))],
        ),
        Section(
            "Predicted against seen",
            "Each run's number as the theory foretold it and as it came. Good: on the dotted diagonal.",
            _ratios(groups, records),
        ),
    ]
    heading, found = embeddings(groups, names)
    says = (
        "The training points in the first two dimensions, first replica. Good: classes apart in two dimensions; points "
        "on one line are a collapse."
    )
    sections.append(Section(heading, says, found, small=True))
    return [section for section in sections if section.charts]


def thinned(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``points`` of a curve, ends included, denser where the steps begin: training is fastest there."""
    if len(steps) <= points:
        return steps, values
    chosen = np.unique((np.linspace(0, 1, points) ** 1.5 * (len(steps) - 1)).round().astype(int))
    return steps[chosen], values[chosen]


def _curve(record: Record, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    metrics = record.metrics
    if key not in metrics:
        return None
    steps, values = np.asarray(metrics["step"]), np.asarray(metrics[key])
    keep = np.isfinite(values)
    return (steps[keep], values[keep]) if keep.any() else None


def _median(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The median over runs on the longest run's steps; a run that ended earlier no longer counts there."""
    grid, _ = thinned(*max(curves, key=lambda c: c[0][-1]))
    rows = [np.interp(grid, s, v, left=np.nan, right=np.nan) for s, v in curves]
    return grid, np.nanmedian(np.stack(rows), axis=0)


def _widths(groups: Sequence[Group]) -> dict[str, float]:
    """Line widths, from wide to narrow in the order of drawing: curves that coincide all show."""
    if len(groups) > 6:
        return dict.fromkeys((group.label for group in groups), 2.5)
    return {group.label: 1.6 + 0.9 * below for below, group in enumerate(reversed(groups))}


def _group_traces(
    group: Group, curves: list[tuple[str, np.ndarray, np.ndarray]], single: bool, width: float
) -> list[Chart]:
    """Every run of a group as a thin line, then their median; the legend's entry toggles both."""
    traces: list[Chart] = []
    if single and len(curves) > 1:
        x: list[float | None] = []
        y: list[float | None] = []
        names: list[str | None] = []
        for name, steps, values in curves:
            few_steps, few_values = thinned(steps, values)
            x += [*numbers(few_steps), None]
            y += [*numbers(few_values), None]
            names += [*([name] * len(few_steps)), None]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": x, "y": y, "text": names, "legendgroup": group.label,
                "showlegend": False, "opacity": 0.35, "line": {"color": group.colour, "width": 1},
                "hovertemplate": "run %{text}<br>step %{x}: %{y:.4g}<extra></extra>", "connectgaps": False,
            }
        )  # fmt: skip
    steps, values = _median([(s, v) for _, s, v in curves])
    count = f"median of {len(curves)}" if len(curves) > 1 else f"run {curves[0][0]}"
    traces.append(
        {
            "type": "scatter", "mode": "lines", "x": numbers(steps), "y": numbers(values), "name": group.label,
            "legendgroup": group.label, "line": {"color": group.colour, "width": width},
            "hovertemplate": f"{escape(group.label)}<br>{count}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
        }
    )  # fmt: skip
    return traces


def _curves(groups: Sequence[Group], data: str, key: str, logarithmic: bool, total: int) -> Chart | None:
    traces: list[Chart] = []
    widths = _widths(groups)
    for group in groups:
        curves = []
        for record in group.on(data):
            curve = _curve(record, key)
            if curve is None:
                continue
            steps, values = curve
            if logarithmic:
                keep = values > 0
                steps, values = steps[keep], values[keep]
            if len(steps):
                curves.append((record.name, steps, values))
        if curves:
            traces += _group_traces(group, curves, total <= SINGLE_RUNS, widths[group.label])
    if not traces:
        return None
    traces.sort(key=_in_front)
    return {"data": traces, "layout": frame(data, "optimizer step", KEYS[key].heading, logarithmic)}


def _in_front(trace: Chart) -> int:
    """Order of drawing: single runs behind the medians, the theory in front of them."""
    if "name" in trace:
        return 1
    return 2 if "dash" in trace["line"] else 0


def _loss(groups: Sequence[Group], data: str, total: int) -> Chart | None:
    """Loss of the training and, dashed black, of its ODE; the axis spans the runs that did not diverge."""
    traces: list[Chart] = []
    low, high = math.inf, -math.inf
    widths = _widths(groups)
    for group in groups:
        trained, flows = [], []
        for record in group.on(data):
            curve = _curve(record, LOSS)
            if curve is None:
                continue
            trained.append((record.name, *curve))
            if record.status != "diverged":
                low, high = min(low, float(curve[1].min())), max(high, float(curve[1].max()))
            flow = _flow_loss(record)
            if flow is not None:
                flows.append(flow)
        if trained:
            traces += _group_traces(group, trained, total <= SINGLE_RUNS, widths[group.label])
        if flows:
            steps, values = _median(flows)
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "x": numbers(steps), "y": numbers(values),
                    "legendgroup": group.label, "showlegend": False,
                    "line": {"color": THEORY, "width": 1.3, "dash": "dash"},
                    "hovertemplate": f"ODE of {escape(group.label)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
                }
            )  # fmt: skip
    if not traces:
        return None
    layout = frame(f"{data}: solid training, dashed ODE", "optimizer step", "loss")
    if low < high:
        margin = 0.06 * (high - low)
        layout["yaxis"]["range"] = [low - margin, high + margin]
    traces.sort(key=_in_front)
    return {"data": traces, "layout": layout}


def _flow_loss(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    arrays = read(record, "ode_loss", "steps")
    if len(arrays) < 2:
        return None
    loss = arrays["ode_loss"]
    values = loss.reshape(len(loss), -1).mean(-1)  # (T, S) -> (T,)
    steps = arrays["steps"][-len(values) :]
    keep = np.isfinite(values)
    return (steps[keep], values[keep]) if keep.any() else None


def _final(groups: Sequence[Group], data: str) -> Chart | None:
    """Final effective rank of every run and replica, one column a group."""
    traces: list[Chart] = []
    for group in groups:
        points = [(v, r.name) for r in group.on(data) for v in r.values(RANK)]
        if points:
            traces.append(
                {
                    "type": "box", "name": group.label, "y": numbers(np.array([v for v, _ in points])),
                    "text": [name for _, name in points], "boxpoints": "all" if len(points) <= 60 else "outliers",
                    "jitter": 0.5, "pointpos": 0, "fillcolor": "rgba(0,0,0,0)",
                    "marker": {"color": group.colour, "size": 6, "opacity": 0.8},
                    "line": {"color": group.colour, "width": 1},
                    "hovertemplate": "run %{text}<br>effective rank %{y:.4g}<extra></extra>", "showlegend": False,
                }
            )  # fmt: skip
    if not traces:
        return None
    layout = frame(data, "", "effective rank")
    layout["xaxis"]["type"] = "category"
    if sum(len(trace["name"]) for trace in traces) > 90:  # no room beneath the columns: a legend names them
        layout["xaxis"]["showticklabels"] = False
        for trace in traces:
            trace["showlegend"] = True
    dotted = {"color": OKABE_ITO["vermillion"], "width": 1, "dash": "dot"}
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 1,
            "y1": 1,
            "line": dotted,
            "layer": "below",
        }
    ]
    layout["annotations"] = [
        {"xref": "paper", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "text": "1: collapsed",
         "showarrow": False, "font": {"size": 11, "color": OKABE_ITO["vermillion"]}}
    ]  # fmt: skip
    return {"data": traces, "layout": layout}


def _ratios(groups: Sequence[Group], records: Sequence[Record]) -> list[Chart]:
    """Seen over predicted for every completed run: 1 where the theory holds."""
    found: list[Chart] = []
    for what, (predicted, seen) in predicted_pairs(records).items():
        traces: list[Chart] = []
        for group in groups:
            points = []
            for record in group.records:
                a, b = record.number(predicted), record.number(seen)
                if record.status == "completed" and a and b is not None:
                    points.append((a, b, record.name))
            if points:
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "name": group.label,
                        "x": numbers(np.array([p[0] for p in points])), "y": numbers(np.array([p[1] for p in points])),
                        "text": [p[2] for p in points], "marker": {"color": group.colour, "size": 8, "opacity": 0.75},
                        "hovertemplate": "run %{text}<br>predicted %{x:.5g}<br>seen %{y:.5g}<extra></extra>",
                    }
                )  # fmt: skip
        if not traces:
            continue
        everything = [v for t in traces for axis in ("x", "y") for v in t[axis] if v is not None]
        ends = [min(everything), max(everything)]
        traces.insert(
            0,
            {
                "type": "scatter", "mode": "lines", "x": ends, "y": ends, "showlegend": False, "hoverinfo": "skip",
                "line": {"color": "#888888", "width": 1, "dash": "dot"},
            },
        )  # fmt: skip
        found.append({"data": traces, "layout": frame(what, "predicted", "seen")})
    return found
