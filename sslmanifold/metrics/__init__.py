"""Metrics of a representation: functions, and ``torchmetrics.Metric`` classes above them."""

from sslmanifold.metrics.alignment import Alignment, alignment
from sslmanifold.metrics.alpha_req import AlphaReQ, alpha_req
from sslmanifold.metrics.effective_rank import EffectiveRank, effective_rank
from sslmanifold.metrics.effective_rank_rate import effective_rank_rate
from sslmanifold.metrics.lidar import LiDAR, lidar
from sslmanifold.metrics.participation_ratio import ParticipationRatio, participation_ratio
from sslmanifold.metrics.rankme import RankMe, rankme
from sslmanifold.metrics.stable_rank import StableRank, stable_rank
from sslmanifold.metrics.subspace import (
    PCAOverlap,
    SubspaceDistance,
    SubspaceOverlap,
    pca_overlap,
    subspace_distance,
    subspace_overlap,
)
from sslmanifold.metrics.uniformity import Uniformity, uniformity

__all__ = [
    "Alignment",
    "AlphaReQ",
    "EffectiveRank",
    "LiDAR",
    "PCAOverlap",
    "ParticipationRatio",
    "RankMe",
    "StableRank",
    "SubspaceDistance",
    "SubspaceOverlap",
    "Uniformity",
    "alignment",
    "alpha_req",
    "effective_rank",
    "effective_rank_rate",
    "lidar",
    "participation_ratio",
    "pca_overlap",
    "rankme",
    "stable_rank",
    "subspace_distance",
    "subspace_overlap",
    "uniformity",
]
