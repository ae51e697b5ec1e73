"""One number to scale an embedding by: the shape of its spectrum, collapsed or not, is left as it is."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GlobalScale:
    """x ↦ (x − mean)/s with the one scale s = ‖X − mean‖_F/√(n k), from the training split.

    Regularised probes are then comparable between embeddings. Standardising each coordinate instead would blow
    a collapsed direction up to the size of the others and hide the collapse.
    """

    mean: np.ndarray
    scale: float

    @classmethod
    def of(cls, train: np.ndarray) -> "GlobalScale":
        """From training embeddings (n, k)."""
        # a diverged embedding is near the largest float: squares must not overflow
        peak = float(np.abs(train).max()) or 1.0
        mean = (train / peak).mean(0) * peak
        scale = float(np.sqrt(np.mean(np.square((train - mean) / peak)))) * peak
        return cls(mean, scale if scale > 0 else 1.0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale
