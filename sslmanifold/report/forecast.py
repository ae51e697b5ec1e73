"""The table that a forecast ends in: one row, and one colour, a constraint."""

from typing import Any

from rich.table import Table

from sslmanifold.console import cell, wide_console
from sslmanifold.plots.style import constraint_colour
from sslmanifold.report.terminal import number
from sslmanifold.training.forecast import Forecast, Row


def print_forecast(found: Forecast) -> None:
    """What is forecast, a table of the constraints, and what has to be known to read it."""
    console = wide_console()

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    names = ", ".join(f"{key}={value}" for key, value in found.names.items())
    say(f"forecast of {names}")
    steps = "never reached by its schedule" if found.steps is None else f"{found.steps} steps"
    way = f"over t = {number(found.time)} ({steps})"
    say(f"effective rank of {found.embedding} and loss, from {found.origin}, {way}")
    console.print(forecast_table(found))
    projected = [row for row in found.rows if row.start is not None and not row.start.same]
    if projected:
        far = ", ".join(
            f"{100 * row.start.distance:.3g} % ({row.constraint})" for row in projected if row.start
        )
        say(f"projected: the weights are not feasible there, their projection is; distance {far}")
    say(
        f"collapses: the step after which (effective rank − 1) is below {found.fraction:g} of the largest that it was "
        "before"
    )
    for row in found.rows:
        if row.blow_up is not None:
            say(
                f"{row.constraint}: the flow leaves every bound at t = {number(row.blow_up)}, there is no minimum"
            )
    for row in found.rows:
        if row.reason:
            say(f"{row.constraint}: {row.reason}", "yellow")
    for note in found.notes:
        say(note, "yellow")


def forecast_table(found: Forecast) -> Table:
    """One row a constraint, the run's own marked."""
    table = Table()
    table.add_column("constraint", overflow="fold")
    table.add_column("start", no_wrap=True)
    for heading in ("rank", "at the end", "least"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("collapses", overflow="fold")
    for heading in ("loss", "L*", "gap"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    mark = " (this run)" if row.own else ""
    name = f"[{constraint_colour(row.constraint)}]{cell(row.constraint)}[/]{mark}"
    if row.reason or row.start is None:
        return [name, "no forecast", *[""] * 7]
    ends = row.blow_up is not None
    values: list[Any] = [float(row.rank[0].mean()), float(row.rank[-1].mean()), row.smallest]
    later: list[Any] = ["diverges" if ends else float(row.loss[-1].mean()), row.optimum]
    gap = "" if row.gap is None or ends else f"{row.gap:.2g}"
    return [
        name,
        "same" if row.start.same else "projected",
        *(cell(number(value)) for value in values),
        cell(_collapse(row)),
        *(cell(number(value)) for value in later),
        gap,
    ]


def _collapse(row: Row) -> str:
    """When the rank falls below its threshold, in steps of the training."""
    if row.collapsed_before:
        return "already"
    if row.collapse is None:
        return "not in this run"
    return f"t = {number(row.collapse)}" if row.collapse_step is None else f"step {row.collapse_step}"
