"""Metrics of a representation: functions, and ``torchmetrics.Metric`` classes above them."""

from sslmanifold.metrics.effective_rank import EffectiveRank, effective_rank
from sslmanifold.metrics.stable_rank import StableRank, stable_rank

__all__ = ["EffectiveRank", "StableRank", "effective_rank", "stable_rank"]
