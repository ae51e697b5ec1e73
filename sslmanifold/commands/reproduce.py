"""``sslmanifold reproduce``: every figure and every statement of the paper, or one of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sslmanifold.config.application import plain, run_application


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """One progress bar a part, gone from the screen when the part is done."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def task(config: DictConfig) -> None:
    """Check the options, reproduce, print the verdicts."""
    from threadpoolctl import threadpool_limits

    from sslmanifold.config.check import validated
    from sslmanifold.reproduction.gallery import write_gallery
    from sslmanifold.reproduction.options import reproduce_options, settings_of
    from sslmanifold.reproduction.reproduce import chosen_parts, figure_files, reproduce
    from sslmanifold.reproduction.table import print_claims

    options = reproduce_options(**validated(reproduce_options, plain(config), ""))
    parts = chosen_parts(options["figure"])
    folder = Path(HydraConfig.get().runtime.output_dir)
    settings = settings_of(options, folder)
    import torch

    torch.set_num_threads(options["threads"])
    with threadpool_limits(options["threads"]):
        claims = reproduce(parts, settings, force=options["force"], progress=_bar)
    if options["gallery"]:
        write_gallery(figure_files(parts, settings), Path(options["gallery"]))
    print_claims(claims, folder)


def main(arguments: list[str]) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    return run_application("reproduce", task, arguments)
