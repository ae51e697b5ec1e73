"""``report.md``: the tables of a report as plain text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from sslmanifold.errors import printable
from sslmanifold.plots.groups import cell, data_names, grouped
from sslmanifold.report import findings
from sslmanifold.report.foretold import HEADINGS, foretold
from sslmanifold.report.terminal import COLUMNS, number
from sslmanifold.runs.records import Record, swept_value, telling_keys


def report_markdown(records: Sequence[Record], title: str, out: Path) -> str:
    """The text of ``report.md``; links to run folders are relative to ``out``."""
    keys = telling_keys(records)
    groups = grouped(records, keys)
    names = data_names(records)
    parts = [f"# {_text(title)}", _text(findings.tally(records))]
    swept = findings.what_was_swept(records)
    if swept:
        parts += ["## What was swept", _table(["key", "values"], swept)]
    warnings = findings.collapse_warnings(groups, records)
    if warnings:
        parts += ["## Collapse", "\n".join(f"- {_text(line)}" for line in warnings)]
    short = findings.shortfall_warnings(groups, records)
    if short:
        remedy = findings.TO_THE_OPTIMUM
        lines = "\n".join(f"- {_text(line)}" for line in short)
        parts += ["## Short of the optimum", lines, f"{remedy[:1].upper()}{remedy[1:]}."]
    missing = findings.failures(records)
    if missing:
        rows = [(_link(r, out), findings.describe(r, keys), r.status, why) for r, why in missing]
        parts += ["## Without a result", _table(["run", "job", "status", "reason"], rows)]
    damaged = findings.damaged_files(records)
    if damaged:
        parts += ["## Damaged files", "\n".join(f"- {line}" for line in damaged)]
    best = findings.best_and_worst(groups, records)
    if best:
        parts += ["## Best and worst", _table(["data", "metric", "best", "worst"], best)]
    parts += ["## Constraint × data", "Mean ± standard deviation over seeds and replicas (count)."]
    for key, meaning in findings.metrics_present(records).items():
        parts += [
            f"### {meaning.heading}",
            _table(["constraint", *names], [(g.label, *(cell(g.on(d), key) for d in names)) for g in groups]),
        ]
    forecasts = foretold(records)
    if forecasts:
        parts += ["## Forecast", _table(HEADINGS, forecasts)]
    predictions = findings.predicted_against_seen(groups, records)
    if predictions:
        parts += [
            "## Predicted against seen",
            _table(["what", "constraint", "data", "predicted", "seen"], predictions),
        ]
    jobs = [
        (
            _link(r, out),
            *(number(swept_value(r, key)) for key in keys),
            r.status,
            *(number(r.summary.get(key)) for key in COLUMNS.values()),
        )
        for r in records
    ]
    parts += ["## Runs", _table(["run", *keys, "status", *COLUMNS], jobs)]
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c if isinstance(c, _Link) else _text(c) for c in line) + " |" for line in lines
    )


def _text(value: object) -> str:
    """A value as Markdown shows it letter for letter: no table's border, no HTML, no link and no image."""
    text = printable(str(value)).replace("\n", " ").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


class _Link(str):
    """Markdown already."""


def _link(record: Record, out: Path) -> str:
    target = quote(Path(os.path.relpath(record.path.resolve(), out.resolve())).as_posix())
    name = _text(record.name).replace("[", "\\[").replace("]", "\\]")
    return _Link(f"[{name}](<./{target}>)")
