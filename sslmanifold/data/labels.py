"""Labels of the user's own data: missing ones, their values, the classes, and a test split that has them all."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from sslmanifold.data.dialect import MISSING
from sslmanifold.errors import UserError

MissingLabels = Literal["refuse", "drop", "class"]

_SHOWN = 10  # classes listed with their counts


def missing(y: np.ndarray) -> np.ndarray:
    """Which labels are missing, (n,) bool: NaN, or the text that pandas takes for a missing value."""
    if y.dtype.kind == "f":
        return ~np.isfinite(y)
    if y.dtype.kind in "US":
        return np.isin(np.char.strip(y.astype(str)), list(MISSING))
    return np.zeros(len(y), dtype=bool)


def kept_rows(
    y: np.ndarray, mode: MissingLabels, where: Callable[[int], str], source: str
) -> tuple[np.ndarray, str | None]:
    """Rows (m,) to keep as ``data.missing_labels`` says, and what to say about the others.

    Raises:
        UserError: under ``refuse``, naming the first row without a label.
    """
    gone = np.flatnonzero(missing(y))
    if mode == "class" or not len(gone):
        return np.arange(len(y)), None
    first = f"{str(y[gone[0]])!r} in {where(int(gone[0]))}"
    if mode == "refuse":
        raise UserError(
            f"{source}: {len(gone)} of {len(y)} labels are missing, the first {first}: set data.missing_labels=drop to "
            "leave those rows out, or data.missing_labels=class if that is a class"
        )
    return np.flatnonzero(
        ~missing(y)
    ), f"left out {len(gone)} of {len(y)} rows without a label, the first {first}"


def label_values(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Labels read as text become numbers where all of them, in all parts, are written as numbers are.

    "01" stays text: it would be one class with "1".
    """
    if any(part.dtype.kind not in "US" for part in parts):
        return list(parts)
    parts = [np.char.strip(part.astype(str)) for part in parts]
    values = np.unique(np.concatenate(parts)) if parts else np.array([])
    try:
        numbers = values.astype(np.float64)
    except ValueError:
        return list(parts)
    if not np.isfinite(numbers).all() or len(np.unique(numbers)) < len(values):
        return list(parts)
    if any(
        len(text) > 1 and text.lstrip("+-").startswith("0") and text.lstrip("+-0").isdigit()
        for text in values
    ):
        return list(parts)
    whole = (numbers == np.round(numbers)).all() and (np.abs(numbers) < 2**53).all()
    return [part.astype(np.float64).astype(np.int64 if whole else np.float64) for part in parts]


def encode(
    y: np.ndarray, test_y: np.ndarray | None, source: str
) -> tuple[list[Any], np.ndarray, np.ndarray | None]:
    """Classes in ascending order, and labels as positions among them.

    Raises:
        UserError: a class in the test samples that no training sample has.
    """
    values = np.unique(y)
    if test_y is None:
        return values.tolist(), np.searchsorted(values, y), None
    if _kind(test_y) != _kind(values):
        raise UserError(
            f"{source}: its labels are {_kind(test_y)}, those of the training samples {_kind(values)}: write both alike"
        )
    unknown = np.setdiff1d(test_y, values)
    if len(unknown):
        raise UserError(
            f"{source} has labels that no training sample has: {', '.join(map(str, unknown[:8].tolist()))}; "
            f"training has {', '.join(map(str, values[:20].tolist()))}"
        )
    return values.tolist(), np.searchsorted(values, y), np.searchsorted(values, test_y)


def _kind(y: np.ndarray) -> str:
    return "text" if y.dtype.kind in "US" else "numbers"


def hold_out(
    n: int, y: np.ndarray | None, fraction: float | None, where: Callable[[int], str], source: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows to train on and rows to test on, both ascending; None where nothing is held out.

    The same rows for every seed. With labels each class is in both parts in its share.

    Args:
        fraction: of the rows to test on; None for a fifth with labels (one of each class at least), none without.

    Raises:
        UserError: a class of one sample, or fewer rows on one side than classes.
    """
    from sklearn.model_selection import train_test_split

    part = (0.0 if y is None else 0.2) if fraction is None else fraction
    if part == 0 or n < 2:
        return None
    size = min(n - 1, max(1, round(part * n)))
    if y is not None:
        values, counts = np.unique(y, return_counts=True)
        _require_pairs(y, values, counts, where, source)
        if fraction is None:
            size = max(size, len(values))
        if min(size, n - size) < len(values):
            raise UserError(
                f"{source}: {len(values)} classes do not fit into a test split of {size} of {n} samples: set "
                f"data.test_fraction=0.5 or another part that leaves {len(values)} on both sides, data.test_fraction=0 "
                "for none, or data.test_path=FILE"
            )
    kept, held = train_test_split(np.arange(n), test_size=size, random_state=0, stratify=y)
    return np.sort(kept), np.sort(held)


def _require_pairs(
    y: np.ndarray, values: np.ndarray, counts: np.ndarray, where: Callable[[int], str], source: str
) -> None:
    if counts.min() >= 2:
        return
    ways = "data.test_fraction=0 for no test split, or data.test_path=FILE for one of its own"
    if len(values) == len(y):
        raise UserError(
            f"{source}: all {len(y)} labels are different ({', '.join(map(str, values[:4].tolist()))}, …), so they are "
            f"no classes: set data.labels to another column, or leave it out; or {ways}"
        )
    alone = values[counts == 1]
    row = int(np.flatnonzero(y == alone[0])[0])
    others = (
        f" (and {len(alone) - 1} further class{'es' if len(alone) > 2 else ''})" if len(alone) > 1 else ""
    )
    raise UserError(
        f"{source}: class {alone[0]!s} has one sample, in {where(row)}{others}, and a test split needs one on each "
        f"side: leave it out of the file; or set {ways}"
    )


def described_classes(classes: Sequence[Any], y: np.ndarray) -> str:
    """``2 classes: moon (10), sun (10)``."""
    counts = np.bincount(y, minlength=len(classes))
    shown = ", ".join(
        f"{name:.6g} ({count})" if isinstance(name, float) else f"{name or repr(name)} ({count})"
        for name, count in list(zip(classes, counts, strict=True))[:_SHOWN]
    )
    more = ", …" if len(classes) > _SHOWN else ""
    return f"{len(classes)} class{'es' if len(classes) != 1 else ''}: {shown}{more}"
