"""Probes while training: how linearly separable, and how clustered, the classes are in the embedding now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.functional.classification import multiclass_accuracy

from sslmanifold.callbacks.observer import Observer, Recorded
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.callbacks.tap import submodule, untouched
from sslmanifold.errors import UserError, notice

Metric = Literal["euclidean", "cosine"]


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


def neighbour_labels(
    train: Tensor, y: Tensor, test: Tensor, classes: int, k: int, metric: Metric = "euclidean"
) -> Tensor:
    """Majority class of the k nearest training points, (S, n_test); ties go to the smaller label.

    ``cosine``: nearest in direction, which is nearest after a division by the lengths.
    """
    if metric == "cosine":
        train, test = (torch.nn.functional.normalize(x, dim=-1) for x in (train, test))
    near = torch.cdist(test, train).topk(min(k, train.shape[-2]), largest=False).indices  # (S, n_test, k)
    return torch.nn.functional.one_hot(y[near], classes).sum(-2).argmax(-1)


@dataclass(kw_only=True)
class OnlineProbe(Observer):
    """Logs ``probe/linear/accuracy`` and ``probe/knn/accuracy`` on test points, one value a replica.

    Embeddings are taken in evaluation mode, without a graph, and no random number is drawn: training goes on bit
    for bit as it would without this callback, and its loss never sees a label. In sslmanifold's own module the
    points are the data set's splits, and values appear in the first logged row that is due, and in the last; data
    without labelled training and test points have none, and a printed line says so. In any other LightningModule
    the points are given here, and values are logged through Lightning at the end of an epoch.

    Attributes:
        train: labelled points, for other modules: arrays (x, y), or a Dataset or DataLoader of (x, y).
        test: the same, held out.
        on: what embeds a batch x of them, for other modules: the name of a submodule, a function of (module, x),
            or None for the module itself.
        every_n_epochs: passes over the data between evaluations; with full batches a step is a pass. None: 1 in
            other modules, 100 in sslmanifold's.
        k: of kNN.
        metric: what nearest means there: euclidean, or cosine, the angle.
        alpha: ridge penalty of the linear probe, on embeddings of unit scale.
        points: at most so many training and so many test points, spread evenly over the data; a DataLoader is read
            to its end.
        batch_size: points embedded at once, where no DataLoader is given.

    Raises:
        UserError: at the start, where labelled points are missing or are no points.
    """

    train: Any = None
    test: Any = None
    on: Any = None
    every_n_epochs: Annotated[int, Field(gt=0)] | None = None
    k: Annotated[int, Field(gt=0)] = 10
    metric: Metric = "euclidean"
    alpha: Annotated[float, Field(gt=0)] = 1.0
    points: Annotated[int, Field(gt=0)] = 5000
    batch_size: Annotated[int, Field(gt=0)] = 256

    def __post_init__(self) -> None:
        self._period = 1
        self._last_step: int | None = None
        self._data: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def accuracies(self, train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor) -> dict[str, Tensor]:
        """Key → accuracy (S,) of the two probes on embeddings (S, n, z) and (S, n_test, z), float64."""
        classes = int(max(train_y.max(), test_y.max())) + 1
        guesses = {
            "linear": least_squares_labels(train, train_y, test, classes, self.alpha),
            "knn": neighbour_labels(train, train_y, test, classes, self.k, self.metric),
        }
        return {
            f"probe/{name}/accuracy": torch.stack(
                [multiclass_accuracy(guess, test_y, classes, average="micro") for guess in replicas]
            ).double()
            for name, replicas in guesses.items()
        }

    # -- in sslmanifold's own module --------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if isinstance(pl_module, Recorded):
            return
        if isinstance(self.on, str):
            submodule(pl_module, self.on, "on")
        for name in ("train", "test"):
            _require_points(getattr(self, name), name)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not isinstance(pl_module, Recorded):
            return
        samples = trainer.datamodule.samples
        if samples.train_y is None or samples.test_y is None or not len(samples.test_y):
            if trainer.is_global_zero:
                notice(
                    f"no probes (callbacks.online_probe): data={samples.name} lacks labelled training or test points; "
                    "set data.labels or data.test_fraction to have them"
                )
            return
        train, test = (
            torch.linspace(0, n - 1, min(n, self.points)).long() for n in (samples.n, len(samples.test_y))
        )
        self._data = train, samples.train_y[train], samples.test_x[test], samples.test_y[test]
        batches = (self.every_n_epochs or 100) * trainer.train_dataloader.steps_per_pass
        self._period = max(1, batches // trainer.accumulate_grad_batches)
        self._last_step = trainer.max_steps

    def _due(self, step: int, previous: int | None) -> bool:
        """Whether a period has ended since the last row: a function of the rows alone, the same after a resume."""
        return previous is None or step == self._last_step or step // self._period > previous // self._period

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        if self._data is None or snapshot.embed is None or not self._due(snapshot.step, snapshot.previous):
            return {}
        rows, train_y, test_x, test_y = self._data
        return self.accuracies(snapshot.embedding[:, rows], train_y, snapshot.embed(test_x), test_y)

    # -- in anybody else's ------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if isinstance(pl_module, Recorded):
            return
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.current_epoch + 1) % (self.every_n_epochs or 1) and not last:
            return
        with untouched(pl_module):
            train, test = (self._embedded(pl_module, points) for points in (self.train, self.test))
        values = self.accuracies(train[0][None], train[1], test[0][None], test[1])
        pl_module.log_dict(
            {key: value.squeeze() for key, value in values.items()}, on_step=False, on_epoch=True
        )

    def _embedded(self, module: Any, points: Any) -> tuple[Tensor, Tensor]:
        """Embeddings (n, z), float64 on the CPU, and labels (n,)."""
        embeddings: list[Tensor] = []
        labels: list[Tensor] = []
        for x, y in self._batches(points):
            x = x.to(module.device)
            if callable(self.on) and not isinstance(self.on, str):
                embedded = self.on(module, x)
            else:
                embedded = (module if self.on is None else module.get_submodule(self.on))(x)
            if not isinstance(embedded, Tensor) or embedded.ndim != 2:
                what = f"shape {tuple(embedded.shape)}" if isinstance(embedded, Tensor) else "no tensor"
                raise UserError(
                    f"OnlineProbe: the embedding of a batch is {what}, (n, z) is needed: set on= the name of a "
                    "submodule that pools, or a function of (module, x)"
                )
            embeddings.append(embedded.double().cpu())
            labels.append(y.long().cpu())
        return torch.cat(embeddings), torch.cat(labels)

    def _batches(self, points: Any) -> Iterable[tuple[Tensor, Tensor]]:
        if isinstance(points, DataLoader):
            return ((batch[0], batch[1]) for batch in points)
        n = len(points) if isinstance(points, Dataset) else len(points[0])  # type: ignore[arg-type]
        chosen = torch.linspace(0, n - 1, min(n, self.points)).long()  # folders of images come class by class
        if isinstance(points, Dataset):
            return self._batches(DataLoader(Subset(points, chosen.tolist()), batch_size=self.batch_size))
        x, y = (torch.as_tensor(part) for part in points)
        dtype = torch.get_default_dtype()
        return (
            (x[rows].to(dtype) if x.is_floating_point() else x[rows], y[rows])
            for rows in chosen.split(self.batch_size)
        )


def _require_points(points: Any, name: str) -> None:
    if isinstance(points, (DataLoader, Dataset)):
        return
    pair = isinstance(points, (tuple, list)) and len(points) == 2
    if not pair or len(points[0]) != len(points[1]) or not len(points[0]):
        raise UserError(
            f"OnlineProbe needs labelled points: set {name}=(x, y), arrays of one length, or a Dataset or DataLoader "
            "of (x, y)"
        )
