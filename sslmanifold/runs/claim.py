"""One writer a folder: not two trainings, two resumes, or a resumed sweep and a worker of its killed one."""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sslmanifold.errors import UserError
from sslmanifold.runs.folder import writing

# (device, inode) of the folders that this process holds → the thread that does
_held: dict[tuple[int, int], int] = {}


@contextmanager
def claimed(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder``, made where it is not there, for the block. The lock dies with its process: none is ever stale.

    A thread that holds the folder may claim it again. On a file system without locks the block runs without one.

    Args:
        folder: what is written into.
        wait: wait for whoever holds it now, saying so, instead of refusing.

    Raises:
        UserError: where another process or thread holds it.
    """
    if os.environ.get("LOCAL_RANK", "0") not in ("", "0"):
        yield  # the other processes of a distributed run write into the folder that the first one holds
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        status = os.fstat(handle)
        key, thread = (status.st_dev, status.st_ino), threading.get_ident()
        if _held.get(key) == thread:
            yield
            return
        _lock(handle, folder, wait)
        _held[key] = thread
        try:
            yield
        finally:
            del _held[key]
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise UserError(
                f"another process is writing into {folder}: wait until it has ended, or stop it first"
            ) from None
        print(f"waiting for another process to finish with {folder}", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return
