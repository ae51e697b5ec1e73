"""The verdicts on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslmanifold.reproduction.readme import tally


def print_claims(claims: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """One line a statement, then where everything lies."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from sslmanifold.console import TextConsole

    colours = {"holds": "green", "holds as corrected": "yellow", "fails": "red"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (("statement", "left"), ("verdict", "left"), ("value", "right"), ("", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for claim in claims:
        value = "not finite" if claim["value"] is None else f"{claim['value']:.4g}"
        verdict = f"[{colours[claim['verdict']]}]{claim['verdict']}[/]"
        direction = {"<=": "≤", ">=": "≥"}[claim["direction"]]
        table.add_row(escape(claim["statement"]), verdict, value, f"{direction} {claim['tolerance']:.4g}")
    console = TextConsole()
    console.print(table)
    console.print(tally(claims), highlight=False)
    console.print(f"{folder / 'README.md'}: the table with the figures", soft_wrap=True, highlight=False)
