"""The table a run ends with."""

from typing import Any

from rich.console import Console
from rich.table import Table

from sslmanifold.runs import Run

_ROWS = (
    ("loss", "train/loss"),
    ("optimum L*", "train/optimum"),
    ("optimality gap", "train/optimality_gap"),
    ("effective rank", "rank/effective"),
    ("ODE deviation, last", "ode/deviation"),
    ("ODE deviation, largest", "ode/deviation_max"),
    ("constraint residual", "constraint/residual"),
)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_run(run: Run, title: str = "") -> None:
    """Loss, optimum, effective rank, ODE deviation, residual and where the run folder is."""
    summary = run.summary
    choices = ", ".join(f"{key}={summary[key]}" for key in ("data", "model", "loss", "constraint", "seed"))
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    status = {"completed": "green", "diverged": "yellow"}.get(summary["status"], "red")
    table.add_row("status", f"[{status}]{summary['status']}[/]")
    table.add_row("steps", str(summary["steps"]))
    for name, key in _ROWS:
        if key not in summary:
            continue
        value = _number(summary[key])
        if f"{key}_std" in summary:
            value += f" ± {_number(summary[f'{key}_std'])}"
        if key == "rank/effective":
            value += f" of {summary['embedding']}"
        table.add_row(name, value)
    table.add_row("seconds", f"{summary['wall_seconds']:.1f}")
    console = Console()
    console.print(f"{title}\n{choices}".strip(), highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if summary.get("reason"):
        console.print(f"{summary['status']}: {summary['reason']}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"run folder: {run.path}", highlight=False, markup=False, soft_wrap=True)
