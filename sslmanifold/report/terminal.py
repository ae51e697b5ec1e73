"""What a run and a sweep end with in the terminal."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sslmanifold.console import TextConsole, cell, wide_console
from sslmanifold.plots.save import FORMATS
from sslmanifold.report.findings import advice, rank_verdict
from sslmanifold.runs import UNREADABLE, Run
from sslmanifold.runs.keys import (
    DEVIATION,
    GAP,
    KEYS,
    LARGEST_DEVIATION,
    LOSS,
    OPTIMUM,
    RANK,
    RESIDUAL,
    SECONDS,
    key_of,
)
from sslmanifold.runs.records import Record, collect, is_collapsed, swept_value, telling_keys

_ROWS = (LOSS, OPTIMUM, GAP, RANK, DEVIATION, LARGEST_DEVIATION, RESIDUAL)

STATUS_STYLE = {"completed": "green", "stopped": "yellow", "diverged": "yellow", "running": "cyan"}

# what a run's figures show, the one to open first at the front
PICTURES = {
    "embedding": "the points before and after",
    "effective_rank": "the rank over training",
    "loss": "the loss",
}

# the columns of a table of runs: heading → summary key
COLUMNS = {KEYS[key].column: key for key in (LOSS, GAP, RANK, LARGEST_DEVIATION, SECONDS)}


def number(value: Any) -> str:
    """A number as tables show it: four digits; empty for nothing."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_run(run: Run, title: str = "") -> None:
    """The table a run ends with, whether its effective rank is good, its folder, and what to open next."""
    summary = run.summary
    choices = ", ".join(f"{key}={summary[key]}" for key in ("data", "model", "loss", "constraint", "seed"))
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    style = STATUS_STYLE.get(summary["status"], "red")
    table.add_row("status", f"[{style}]{cell(summary['status'])}[/]")
    table.add_row("steps", cell(summary["steps"]))
    accuracies = sorted(key for key in summary if key.startswith("probe/") and key.endswith("/accuracy"))
    for key in (*_ROWS, *accuracies):
        if key not in summary:
            continue
        value = number(summary[key])
        if f"{key}_std" in summary:
            value += f" ± {number(summary[f'{key}_std'])}"
        if key == RANK:
            value += f" of {summary['embedding']}"
        table.add_row(cell(key_of(key).row), cell(value))
    table.add_row(KEYS[SECONDS].row, f"{summary[SECONDS]:.1f}")
    console = TextConsole()

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    line(f"{title}\n{choices}".strip())
    console.print(table)
    if summary.get("reason"):
        line(f"{summary['status']}: {summary['reason']}")
    record = Record(run.path.name, run)
    advised = advice(record)
    verdict = rank_verdict(record)
    if verdict and not any(text.startswith("effective rank") for text in advised):
        line(verdict)
    for text in advised:
        line(text, "yellow")
    line(f"run folder: {run.path}")
    picture = first_picture(run)
    if picture is not None:
        line(f"open: {picture} ({PICTURES[picture.stem]})")
    line(f"report: sslmanifold report {shlex.quote(str(run.path))}")


def first_picture(run: Run) -> Path | None:
    """The figure of a run to look at first; None where it drew none of those."""
    paths = (run.folder.figures / f"{name}.{kind}" for name in PICTURES for kind in FORMATS)
    return next((path for path in paths if path.is_file()), None)


def job_line(label: str, run: Run, before: bool) -> str:
    """One line for a job of a sweep."""
    s = run.summary
    facts = [f"{name} {number(s[key])}" for name, key in COLUMNS.items() if key in s and key != SECONDS]
    when = "done before" if before else f"{s.get(SECONDS, 0):.1f} s"
    return f"{label}: {s.get('status')}, {', '.join(facts)}, {when}"


def fitting(
    records: Sequence[Record], keys: Sequence[str], columns: dict[str, str], width: int
) -> tuple[list[str], list[str]]:
    """(swept keys that a table of this width has room for, the others): rarely set ones go first."""

    def need(heading: str, texts: Iterable[str]) -> int:
        return max(len(heading), *map(len, texts)) + 3  # a border and two blanks

    needs = {key: need(key, (number(swept_value(r, key)) for r in records)) for key in keys}
    mark = len(" collapsed")
    fixed = (
        need("run", ["x" * min(20, max(len(r.name) for r in records))]) + need("status", ["completed"]) + mark
    )
    fixed += sum(
        need(heading, (number(r.summary.get(key)) for r in records)) for heading, key in columns.items()
    )
    kept = list(keys)
    rarest = sorted(
        (key for key in keys if key not in ("constraint", "data", "seed")),
        key=lambda key: sum(swept_value(r, key) is not None for r in records),
    )
    for key in rarest:
        if fixed + sum(needs[k] for k in kept) <= width:
            break
        kept.remove(key)
    return kept, [key for key in keys if key not in kept]


def value_of(record: Record, key: str) -> Any:
    """What a run has under a column: its name, status, a summary key or a key of its configuration."""
    if key == "run":
        return record.name
    if key == "status":
        return record.status
    found = record.summary.get(key)
    return swept_value(record, key) if found is None else found


def usual_columns(records: Sequence[Record]) -> dict[str, str]:
    """Of ``COLUMNS`` those that some run has: no gap without an optimum, no deviation without a flow."""
    return {
        heading: key
        for heading, key in COLUMNS.items()
        if any(record.summary.get(key) is not None for record in records)
    }


def runs_table(records: Sequence[Record], keys: Sequence[str], columns: dict[str, str]) -> Table:
    """One row a run: its name, what was swept, status and key numbers; a collapsed rank is marked."""
    table = Table()
    table.add_column("run", overflow="fold")
    for key in keys:
        table.add_column(cell(key), overflow="fold")
    table.add_column("status", no_wrap=True)
    for heading in columns:
        table.add_column(cell(heading), justify="right", no_wrap=True)
    for record in records:
        style = STATUS_STYLE.get(record.status, "red")
        cells = [cell(record.name), *(cell(number(swept_value(record, key))) for key in keys)]
        cells.append(f"[{style}]{cell(record.status)}[/]")
        for key in columns.values():
            text = f"{record.number(key):.1f}" if key == SECONDS and record.number(key) else ""
            text = text or cell(number(value_of(record, key)))
            mark = key == RANK and is_collapsed(record)
            cells.append(f"[red]{text} collapsed[/]" if mark else text)
        table.add_row(*cells)
    return table


def print_sweep(folder: Path, expected: int | None) -> dict[str, int]:
    """The table a sweep ends with, failed jobs named with their reasons; returns the count of each status.

    Jobs that never started count as ``missing`` where ``expected`` says how many there should be.
    """
    from sslmanifold.errors import UserError

    console = wide_console()
    try:
        records = collect([folder])
    except UserError:
        records = []
    counts: dict[str, int] = {}
    for record in records:
        counts[record.status] = counts.get(record.status, 0) + 1
    if expected is not None and expected > len(records):
        counts["missing"] = expected - len(records)
    if records:
        keys = telling_keys(records)
        columns = usual_columns(records)
        shown, hidden = fitting(records, keys, columns, console.width)
        console.print(runs_table(records, shown, columns))
        if hidden:
            console.print(f"no room for {', '.join(hidden)}", style="dim", highlight=False, markup=False)
        for record in records:
            if record.status in ("failed", "interrupted", UNREADABLE):
                what = " ".join(f"{key}={swept_value(record, key)}" for key in keys)
                reason = record.summary.get("reason") or "no reason was left"
                text = f"job {record.name} ({what}) {record.status}: {reason}"
                console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    tally = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    console.print(f"{len(records)} jobs: {tally}" if tally else "no jobs", highlight=False, markup=False)
    console.print(f"sweep folder: {folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"pictures: sslmanifold report {folder}", highlight=False, markup=False, soft_wrap=True)
    return counts
