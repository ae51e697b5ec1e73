"""Writes the three files of a report, from run folders alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas

from sslmanifold.report.markdown import report_markdown
from sslmanifold.report.page import report_page
from sslmanifold.runs import atomic
from sslmanifold.runs.records import Record, collect, swept_keys, swept_value
from sslmanifold.runs.writing import remove_partials, writing


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None
) -> tuple[list[Path], list[Record]]:
    """``report.html``, ``report.md`` and ``table.csv`` about every run below the folders.

    Args:
        folders: run folders, sweep folders or folders of them.
        out: where the files go; by default the first folder.

    Returns:
        The paths of the three files, and the runs.

    Raises:
        UserError: where a folder does not exist or no run is found.
    """
    records = collect(folders)
    target = Path(out) if out is not None else Path(folders[0])
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    remove_partials(target, older_than=60.0)
    title = ", ".join(Path(f).resolve().name for f in folders)
    texts = {
        "report.html": report_page(records, title, target),
        "report.md": report_markdown(records, title, target),
        "table.csv": table_csv(records),
    }
    for name, text in texts.items():
        with atomic(target / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [target / name for name in texts], records


def table_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One mapping a run: its folder, status, what was swept, then its summary; nested keys are dotted."""
    keys = swept_keys(records)
    rows = []
    for record in records:
        row: dict[str, Any] = {"run": record.name, "status": record.status}
        row |= {key: swept_value(record, key) for key in keys}
        for key, value in record.summary.items():
            if isinstance(value, dict):
                row |= {f"{key}.{inner}": v for inner, v in value.items()}
            else:
                row.setdefault(key, value)
        rows.append(row)
    return rows


def table_csv(records: Sequence[Record]) -> str:
    """The text of ``table.csv``: one row a job, every key of every summary; a key that a run lacks is an empty cell."""
    table = pandas.DataFrame(table_rows(records), dtype=object).rename(columns=_text).map(_text)
    return table.to_csv(index=False, lineterminator="\n")


def _text(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not evaluate: text that begins like a formula gets a quote before it."""
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if formula else value
