"""The terminal that tables and messages are printed to: what run folders say stays text there."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sslmanifold.errors import printable


class TextConsole(Console):
    """Rich's console, with the control characters of what it prints as visible escapes.

    Rich's own, for colours and live tables, are not part of a text and stay what they are.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, 160 columns where the output goes to a file."""
    console = TextConsole()
    return console if console.is_terminal else TextConsole(width=160)


def cell(text: Any) -> str:
    """Text for a cell of a table: brackets are brackets, not markup, and nothing in it turns a colour on."""
    from rich.markup import escape

    return escape(printable(str(text)))
