"""What a user is told: errors that end in one message, and lines about a run that goes on.

No traceback, and nothing in them that steers a terminal.
"""

import sys
import unicodedata

# characters that turn the direction of a line, so that it reads as another
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    """The text with control characters (a colour, a cursor that moves, a title) as the escapes they are written with.

    Names and values of a folder may come from anybody: printed, they stay text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        repr(c)[1:-1] if c not in "\n\t" and (c in _TURNING or unicodedata.category(c) in ("Cc", "Cs")) else c
        for c in text
    )


class UserError(ValueError):
    """A mistake in what the user asked for: names the value, the reason and the line to write instead.

    The command line prints the message alone and exits with status 2; in Python it is a ``ValueError``.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class OutputError(UserError):
    """A file that could not be written: a full disk, a read-only folder, one that was removed.

    The command line prints the message alone and exits with status 1: the same line may succeed later.
    """


def notice(text: str) -> None:
    """One line on standard error about a run that goes on: what it chose, leaves out, or only approximates."""
    print(f"sslmanifold: {printable(text)}", file=sys.stderr, flush=True)
