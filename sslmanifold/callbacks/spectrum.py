"""Is the embedding collapsing? Effective and stable rank, and how feasible the weights are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sslmanifold.callbacks.observer import Observer
from sslmanifold.callbacks.snapshot import Snapshot
from sslmanifold.metrics import effective_rank, stable_rank


@dataclass(kw_only=True)
class SpectrumMonitor(Observer):
    """Logs ``rank/effective``, ``rank/stable`` of the training embedding and ``constraint/residual``.

    Attributes:
        centered: subtract the mean embedding first (the default); False gives RankMe's convention.
    """

    centered: bool = True

    def measure(self, snapshot: Snapshot) -> dict[str, Tensor]:
        embedding = snapshot.embedding
        values = {
            "rank/effective": effective_rank(embedding, centered=self.centered),
            "rank/stable": stable_rank(embedding, centered=self.centered),
        }
        if snapshot.residual is not None:
            values["constraint/residual"] = snapshot.residual
        return values

    def arrays(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Singular values of the training embedding, (S, z), as centred as the ranks are."""
        embedding = snapshot.embedding
        if self.centered:
            embedding = embedding - embedding.mean(-2, keepdim=True)
        scale = embedding.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        scaled = embedding / scale
        # a diverging run can have finite weights and an embedding that is not: LAPACK refuses that
        finite = torch.isfinite(scaled).all(-1).all(-1)[..., None]  # (S, 1)
        values = torch.linalg.svdvals(torch.where(finite[..., None], scaled, 0.0)) * scale.squeeze(-1)
        values = torch.where(finite, values, torch.nan)
        return {"singular_values": values.numpy()}
