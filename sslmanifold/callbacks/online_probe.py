"""Probes while training: how linearly separable, and how clustered, the classes are in the embedding now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from sslmanifold.callbacks.observer import Observer
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.errors import UserError


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Centred and divided by one number, from the training points (S, n, z)."""
    mean = train.mean(-2, keepdim=True)
    train, test = train - mean, test - mean
    peak = train.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    scale = peak * (train / peak).square().mean((-2, -1), keepdim=True).sqrt()
    return train / scale, test / scale


def least_squares_labels(train: Tensor, y: Tensor, test: Tensor, classes: int, alpha: float) -> Tensor:
    """Predictions (S, n_test) of ridge regression onto ±1 labels, from embeddings (S, n, z) and (S, n_test, z).

    W = (XᵀX + α I)⁻¹ Xᵀ(Y − Ȳ) on centred X; the class with the largest X W + Ȳ.
    """
    train, test = _standardised(train, test)
    targets = 2 * torch.nn.functional.one_hot(y, classes).double() - 1  # (n, K)
    offset = targets.mean(0)
    gram = train.mT @ train + alpha * torch.eye(train.shape[-1], dtype=train.dtype)
    weights = torch.linalg.solve(gram, train.mT @ (targets - offset))  # (S, z, K)
    return (test @ weights + offset).argmax(-1)


def neighbour_labels(train: Tensor, y: Tensor, test: Tensor, classes: int, k: int) -> Tensor:
    """Majority class of the k nearest training points, (S, n_test); ties go to the smaller label."""
    near = torch.cdist(test, train).topk(min(k, train.shape[-2]), largest=False).indices  # (S, n_test, k)
    return torch.nn.functional.one_hot(y[near], classes).sum(-2).argmax(-1)


@dataclass(kw_only=True)
class OnlineProbe(Observer):
    """Logs ``probe/linear/accuracy`` and ``probe/knn/accuracy`` on the test split, one value a replica.

    Embeddings are taken as they are, without a graph, and no random number is drawn: a run trains bit for bit as
    it would without this callback. Values appear in the first logged row that is due, and in the last.

    Attributes:
        every_n_epochs: passes over the data between evaluations; with full batches a step is a pass.
        k: of kNN.
        alpha: ridge penalty of the linear probe, on embeddings of unit scale.
        points: at most so many training and so many test points, spread evenly over the data.
    """

    every_n_epochs: Annotated[int, Field(gt=0)] = 100
    k: Annotated[int, Field(gt=0)] = 10
    alpha: Annotated[float, Field(gt=0)] = 1.0
    points: Annotated[int, Field(gt=0)] = 5000

    def __post_init__(self) -> None:
        self._period = 1
        self._last_step: int | None = None
        self._data: tuple[Tensor, Tensor, Tensor, Tensor, int] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        samples = trainer.datamodule.samples
        if samples.train_y is None or samples.test_y is None or not len(samples.test_y):
            raise UserError(
                f"callbacks.online_probe needs labelled training and test points, which data={samples.name} lacks: set "
                "data.labels, or ~callbacks.online_probe to drop it"
            )
        train, test = (
            torch.linspace(0, n - 1, min(n, self.points)).long() for n in (samples.n, len(samples.test_y))
        )
        classes = int(max(samples.train_y.max(), samples.test_y.max())) + 1
        self._data = train, samples.train_y[train], samples.test_x[test], samples.test_y[test], classes
        self._period = self.every_n_epochs * trainer.train_dataloader.steps_per_pass
        self._last_step = trainer.max_steps

    def _due(self, step: int, previous: int | None) -> bool:
        """Whether a period has ended since the last row: a function of the rows alone, the same after a resume."""
        return previous is None or step == self._last_step or step // self._period > previous // self._period

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        if self._data is None or snapshot.embed is None or not self._due(snapshot.step, snapshot.previous):
            return {}
        rows, train_y, test_x, test_y, classes = self._data
        train, test = snapshot.embedding[:, rows], snapshot.embed(test_x)
        guesses = {
            "linear": least_squares_labels(train, train_y, test, classes, self.alpha),
            "knn": neighbour_labels(train, train_y, test, classes, self.k),
        }
        return {
            f"probe/{name}/accuracy": torch.stack(
                [multiclass_accuracy(guess, test_y, classes, average="micro") for guess in replicas]
            ).double()
            for name, replicas in guesses.items()
        }
