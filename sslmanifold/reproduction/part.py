"""What one part of the reproduction is: something to compute, claims that follow, figures drawn from the numbers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sslmanifold.reproduction.claims import Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

# parts that take images, and so depend on whether MNIST is there
IMAGE_PARTS = ("fig4", "constraints")
# the paper that is meant where none is named
FIRST = "fleissner2023"


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass
class Settings:
    """What the user chose, and where things go.

    Attributes:
        folder: the output folder.
        seed: of data, triplets and initial weights.
        quick: smaller sizes, for a smoke run.
        data: "mnist" or "digits", the images that Figure 4 uses.
        root: folder of data sets, None for the default.
        progress: called with (done, total) while a part runs.
        paper: whose parts these are, a name of :data:`~sslmanifold.reproduction.papers.PAPERS`.
    """

    folder: Path
    seed: int = 0
    quick: bool = False
    data: str = "digits"
    root: str | None = None
    progress: Callable[[int, int], None] = no_progress
    paper: str = FIRST

    def choose(self, full: T, quick: T) -> T:
        """The size for a full or for a quick reproduction."""
        return quick if self.quick else full

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """The items, moving the part's progress bar."""
        listed = list(items)
        for done, item in enumerate(listed):
            self.progress(done, len(listed))
            yield item
        self.progress(len(listed), len(listed))

    def run_folder(self, name: str) -> Path:
        """Where a run of this reproduction lies."""
        return self.folder / "runs" / name

    def command(self, part: str) -> str:
        """The line that reproduces a part."""
        name = part.removeprefix("fig") if part.removeprefix("fig").isdigit() else part
        quick = " quick=true" if self.quick else ""
        data = f" data={self.data}" if part in IMAGE_PARTS else ""
        paper = "" if self.paper == FIRST else f"paper={self.paper} "
        return f"sslmanifold reproduce {paper}figure={name} seed={self.seed}{data}{quick}"


@dataclass
class Result:
    """What a part computed.

    Attributes:
        claims: statements with their numbers.
        arrays: all that its figures are drawn from.
        facts: numbers and words for captions and tables, plain values.
        caption: data, seeds and sizes, for the figures' captions.
    """

    claims: list[Claim]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""


@dataclass(frozen=True)
class Part:
    """One figure or one group of statements.

    Attributes:
        name: "fig3", "theorem3"; what ``figure=`` chooses.
        title: for the progress bar and the README.
        compute: settings → result.
        draw: arrays, facts → figures by file name; None where there is nothing to draw.
        timed: whether it measures times: it then runs when nothing else does.
    """

    name: str
    title: str
    compute: Callable[[Settings], Result]
    draw: "Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], dict[str, Figure]] | None" = None
    timed: bool = False
