"""What a callback that measures something looks like."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import Callback
from torch import Tensor

if TYPE_CHECKING:
    from sslmanifold.training.module import SSLModule


class Observer(Callback):
    """A callback that measures the state after an optimizer step.

    The module asks every observer at the initial state, every ``trainer.log_every_n_steps`` steps and at the
    last state, and writes what they say as one row. Extremes over every step are kept in Lightning's own
    ``on_train_batch_end``.
    """

    @abstractmethod
    def measure(self, module: "SSLModule") -> dict[str, Tensor]:
        """Log key → values (replicas,) of the current state; keys that do not apply are left out."""

    def arrays(self, module: "SSLModule") -> dict[str, np.ndarray]:
        """Name → array of the current state for ``trajectory.npz``, stacked over logged steps."""
        return {}

    def reason(self, module: "SSLModule") -> str:
        """Why this observer ended the run, if it did."""
        return ""

    def summary(self, module: "SSLModule") -> dict[str, object]:
        """Entries of ``summary.json`` beyond the last values of the logged keys."""
        return {}
