"""Stopping a run from outside without losing what it has."""

import signal
import threading
from contextlib import AbstractContextManager
from typing import Any

import lightning
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sslmanifold.interrupts import none_lost


def stop(trainer: lightning.Trainer) -> None:
    """End training after the batch in hand, whatever ``min_steps`` says."""
    trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True


class Interruption(Callback):
    """Answers SIGINT and SIGTERM from the start of a run to its summary. Used as ``with``.

    While it trains the first signal finishes the step in hand. Before the first step there is nothing to finish, and
    a second signal asks for haste: both stop at once. After the last step the first is only noted, since what
    is left takes a moment, and ends with a complete folder.

    Attributes:
        seen: the signals received, in order.
        stopped: whether one of them was answered by ending the training.
        ended: set once training has ended: from then on the first signal is only noted.
        deaf: set while the summary of a run that was stopped is written, which no signal may prevent.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.stopped = False
        self.ended = False
        self.deaf = False
        self._raised = False
        self._none_lost: AbstractContextManager[None] | None = None
        self._trainer: lightning.Trainer | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # the only thread that may set handlers
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._install()
            self._none_lost = none_lost(self._lost)
            self._none_lost.__enter__()
        return self

    def _lost(self) -> int:
        """The signal whose KeyboardInterrupt could not be raised: it will come again, and counts once."""
        return self.seen.pop() if self.seen else signal.SIGINT

    def __exit__(self, *exception: Any) -> None:
        if self._none_lost is not None:
            self._none_lost.__exit__(None, None, None)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def names(self) -> str:
        """The signals received, by name: "SIGINT", "SIGINT, SIGTERM"."""
        return ", ".join(signal.Signals(number).name for number in self.seen) or "a signal"

    def explains(self, error: BaseException) -> bool:
        """Whether a signal is what made this error: Lightning turns it into a SystemExit of its own,
        compiled code into any error."""
        if self._raised or isinstance(error, KeyboardInterrupt | SIGTERMException):
            return True
        return isinstance(error, SystemExit) and bool(self.seen)

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._answer)

    def _answer(self, number: int, frame: Any) -> None:
        self.seen.append(number)
        if self.deaf:
            return
        if self.ended and len(self.seen) == 1:
            return
        if len(self.seen) > 1 or self._trainer is None:
            self._raised = True
            raise KeyboardInterrupt
        self.stopped = True
        stop(self._trainer)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._trainer = trainer
        # Lightning's own SIGTERM handler, installed on the way here, would end the run with an exception;
        # with several processes it also tells the others, so there it stays
        if trainer.world_size == 1:
            self._install()
