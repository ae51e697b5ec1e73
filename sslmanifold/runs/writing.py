"""What is written onto a disk that may be full, read-only or gone, by a process that may be killed."""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sslmanifold.errors import OutputError

_WAYS_OUT = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room, or ask for a larger quota",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOTDIR: "a file of that name is in the way of a folder: choose another",
    errno.EEXIST: "a file of that name is in the way of a folder: choose another",
    errno.EISDIR: "a folder of that name is in the way of the file: remove it",
    errno.ENOENT: "its folder was removed while it was written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk fails",
}
# what atomic() calls a file that is not yet whole, and what links to checkpoints were called
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}(?P<suffix>\.[^.]+)|partial)")


def cannot_write(path: Path | str, error: OSError) -> OutputError:
    """One line for an OSError met while writing ``path``."""
    why = os.strerror(error.errno) if error.errno else str(error)
    way_out = _WAYS_OUT.get(error.errno or 0)
    return OutputError(f"{path} cannot be written: {why}" + (f"; {way_out}" if way_out else ""))


def is_of_the_disk(error: OSError) -> bool:
    """Whether an OSError tells of a disk or a folder rather than of a mistake in this package."""
    return error.errno in _WAYS_OUT


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block, which writes ``path``, into one line.

    Raises:
        OutputError: for a full disk, a folder that cannot be written, one that is gone.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_partials(folder: Path, older_than: float = 0.0) -> None:
    """Remove the hidden files that killed processes had begun to write in ``folder``; what they were to replace stays.

    Args:
        folder: need not exist.
        older_than: seconds since the last write; more than nothing where another process may be writing now.
    """
    now = time.time()
    for path in folder.glob(".*"):
        match = _PARTIAL.fullmatch(path.name)
        if match and match["name"].endswith(match["suffix"] or ""):
            with suppress(OSError):
                if path.is_file() and now - path.stat().st_mtime >= older_than:
                    path.unlink()
