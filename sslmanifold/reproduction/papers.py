"""The papers that ``sslmanifold reproduce paper=`` takes, each with its parts; the first is the project's own."""

from dataclasses import dataclass

from sslmanifold.reproduction.part import Part
from sslmanifold.reproduction.parts import PARTS
from sslmanifold.reproduction.theories import jing2022, simon2023, tian2021
from sslmanifold.reproduction.theories.forecasts import PART as FORECASTS


@dataclass(frozen=True)
class Paper:
    """One paper, or the comparison of all of them.

    Attributes:
        title: heading of its page.
        parts: by name, in the order of the page.
    """

    title: str
    parts: dict[str, Part]


PAPERS: dict[str, Paper] = {
    "fleissner2023": Paper("Representation Learning Dynamics of Self-Supervised Models", PARTS),
    "simon2023": Paper("On the Stepwise Nature of Self-Supervised Learning", simon2023.PARTS),
    "tian2021": Paper(
        "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs", tian2021.PARTS
    ),
    "jing2022": Paper(
        "Understanding Dimensional Collapse in Contrastive Self-Supervised Learning", jing2022.PARTS
    ),
    "theories": Paper("Effective rank under every theory and constraint", {FORECASTS.name: FORECASTS}),
}
