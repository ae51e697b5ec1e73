"""Keeps the memory that a step frees for the next step."""

import ctypes
import platform

# of glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory of this process instead of giving it back to the kernel at once.

    By default every tensor above 32 MiB is mapped anew, and the kernel fills its pages with zeros: 40 % of a step of
    an image encoder on a CPU. The process then holds the most that it ever needed until it ends.

    Returns:
        Whether the allocator took it: other C libraries, and allocators that replace glibc's, go on as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # a threshold above 32 MiB is refused by older versions: there nothing is mapped at all
    return bool(kept and (mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_MAX, 0)))
