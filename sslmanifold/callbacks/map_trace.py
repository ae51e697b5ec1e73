"""Records the trained map beside every logged row, so that figures can be drawn from run folders alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sslmanifold.callbacks.observer import Observer
from sslmanifold.callbacks.snapshot import Snapshot


@dataclass(kw_only=True)
class MapTrace(Observer):
    """Writes ``m`` (T, S, d, z), the map of a linear network, into ``trajectory.npz``; nothing for other networks."""

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        return {}

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        return {"m": snapshot.map.numpy()} if snapshot.linear and snapshot.map is not None else {}
