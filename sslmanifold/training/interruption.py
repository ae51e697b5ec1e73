"""Stopping a run from outside without losing what it has."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning


@contextmanager
def stop_on_signals(trainer: lightning.Trainer) -> Iterator[list[int]]:
    """Finish the step in hand on SIGINT or SIGTERM; a second SIGINT stops at once. Yields the signals seen."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def stop(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        trainer.should_stop = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
