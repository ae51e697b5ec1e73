"""Records the trained map beside every logged row, so that figures can be drawn from run folders alone."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sslmanifold.training.module import SSLModule
from sslmanifold.training.observer import Observer


@dataclass(kw_only=True)
class MapTrace(Observer):
    """Writes ``m`` (T, S, d, z), the map of a linear network, into ``trajectory.npz``; nothing for other networks."""

    def measure(self, module: SSLModule) -> dict[str, Tensor]:
        return {}

    def arrays(self, module: SSLModule) -> dict[str, np.ndarray]:
        return {"m": module.map().numpy()} if module.network.linear else {}
