"""Deaths and their traces, shared by the tests of what interrupted, resumed and damaged runs leave."""

from collections.abc import Callable
from typing import Any

import pytest

from sslmanifold.training.module import SSLModule


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run's own code may answer it."""


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], type[BaseException]]:
    """``die_at(step)``: training now dies in the middle of this step (None: lives), of what is returned."""
    original = SSLModule.training_step

    def arm(step: int | None) -> type[BaseException]:
        def training_step(self: SSLModule, batch: Any, batch_idx: int) -> Any:
            if self.steps_done == step:
                raise Killed
            return original(self, batch, batch_idx)

        monkeypatch.setattr(SSLModule, "training_step", training_step)
        return Killed

    return arm
