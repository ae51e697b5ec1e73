"""One process a run folder: a worker that outlived its killed sweep and a resumed sweep must not share one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for the block, waiting for whoever holds it now; the lock dies with its process.

    On a file system without locks the block runs without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
