"""``table.csv``: one row a job, every key of every summary."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from sslmanifold.report.records import Record, swept_keys, swept_value


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
    """The text of ``table.csv``; a key that a run lacks is an empty cell."""
    rows = table_rows(records)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
