"""``report.html``: one self-contained file, the plotting library inside it, nothing fetched."""

import base64
import gzip
import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sslmanifold.plots.groups import cell, data_names, grouped
from sslmanifold.report import findings
from sslmanifold.report.charts import Section, charts
from sslmanifold.report.foretold import HEADINGS, foretold
from sslmanifold.report.style import LIBRARY, SCRIPT, STYLE
from sslmanifold.report.terminal import COLUMNS, number
from sslmanifold.runs.keys import RANK
from sslmanifold.runs.records import Record, is_collapsed, swept_value, telling_keys
from sslmanifold.version import __version__


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
        _collapse(groups, records),
        _foretold(foretold(records)),
        *_chart_sections(drawn[:1], 0),
        _swept(records),
        _warnings(
            "Short of the optimum", findings.shortfall_warnings(groups, records), findings.TO_THE_OPTIMUM
        ),
        _failures(records, keys, out),
        _warnings("Damaged files", findings.damaged_files(records)),
        _best(findings.best_and_worst(groups, records)),
        _means(records, groups),
        *_chart_sections(drawn[1:], len(drawn[0].charts) if drawn else 0),
        _predictions(findings.predicted_against_seen(groups, records)),
        _jobs(records, keys, out),
    ]
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head><body><main>'
        + "\n".join(part for part in body if part)
        + f"<footer>Made by sslmanifold {escape(__version__)} from the run folders alone.</footer></main>"
        + f'<script type="text/plain" id="library">{packed}</script>'
        + f"<script>{LIBRARY}{SCRIPT}</script></body></html>\n"
    )


def _chart_sections(sections: Sequence[Section], first: int) -> list[str]:
    """Heading, a sentence, and the charts of each section, numbered from ``first``."""
    parts = []
    for section in sections:
        size = "grid small" if section.small else "grid"
        parts.append(f'<h2>{escape(section.heading)}</h2><p class="lead">{escape(section.says)}</p>')
        cards = []
        for number_, chart in enumerate(section.charts, first):
            cards.append(
                f'<div class="card"><div class="chart" data-chart="c{number_}"></div></div>'
                f'<script type="application/json" id="c{number_}">{_json(chart)}</script>'
            )
        first += len(section.charts)
        parts.append(f'<div class="{size}">{"".join(cards)}</div>')
    return parts


def _collapse(groups: Sequence[Any], records: Sequence[Record]) -> str:
    """Which runs collapsed, or that none did: what a reader wants to know first."""
    lines = findings.collapse_warnings(groups, records)
    if lines or not any(r.number(RANK) is not None for r in records):
        return _warnings("Collapse", lines)
    return '<h2>Collapse</h2><div class="card well">No embedding has collapsed.</div>'


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
