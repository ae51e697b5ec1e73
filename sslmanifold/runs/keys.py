"""What is logged, in one table: what each key means to whoever shows it. All else asks here.

A key is the same in ``metrics.csv`` and ``summary.json``. Who shows which keys, and in which order, is the reader's own
choice; how they are called, which way is better and what is rounding is not.
"""

from dataclasses import dataclass

LOSS = "train/loss"
OPTIMUM = "train/optimum"
GAP = "train/optimality_gap"
RANK = "rank/effective"
STABLE_RANK = "rank/stable"
DEVIATION = "ode/deviation"
LARGEST_DEVIATION = "ode/deviation_max"
SUBSPACE_DISTANCE = "ode/subspace_distance"
RESIDUAL = "constraint/residual"
TIME = "ode/time"
SECONDS = "wall_seconds"


@dataclass(frozen=True, kw_only=True)
class Key:
    """How one logged number is shown and judged.

    Attributes:
        heading: of a table, or of an axis.
        row: in the table that a run ends with.
        column: of a table of runs, and where there is room for a word only.
        larger: whether larger is better; None where neither is.
        logarithmic: whether a curve of it is read on a logarithmic axis.
        floor: differences below this are rounding.
    """

    heading: str
    row: str
    column: str
    larger: bool | None = None
    logarithmic: bool = False
    floor: float = 0.0


KEYS: dict[str, Key] = {
    LOSS: Key(heading="Loss", row="loss", column="loss"),
    OPTIMUM: Key(heading="Optimum L*", row="optimum L*", column="L*"),
    # a gap of 1e-5 is the optimum in float32
    GAP: Key(
        heading="Optimality gap",
        row="optimality gap",
        column="gap",
        larger=False,
        logarithmic=True,
        floor=1e-5,
    ),
    RANK: Key(heading="Effective rank", row="effective rank", column="rank", larger=True),
    STABLE_RANK: Key(heading="Stable rank", row="stable rank", column="stable rank", larger=True),
    DEVIATION: Key(
        heading="Deviation from the ODE",
        row="ODE deviation, last",
        column="ODE dev.",
        larger=False,
        logarithmic=True,
    ),
    LARGEST_DEVIATION: Key(
        heading="Largest deviation from the ODE",
        row="ODE deviation, largest",
        column="ODE dev. max",
        larger=False,
        logarithmic=True,
    ),
    SUBSPACE_DISTANCE: Key(
        heading="Distance to the ODE's subspace",
        row="subspace distance",
        column="subspace",
        larger=False,
        logarithmic=True,
    ),
    RESIDUAL: Key(heading="Constraint residual", row="constraint residual", column="residual"),
    SECONDS: Key(heading="Seconds", row="seconds", column="seconds", larger=False),
}


def key_of(key: str) -> Key:
    """What a key means; of one that the table does not have, the accuracy of a probe or a callback's own, its name."""
    if key in KEYS:
        return KEYS[key]
    kind, _, rest = key.partition("/")
    if kind == "probe" and rest.endswith("/accuracy"):
        name = rest.removesuffix("/accuracy")
        return Key(heading=f"Accuracy of the {name} probe", row=f"{name} accuracy", column=name, larger=True)
    return Key(heading=key, row=key, column=key)
