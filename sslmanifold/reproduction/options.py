"""The keys of ``sslmanifold reproduce``."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sslmanifold.errors import UserError
from sslmanifold.reproduction.part import FIRST, Settings

PaperName = Literal["fleissner2023", "simon2023", "tian2021", "jing2022", "theories"]


def named_paper(argument: str) -> str:
    """A paper's name alone as the override it means: ``theories`` for ``paper=theories``; all else as it is."""
    return f"paper={argument}" if argument in get_args(PaperName) else argument


def reproduce_options(
    paper: PaperName = "fleissner2023",
    figure: Any = "all",
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    quick: bool = False,
    force: bool = False,
    data: Literal["auto", "mnist", "digits"] = "auto",
    root: str | None = None,
    jobs: Annotated[int, Field(gt=0)] | None = None,
    threads: Annotated[int, Field(gt=0)] = 1,
    gallery: str | None = None,
) -> dict[str, Any]:
    """The keys of ``conf/reproduce/reproduce.yaml``; the signature is their schema."""
    return {
        "paper": paper,
        "figure": figure,
        "seed": seed,
        "quick": quick,
        "force": force,
        "data": data,
        "root": root,
        "jobs": jobs,
        "threads": threads,
        "gallery": gallery,
    }


def settings_of(options: dict[str, Any], folder: Path) -> Settings:
    """Settings of a run; ``data=auto`` is MNIST where its files are, else digits.

    Another paper than the first has a folder of its own name in ``folder``.

    Raises:
        UserError: ``data=mnist`` without the files; the message says where they should be.
    """
    data = options["data"]
    if data == "auto":
        data = "mnist" if mnist_is_there(options["root"]) else "digits"
    elif data == "mnist":
        _read_mnist(options["root"])
    paper = options.get("paper", FIRST)
    if paper != FIRST:
        folder = folder / paper
    return Settings(folder, options["seed"], options["quick"], data, options["root"], paper=paper)


def mnist_is_there(root: str | None) -> bool:
    """Whether MNIST can be read."""
    try:
        _read_mnist(root)
    except UserError:
        return False
    return True


def _read_mnist(root: str | None) -> None:
    from sslmanifold.data import MNIST

    MNIST(root=root, classes=[0, 1], per_class=1).load()
