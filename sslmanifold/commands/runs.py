"""``sslmanifold runs DIR``: a table of runs in the terminal, live with ``watch=true``."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslmanifold.commands.application import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE, complain
from sslmanifold.config.arguments import folders_and_options
from sslmanifold.errors import UserError

KEYS = {
    "sort": "a column or summary key; -key for largest first",
    "filter": "key=value, key<number or key>number, several joined by commas",
    "columns": "summary keys to show, joined by commas",
    "watch": "true: redraw every second until the sweep has ended",
}

HELP = """usage: sslmanifold runs DIR [DIR ...] [sort=KEY] [filter=COND,...] [columns=KEY,...] [watch=true]

A table of every run at or below the folders.
  sort=-rank/effective                      largest effective rank first
  filter=status=failed                      also constraint=none, 'rank/effective<1.1', 'seed>2'
  columns=train/loss,probe/knn/accuracy     other summary keys
  watch=true                                live progress of a running sweep
Exit status: 0, 1 where a run could not be read (it is named), 2 for a mistake.
"""


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    try:
        folders, options = folders_and_options(arguments, KEYS)
        watch = options.pop("watch", "false").lower()
        if watch not in ("true", "false"):
            raise UserError(f"watch={watch} is not valid: set watch=true or leave it out")
        return _watch(folders or ["."], options) if watch == "true" else _show(folders or ["."], options)
    except UserError as error:
        return complain("runs", str(error), EXIT_MISTAKE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _show(folders: Sequence[str], options: dict[str, Any]) -> int:
    from sslmanifold.console import wide_console
    from sslmanifold.report.listing import listing

    found = listing(folders, **options)
    wide_console().print(found)
    return EXIT_FAILED if found.unreadable else 0


def _watch(folders: Sequence[str], options: dict[str, Any]) -> int:
    from rich.live import Live

    from sslmanifold.console import wide_console
    from sslmanifold.report.listing import all_ended, listing

    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(
                f"{folder} is not a folder: pass the sweep folder that `sslmanifold train -m` made"
            )
    with Live(console=wide_console(), auto_refresh=False) as live:
        while True:
            ended = all_ended(folders)  # asked first: what stays on the screen is then the end
            found = listing(folders, patient=True, **options)
            live.update(found, refresh=True)
            if ended:
                return EXIT_FAILED if found.unreadable else 0
            time.sleep(1.0)
