"""What a callback that measures something looks like, in our module and in anybody else's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor

from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.constraints import Constraint
from sslmanifold.errors import UserError
from sslmanifold.models import ConstrainedNetwork


def spread(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Replica means under each key; with S > 1 replicas also ``key_std`` and ``key_r0`` … ``key_r{S−1}``.

    Extremes (keys ending in ``_max``) take the worst replica, not the mean. Values that are not finite are
    left out.
    """
    flat: dict[str, float] = {}
    for key, value in values.items():
        numbers = torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(-1)
        if numbers.numel() > 1:
            flat[key] = float(numbers.max() if key.endswith("_max") else numbers.mean())
            flat[f"{key}_std"] = float(numbers.std())
            flat |= {f"{key}_r{i}": float(number) for i, number in enumerate(numbers)}
        else:
            flat[key] = float(numbers[0])
    return {key: number for key, number in flat.items() if math.isfinite(number)}


class Recorded(lightning.LightningModule, ABC):
    """A module that knows its exact state and writes the rows of its observers itself.

    :class:`~sslmanifold.training.module.SSLModule` is one. For every other module an observer taps what it
    measures, and logs it through Lightning.

    Attributes:
        network: the constrained network.
        constraint: its constraint.
        loss: the loss object.
        moment: C as differentiated (d, d), float64, or None.
        eigvals: of C, ascending, or None.
        points: the training points (n, d), float64.
        full_batch: whether every step sees every triplet, the same each time.
        schedule: step → factor on the learning rate.
        time: Σ lr.
        last_lr: of the last step.
        steps_done: optimizer steps.
        stepped: whether one has just been taken; False while gradients are accumulated.
        batches: whose gradients it averaged.
        step_factor: by what factor clipping shortened it, (S,), or None.
        diverged_at: the step that left the finite numbers, or None.
    """

    network: ConstrainedNetwork
    constraint: Constraint
    loss: Any
    moment: Tensor | None
    eigvals: Tensor | None
    points: Tensor
    full_batch: bool
    schedule: Callable[[int], float]
    time: float
    last_lr: float
    steps_done: int
    batches: list[Any]
    step_factor: Tensor | None
    diverged_at: int | None

    @property
    @abstractmethod
    def stepped(self) -> bool: ...

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The state after the last optimizer step."""

    @abstractmethod
    def next_batch(self) -> Any:
        """The triplets of the step to come; those of every step for full batches."""

    @abstractmethod
    def map(self) -> Tensor:
        """m of the current weights, (S, d, z), float64 on the CPU."""

    @abstractmethod
    def embedding(self) -> Tensor:
        """Embedding of the training points, (S, n, z), float64 on the CPU."""

    @abstractmethod
    def moment_loss(self) -> Tensor:
        """The objective of a linear network by C, (S,), float64."""

    @abstractmethod
    def optimum(self) -> float | None:
        """L* of the constrained linear problem, or None where it does not exist."""


class Observer(Callback, ABC):
    """A callback that measures the state after an optimizer step.

    A :class:`Recorded` module asks every observer at the initial state, every ``trainer.log_every_n_steps`` steps
    and at the last state, and writes what they say as one row. Extremes over every step are kept in Lightning's
    own ``on_train_batch_end``.
    """

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse a module that this observer cannot measure, before anything is trained."""
        if not isinstance(pl_module, Recorded):
            raise UserError(
                f"{type(self).__name__} reads the exact state of sslmanifold's own module, which "
                f"{type(pl_module).__name__} does not give: derive from sslmanifold.callbacks.Recorded, or use "
                "SpectrumMonitor(on=…), OnlineProbe(…) or ODEComparison(head=…)"
            )

    @abstractmethod
    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Log key → values (replicas,) of this state; keys that do not apply are left out. Pure."""

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Name → array of this state for ``trajectory.npz``, stacked over logged steps."""
        return {}

    def after(self, snapshot: Snapshot, values: Mapping[str, Tensor]) -> None:
        """What follows from a row that was just measured, e.g. a warning."""
        return

    def reason(self) -> str:
        """Why this observer ended the run, if it did."""
        return ""

    def summary(self) -> dict[str, Any]:
        """Entries of ``summary.json`` beyond the last values of the logged keys."""
        return {}
