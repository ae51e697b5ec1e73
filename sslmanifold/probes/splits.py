"""Parts of the training split: for choosing hyper-parameters, and for learning from few labels."""

import numpy as np


def validation_split(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows to validate on, stratified; every class has at least one of each.

    Args:
        y: (n,) labels, at least two of each class.
        fraction: of each class that validates.
        seed: of the choice.
    """
    generator = np.random.default_rng([seed, 1])
    fit, validate = [], []
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        held = min(len(rows) - 1, max(1, round(fraction * len(rows))))
        validate.append(rows[:held])
        fit.append(rows[held:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(validate))


def label_fraction(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows whose labels are kept, stratified; at least two of each class, so that one can validate.

    Of two fractions with the same seed the larger contains the smaller.
    """
    generator = np.random.default_rng([seed, 2])
    kept = []
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        kept.append(rows[: max(2, round(fraction * len(rows)))])
    return np.sort(np.concatenate(kept))
