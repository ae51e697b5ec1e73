"""Records the trained map beside every logged row, so that figures can be drawn from run folders alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sslmanifold.callbacks.observer import Observer

if TYPE_CHECKING:
    from sslmanifold.training.module import SSLModule


@dataclass(kw_only=True)
class MapTrace(Observer):
    """Writes ``m`` (T, S, d, z), the map of a linear network, into ``trajectory.npz``; nothing for other networks."""

    def measure(self, module: SSLModule) -> dict[str, Tensor]:
        return {}

    def arrays(self, module: SSLModule) -> dict[str, np.ndarray]:
        return {"m": module.map().numpy()} if module.network.linear else {}
