"""Choosing classes, and so many samples of each, from labelled data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslmanifold.errors import UserError


def select_classes(
    labels: np.ndarray, classes: Sequence[Any] | None, per_class: int | None = None, *, name: str
) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Rows of the chosen classes, their labels as positions in the class list, and that list.

    The first ``per_class`` rows of each class are taken, in the order of the data, so that the choice
    depends on no seed. Classes keep the order asked for.

    Args:
        labels: (n,), any values.
        classes: the label values to keep; None for all, ascending.
        per_class: rows to keep of each class; None for all.
        name: the data set, for messages.

    Raises:
        UserError: an unknown, repeated or missing class, or a class with fewer than ``per_class`` rows.
    """
    known = np.unique(labels).tolist()
    chosen = known if classes is None else list(classes)
    listed = ", ".join(map(str, known))
    if not chosen:
        raise UserError(f"data.classes=[] leaves {name} empty: choose from {listed}, or null for all")
    for value in chosen:
        if value not in known:
            raise UserError(f"data.classes: {name} has no class {value!r}: choose from {listed}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"data.classes={chosen} names a class twice: name each once")
    counts = {value: int((labels == value).sum()) for value in chosen}
    scarcest = min(counts, key=lambda value: counts[value])
    if per_class is not None and per_class > counts[scarcest]:
        raise UserError(
            f"data.per_class={per_class}: class {scarcest!r} of {name} has only {counts[scarcest]} training "
            f"samples: set data.per_class={counts[scarcest]} or less"
        )
    rows = np.sort(np.concatenate([np.flatnonzero(labels == value)[:per_class] for value in chosen]))
    position = {value: index for index, value in enumerate(chosen)}
    return rows, np.array([position[value] for value in labels[rows].tolist()], dtype=np.int64), chosen
