"""From predictions to figures: accuracy with its bootstrap interval, confusion, per-class precision and recall."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """How well test labels were predicted.

    With S replicas the accuracy is their mean, and a bootstrap sample of test points is the same for all of them.

    Attributes:
        accuracy: fraction of test points predicted right.
        interval: its 95 % bootstrap interval over test points.
        per_replica: the accuracy of each replica.
        confusion: counts, true class × predicted class, summed over replicas.
        per_class: precision, recall, F1 and support of each class (support in test points, the rest averaged
            over replicas).
    """

    accuracy: float
    interval: tuple[float, float]
    per_replica: list[float]
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float]]


def bootstrap_interval(correct: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """Percentile interval, 95 %, of the mean over resampled test points.

    Args:
        correct: (n,), how often each point was predicted right, in [0, 1].
        samples: bootstrap samples.
        seed: of the resampling.
    """
    generator = np.random.default_rng([seed, 3])
    n = len(correct)
    means = np.concatenate(
        [
            correct[generator.integers(n, size=(min(100, samples - done), n))].mean(1)
            for done in range(0, samples, 100)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def score(
    predicted: np.ndarray, truth: np.ndarray, classes: list[Any], *, bootstrap: int, seed: int
) -> Scores:
    """Scores of predictions (S, n) or (n,) against labels (n,)."""
    guesses = torch.from_numpy(np.atleast_2d(predicted).astype(np.int64))  # (S, n)
    target = torch.from_numpy(np.asarray(truth, dtype=np.int64))
    count = len(classes)
    replicas = [float(multiclass_accuracy(g, target, count, average="micro")) for g in guesses]
    confusion = torch.stack([multiclass_confusion_matrix(g, target, count) for g in guesses]).sum(0)
    functions = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    figures = {
        key: torch.stack([f(g, target, count, average="none") for g in guesses]).mean(0)
        for key, f in functions.items()
    }
    support = torch.bincount(target, minlength=count)
    per_class = {
        str(name): {key: float(values[i]) for key, values in figures.items()} | {"support": int(support[i])}
        for i, name in enumerate(classes)
    }
    correct = (guesses == target).double().mean(0).numpy()
    return Scores(
        accuracy=float(correct.mean()),
        interval=bootstrap_interval(correct, bootstrap, seed),
        per_replica=replicas,
        confusion=confusion.tolist(),
        per_class=per_class,
    )
