"""What `sslmanifold forecast` has left in run folders, as a report shows it: rank and collapse of each constraint."""

from collections.abc import Sequence
from typing import Any

from sslmanifold.report.terminal import number
from sslmanifold.runs.folder import read_json
from sslmanifold.runs.keys import LOSS, OPTIMUM, RANK
from sslmanifold.runs.records import Record

HEADINGS = ("run", "constraint", "rank at the end", "least", "collapses", "loss", "L*")


def foretold(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """``HEADINGS`` of every constraint in every run's ``forecast.json``; a file that is none is passed over."""
    rows = []
    for record in records:
        try:
            found = read_json(record.run.folder.forecast)
        except (OSError, ValueError):
            continue
        constraints = found.get("constraints") if isinstance(found, dict) else None
        for row in constraints if isinstance(constraints, list) else []:
            if isinstance(row, dict) and isinstance(row.get("constraint"), str):
                rows.append(
                    (record.name, row["constraint"] + (" (this run)" if row.get("own") else ""), *_cells(row))
                )
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    if row.get("reason"):
        return ["no forecast", "", "", "", ""]
    blow_up, step = row.get("ode/blow_up_time"), row.get("predicted/steps_to_collapse")
    collapses = "not in this time" if step is None else f"step {_number(step)}"
    return [
        _number(row.get(RANK)),
        _number(row.get("rank/smallest")),
        collapses,
        "diverges" if blow_up is not None else _number(row.get(LOSS)),
        _number(row.get(OPTIMUM)),
    ]


def _number(value: object) -> str:
    return number(value) if isinstance(value, int | float) else ""
