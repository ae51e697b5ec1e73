"""Lightning without the notices that are not about the user's run."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sslmanifold.callbacks.collapse import CollapseWarning


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's notices about hardware, workers and other products; its errors stay."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*training_step.*returned.*None.*")
        warnings.simplefilter("always", CollapseWarning)
        others = warnings.showwarning
        warnings.showwarning = functools.partial(_show, others)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _show(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """A collapse is a line for the user, without the place in the program."""
    if issubclass(category, CollapseWarning):
        print(message, file=sys.stderr, flush=True)
    else:
        others(message, category, *where)
