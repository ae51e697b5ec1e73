"""Signals that end a command, where the code that they interrupt would answer them itself, or lose them."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command, and the memory that it came.

    Compiled code that it is raised through may answer with an error of its own (pydantic's schemas do), whose cause
    and context no longer name it.
    """

    came = False

    @classmethod
    def answer(cls, number: int, frame: Any) -> None:
        """A signal handler, as ``signal.default_int_handler`` is."""
        Interrupted.came = True
        raise cls


def is_of_a_signal(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, or what other code made of one."""
    if Interrupted.came:
        return True
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def none_lost(last: Any = lambda: signal.SIGINT) -> Iterator[None]:
    """While this lasts, a KeyboardInterrupt that Python cannot raise comes again.

    One that falls into a finaliser or the callback of a weak reference is printed and forgotten. Here its signal is
    sent anew a moment later, when other code runs.

    Args:
        last: which signal to send.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        again = threading.Timer(0.01, os.kill, (os.getpid(), last()))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
