"""``report.html``: one self-contained file, the plotting library inside it, nothing fetched."""

import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sslmanifold.plots.groups import cell, data_names, grouped
from sslmanifold.report import findings
from sslmanifold.report.charts import charts
from sslmanifold.report.foretold import HEADINGS, foretold
from sslmanifold.report.terminal import COLUMNS, number
from sslmanifold.runs.keys import RANK
from sslmanifold.runs.records import Record, is_collapsed, swept_value, telling_keys
from sslmanifold.version import __version__

_STYLE = """
:root { color-scheme: light; --ink: #1d2126; --soft: #5d6670; --line: #e3e6ea; --warn: #8a3b00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); margin: 0;
       background: #f6f7f9; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.5rem; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 34px 0 10px; }
p.lead { color: var(--soft); margin: 0 0 12px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.scroll { overflow-x: auto; }
.tall { max-height: 560px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; background: #fff; position: sticky; top: 0; }
table.sortable th { cursor: pointer; }
td.wrap { white-space: normal; min-width: 260px; }
table.means td:first-child { white-space: normal; min-width: 130px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
ul { margin: 0; padding-left: 20px; }
.warn { border-left: 4px solid #D55E00; color: var(--warn); }
.failed, .interrupted, .killed { color: #b00020; } .diverged, .stopped { color: #8a6100; }
.completed { color: #00704f; }
.chart { width: 100%; height: 380px; } a { color: #0072B2; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
footer { color: var(--soft); font-size: 0.82rem; margin-top: 40px; }
@media (max-width: 600px) { main { padding: 14px 10px 40px; } .card { padding: 8px; } th, td { padding: 4px 7px; } }
"""

_SCRIPT = """
const narrow = window.innerWidth < 600;
const draw = (div) => {
  const chart = JSON.parse(document.getElementById(div.dataset.chart).textContent);
  if (narrow) { chart.layout.margin = {l: 48, r: 6, t: 36, b: 36}; chart.layout.font.size = 11; }
  // the legend has rows of equal cells: room for all of them below the axis, and never more than half the chart
  const names = chart.data.filter((t) => t.showlegend !== false && t.name).map((t) => t.name);
  const cell = 56 + 7 * Math.max(0, ...names.map((n) => n.length));
  const rows = names.length < 2 ? 0 : Math.ceil(names.length / Math.max(1, Math.floor((div.clientWidth - 60) / cell)));
  const legend = rows ? 19 * rows + 10 : 0;
  chart.layout.margin.b = 48 + legend;
  chart.layout.height = Math.max(chart.layout.height, 330 + legend, 2 * legend + 40);
  div.style.height = chart.layout.height + "px";
  Plotly.newPlot(div, chart.data, chart.layout,
    {responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", scrollZoom: false,
     showSendToCloud: false, plotlyServerURL: "",
     modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]});
};
// a chart is drawn when it comes near the screen: a long page opens at once
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});
document.querySelectorAll(".chart").forEach((div) => watcher.observe(div));
addEventListener("beforeprint", () => document.querySelectorAll(".chart:empty").forEach(draw));
document.querySelectorAll("table.sortable th").forEach((head) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex;
  const up = head.dataset.up !== "1"; head.dataset.up = up ? "1" : "0";
  const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    return isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q;
  };
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach((row) => body.append(row));
}));
"""


def report_page(records: Sequence[Record], title: str, out: Path) -> str:
    """The text of ``report.html``.

    Args:
        records: the runs.
        title: the heading.
        out: the folder the file will lie in; links to run folders are relative to it.
    """
    from plotly.offline import get_plotlyjs

    keys = telling_keys(records)
    groups = grouped(records, keys)
    drawn = charts(groups, records)  # first: what cannot be read is found out on the way
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(findings.tally(records))}</p>',
        _swept(records),
        _warnings("Collapse", findings.collapse_warnings(groups, records)),
        _warnings(
            "Short of the optimum", findings.shortfall_warnings(groups, records), findings.TO_THE_OPTIMUM
        ),
        _failures(records, keys, out),
        _warnings("Damaged files", findings.damaged_files(records)),
        _best(findings.best_and_worst(groups, records)),
        _means(records, groups),
    ]
    count = 0
    for heading, found in drawn:
        size = "grid small" if heading.startswith("Embeddings") else "grid"
        body.append(f'<h2>{escape(heading)}</h2><div class="{size}">')
        for chart in found:
            body.append(
                f'<div class="card"><div class="chart" data-chart="c{count}"></div></div>'
                f'<script type="application/json" id="c{count}">{_json(chart)}</script>'
            )
            count += 1
        body.append("</div>")
    body.append(_foretold(foretold(records)))
    body += [_predictions(findings.predicted_against_seen(groups, records)), _jobs(records, keys, out)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>'
        + "\n".join(part for part in body if part)
        + f"<footer>Made by sslmanifold {escape(__version__)} from the run folders alone.</footer></main>"
        + f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>\n"
    )


def _json(chart: dict[str, Any]) -> str:
    return json.dumps(_as_text(chart), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _as_text(value: Any, key: str = "") -> Any:
    """A chart whose names and labels are shown as they are: Plotly would take tags in them for formatting."""
    if isinstance(value, dict):
        return {k: _as_text(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_as_text(v, key) for v in value]
    return escape(value, quote=False) if isinstance(value, str) and key != "hovertemplate" else value


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "", caption: str = "") -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>" for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="{kind}">{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _swept(records: Sequence[Record]) -> str:
    rows = findings.what_was_swept(records)
    if not rows:
        return ""
    cells = [[f"<b>{escape(key)}</b>", f'<td class="wrap">{escape(values)}</td>'] for key, values in rows]
    return f'<h2>What was swept</h2><div class="card scroll">{_table(["key", "values"], cells)}</div>'


def _warnings(heading: str, lines: Sequence[str], remedy: str = "") -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    below = f"<p>{escape(remedy[:1].upper() + remedy[1:])}.</p>" if remedy else ""
    return f'<h2>{escape(heading)}</h2><div class="card warn"><ul>{items}</ul>{below}</div>'


def _failures(records: Sequence[Record], keys: Sequence[str], out: Path) -> str:
    found = findings.failures(records)
    if not found:
        return ""
    rows = [
        [
            _link(r, out),
            escape(findings.describe(r, keys)),
            _status(r),
            f'<td class="wrap">{escape(why)}</td>',
        ]
        for r, why in found
    ]
    table = _table(["run", "job", "status", "reason"], rows)
    return f'<h2>Without a result</h2><div class="card scroll">{table}</div>'


def _best(rows: Sequence[tuple[str, str, str, str]]) -> str:
    if not rows:
        return ""
    table = _table(["data", "metric", "best", "worst"], [[escape(c) for c in row] for row in rows])
    return f'<h2>Best and worst</h2><div class="card scroll">{table}</div>'


def _means(records: Sequence[Record], groups: Sequence[Any]) -> str:
    """Constraint × data, one table a metric."""
    names = data_names(records)
    parts = []
    for key, meaning in findings.metrics_present(records).items():
        rows = [
            [f'<span class="dot" style="background:{g.colour}"></span>{escape(g.label)}']
            + [escape(cell(g.on(data), key)) for data in names]
            for g in groups
        ]
        table = _table(["constraint", *names], rows, "means", meaning.heading)
        parts.append(f'<div class="card scroll tall">{table}</div>')
    note = "Mean ± standard deviation over seeds and replicas (count). Diverged runs count as they last were."
    return (
        f'<h2>Constraint × data</h2><p class="lead">{note}</p><div class="grid">{"".join(parts)}</div>'
        if parts
        else ""
    )


def _foretold(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    table = _table(HEADINGS, [[escape(c) for c in row] for row in rows])
    return (
        '<h2>Forecast</h2><p class="lead">Which constraint keeps which effective rank at which loss, by the exact '
        f'flows (sslmanifold forecast).</p><div class="card scroll">{table}</div>'
    )


def _predictions(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    table = _table(
        ["what", "constraint", "data", "predicted", "seen"], [[escape(c) for c in row] for row in rows]
    )
    return f'<h2>Predicted against seen, in numbers</h2><div class="card scroll">{table}</div>'


def _jobs(records: Sequence[Record], keys: Sequence[str], out: Path) -> str:
    rows = []
    for record in records:
        row = [
            _link(record, out),
            *(escape(number(swept_value(record, key))) for key in keys),
            _status(record),
        ]
        for key in COLUMNS.values():
            value = record.summary.get(key)
            mark = ' class="failed" title="collapsed"' if key == RANK and is_collapsed(record) else ""
            row.append(
                f'<td{mark} data-value="{escape(str("" if value is None else value))}">{escape(number(value))}</td>'
            )
        rows.append(row)
    table = _table(["run", *keys, "status", *COLUMNS], rows, "sortable")
    return f'<h2>Runs</h2><div class="card scroll tall">{table}</div>'


def _status(record: Record) -> str:
    return f'<span class="{escape(record.status)}">{escape(record.status)}</span>'


def _link(record: Record, out: Path) -> str:
    # the dot keeps a folder named like an address, javascript:…, a folder
    target = quote(Path(os.path.relpath(record.path.resolve(), out.resolve())).as_posix())
    return f'<a href="./{escape(target)}/">{escape(record.name)}</a>'
