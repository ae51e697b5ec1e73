"""``sslmanifold reproduce``: every figure and every statement of a paper, or one of them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sslmanifold.commands.application import run_application
from sslmanifold.config.compose import plain
from sslmanifold.reproduction.options import named_paper


@contextmanager
def _bars() -> Iterator[Callable[[str], AbstractContextManager[Callable[[int, int], None]]]]:
    """A progress bar for each part that runs, and a line that stays for each that is done."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bars:

        @contextmanager
        def bar(title: str) -> Iterator[Callable[[int, int], None]]:
            start = time.monotonic()
            task = bars.add_task(title, total=None)
            try:
                yield lambda done, total: bars.update(task, completed=done, total=total)
                bars.console.print(f"{title}: {time.monotonic() - start:.0f} s", highlight=False)
            finally:
                bars.remove_task(task)

        yield bar


def task(config: DictConfig) -> None:
    """Check the options, reproduce, print the verdicts."""
    from threadpoolctl import threadpool_limits

    from sslmanifold.config.check import validated
    from sslmanifold.reproduction.gallery import write_gallery
    from sslmanifold.reproduction.options import reproduce_options, settings_of
    from sslmanifold.reproduction.reproduce import chosen_parts, figure_files, reproduce
    from sslmanifold.reproduction.table import print_claims
    from sslmanifold.reproduction.workers import available_jobs

    options = reproduce_options(**validated(reproduce_options, plain(config), ""))
    parts = chosen_parts(options["figure"], options["paper"])
    settings = settings_of(options, Path(HydraConfig.get().runtime.output_dir))
    import torch

    torch.set_num_threads(options["threads"])
    with threadpool_limits(options["threads"]), _bars() as progress:
        claims = reproduce(
            parts,
            settings,
            force=options["force"],
            progress=progress,
            jobs=options["jobs"] or available_jobs(),
            threads=options["threads"],
        )
    if options["gallery"]:
        write_gallery(figure_files(parts, settings), Path(options["gallery"]))
    print_claims(claims, settings.folder)


def main(arguments: list[str]) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    return run_application("reproduce", task, [named_paper(argument) for argument in arguments])
