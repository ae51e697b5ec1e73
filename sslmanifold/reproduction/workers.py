"""Parts of the reproduction in several processes at once: a laptop's cores are there, and parts do not meet."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from threading import Thread

from sslmanifold.errors import UserError
from sslmanifold.reproduction.part import Part, Settings, no_progress

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
# (part, done, total), from a worker to the process that draws the bars
Report = tuple[str, int, int]

# a worker takes 1 to 1.6 GB, and beyond four the longest part decides the time: not more unless asked for
MOST_JOBS = 4

_reports: "SimpleQueue[Report]"


def available_jobs() -> int:
    """How many workers this machine has cores for, at most ``MOST_JOBS``."""
    from joblib import cpu_count

    return max(1, min(MOST_JOBS, cpu_count(only_physical_cores=True)))


def in_processes(
    parts: Sequence[Part], settings: Settings, jobs: int, threads: int, progress: Progress
) -> Iterator[Part]:
    """Compute, keep and draw parts in ``jobs`` processes; yields each part when it is finished.

    Where one fails, or the caller stops asking, the others are ended: what they have finished is kept.

    Args:
        parts: of the paper that ``settings`` names.
        settings: of all of them; their progress goes to ``progress``.
        jobs: number of processes.
        threads: torch and BLAS threads of each.
        progress: title → a context that gives (done, total) → None; open while the part runs.

    Raises:
        UserError: where a process was killed from outside.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    reports: SimpleQueue[Report] = context.SimpleQueue()
    before = set(multiprocessing.active_children())
    quiet = replace(settings, progress=no_progress)  # a bar cannot be sent to a worker
    with (
        ExitStack() as bars,
        ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(reports, threads)) as executor,
    ):
        futures = {executor.submit(_work, part.name, quiet): part for part in parts}
        shown: dict[str, tuple[ExitStack, Callable[[int, int], None]]] = {}
        titles = {part.name: part.title for part in parts}
        open_futures = set(futures)
        try:
            while open_futures:
                done, open_futures = wait(open_futures, timeout=0.1, return_when=FIRST_COMPLETED)
                while not reports.empty():
                    name, *amount = reports.get()
                    if name not in shown:
                        stack = bars.enter_context(ExitStack())
                        shown[name] = stack, stack.enter_context(progress(titles[name]))
                    shown[name][1](*amount)
                for future in done:
                    future.result()
                    part = futures[future]
                    if part.name in shown:
                        shown[part.name][0].close()
                    yield part
        except BaseException as error:
            for future in open_futures:
                future.cancel()
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            # its thread sees them end, and must have ended before the interpreter does
            executor.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"one of {jobs} processes was killed, for its memory perhaps: set jobs=1; what is finished is kept"
                ) from error
            raise


def _begin(reports: "SimpleQueue[Report]", threads: int) -> None:
    """What a worker does first: threads, signals, and an end of its own should the parent be killed."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent ends its workers
    Thread(target=_end_with_parent, daemon=True).start()
    import torch
    from threadpoolctl import threadpool_limits

    import sslmanifold.reproduction.papers  # noqa: F401  # the limits are of the libraries loaded so far

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _work(name: str, settings: Settings) -> None:
    """One part, in a worker."""
    from sslmanifold.reproduction.papers import PAPERS
    from sslmanifold.reproduction.reproduce import finish

    def report(done: int, total: int) -> None:
        _reports.put((name, done, total))

    report(0, 1)  # the bar appears
    finish(PAPERS[settings.paper].parts[name], replace(settings, progress=report))
