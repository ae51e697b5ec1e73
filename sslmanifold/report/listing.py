"""The terminal's table of runs: sorted, filtered, with the progress of those that still run."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sslmanifold.console import wide_console
from sslmanifold.errors import UserError, printable
from sslmanifold.report.findings import tally
from sslmanifold.report.terminal import COLUMNS, fitting, runs_table, usual_columns, value_of
from sslmanifold.runs import UNREADABLE
from sslmanifold.runs.records import Record, collect, telling_keys
from sslmanifold.sweeps.manifest import Manifest

_COMPARISONS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Listing:
    """What is printed, and whether a run in it could not be read."""

    lines: RenderableType
    unreadable: bool = False

    def __rich__(self) -> RenderableType:
        return self.lines


def listing(
    folders: Sequence[str | Path], sort: str = "", filter: str = "", columns: str = "", patient: bool = False
) -> Listing:
    """What ``sslmanifold runs`` prints.

    Args:
        sort: a heading, a summary key, a swept key or "run"; "-key" for the largest first.
        filter: conditions joined by commas: ``key=value``, ``key!=value``, ``key<number``, ``key>=number``.
        columns: summary keys joined by commas, in place of the usual ones.
        patient: whether a folder without runs is worth waiting for.

    Raises:
        UserError: for a folder without runs, or a key that no run has.
    """
    try:
        records = collect(folders)
    except UserError:
        if patient:
            return Listing(Text("no runs yet"))
        raise
    keys = telling_keys(records)
    shown = {k: k for k in columns.split(",") if k}
    for key in shown:
        _require(records, key)
    shown = shown or usual_columns(records)
    for condition in filter.split(",") if filter else ():
        records = [r for r in records if _holds(r, *_parsed(condition, records))]
    if not records:
        return Listing(Text(f"no run matches filter={filter}"))
    if sort:
        key = COLUMNS.get(sort.lstrip("-"), sort.lstrip("-"))
        if key != "run":
            _require(records, key)
        known = [r for r in records if value_of(r, key) is not None]
        unknown = [r for r in records if value_of(r, key) is None]
        known.sort(key=lambda r: _order(value_of(r, key)), reverse=sort.startswith("-"))
        records = known + unknown
    fitted, hidden = fitting(records, keys, shown, wide_console().width)
    lines: list[RenderableType] = [runs_table(records, fitted, shown)]
    if hidden:
        lines.append(Text(f"no room for {', '.join(hidden)}: columns=KEY,… shows them", style="dim"))
    for record in records:
        if record.status == "running":
            lines.append(Text(f"{record.name}: {progress(record)}", style="cyan"))
        elif record.status == UNREADABLE:
            lines.append(Text(printable(f"{record.name}: {record.summary['reason']}"), style="red"))
    lines.append(Text(f"{tally(records)}{_expected(folders, len(records)) if not filter else ''}"))
    return Listing(Lines(*lines), any(record.status == UNREADABLE for record in records))


def progress(record: Record) -> str:
    """ "step 420 of 1000", from the rows written so far."""
    total = record.flat.get("trainer.max_steps")
    steps = record.metrics.get("step") or [0]
    return f"step {steps[-1]:.0f} of {total}"


def all_ended(folders: Sequence[str | Path]) -> bool:
    """Whether no run is running, and every job that a sweep should have is there."""
    try:
        records = collect(folders)
    except UserError:
        return False
    missing = any(_missing(Path(folder)) for folder in folders)
    return not missing and all(record.status != "running" for record in records)


def _missing(folder: Path) -> int:
    """Jobs of a sweep that have not started."""
    manifest = Manifest.read(folder)
    if manifest is None or manifest.jobs is None:
        return 0
    try:
        return max(0, manifest.jobs - len(collect([folder])))
    except UserError:
        return manifest.jobs


def _expected(folders: Sequence[str | Path], found: int) -> str:
    missing = sum(_missing(Path(folder)) for folder in folders)
    return f"; {missing} not started, {found + missing} in all" if missing else ""


def _require(records: Sequence[Record], key: str) -> None:
    if records and not any(value_of(r, key) is not None for r in records):
        names = sorted({k for r in records for k, v in r.summary.items() if not isinstance(v, dict)})
        raise UserError(f"no run has {key}: choose one of run, status, {', '.join(names)}")


def _parsed(condition: str, records: Sequence[Record]) -> tuple[str, str, str]:
    match = re.fullmatch(r"\s*([^=<>!]+?)\s*(!=|<=|>=|=|<|>)\s*(.+?)\s*", condition)
    if match is None:
        raise UserError(
            f"filter={condition} is not a condition: write filter=constraint=none or 'filter=seed>2'"
        )
    key = COLUMNS.get(match[1], match[1])
    _require(records, key)
    return key, match[2], match[3]


def _holds(record: Record, key: str, sign: str, wanted: str) -> bool:
    value = value_of(record, key)
    if value is None:
        return False
    try:
        return bool(_COMPARISONS[sign](float(value), float(wanted)))
    except (TypeError, ValueError):
        return bool(_COMPARISONS[sign](str(value), wanted))


def _order(value: Any) -> tuple[int, Any]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value) if number else (1, str(value))
