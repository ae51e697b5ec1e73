"""Learning-rate schedules: step → factor on ``optimizer.lr``. The time of the flow is Σ lr, so it follows."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(kw_only=True)
class Constant:
    """The same lr at every step."""

    def factor(self, step: int, total: int) -> float:
        return 1.0


@dataclass(kw_only=True)
class Cosine:
    """Half a cosine from optimizer.lr down to ``final`` · optimizer.lr over the steps of the run.

    ``warmup`` is the part of them in which it first grows linearly to optimizer.lr.
    """

    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def factor(self, step: int, total: int) -> float:
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / rising
        progress = min((step - rising) / max(total - rising, 1), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(kw_only=True)
class Warmup:
    """Linear growth to optimizer.lr over the first ``steps`` steps, then constant."""

    steps: Annotated[int, Field(gt=0)] = 100

    def factor(self, step: int, total: int) -> float:
        return min((step + 1) / self.steps, 1.0)
