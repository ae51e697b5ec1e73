"""Stopping a run from outside without losing what it has."""

import signal
import threading
from typing import Any

import lightning
from lightning.pytorch import Callback


class Interruption(Callback):
    """Finishes the step in hand on SIGINT or SIGTERM; a second signal stops at once. Used as ``with``.

    Attributes:
        seen: the signals received, in order.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._trainer: lightning.Trainer | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # the only thread that may set handlers
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._install()
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen.append(number)
        if self._trainer is not None:
            self._trainer.should_stop = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._trainer = trainer
        # Lightning's own SIGTERM handler, installed on the way here, would end the run with an exception;
        # with several processes it also tells the others, so there it stays
        if trainer.world_size == 1:
            self._install()
        if self.seen:
            trainer.should_stop = True
