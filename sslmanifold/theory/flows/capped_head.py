"""One layer whose singular values are capped: a head in an operator-norm ball, and the head of the scaled loss.

Stepped as training steps and extrapolated, like the two layers of `capped`; the map is all there is to its state, so
that a step costs one z×z eigenproblem.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.theory.flows.capped import Cap
from sslmanifold.theory.flows.extrapolate import ExtrapolatedFlow
from sslmanifold.theory.flows.head import only_weight


class MapLayer(NamedTuple):
    """The map m (…, d, z) of one layer, float64."""

    m: Tensor


class CappedHeadFlow(ExtrapolatedFlow[MapLayer]):
    """Base: the one weight moves along its free gradient and then has its singular values capped."""

    holds_gram = False
    rate = 2.0

    def _begin(self, *weights: Tensor) -> MapLayer:
        return MapLayer(self._settle(only_weight(weights)))

    @abstractmethod
    def _settle(self, m: Tensor) -> Tensor:
        """m (…, d, z) put on the constraint."""


def capped(m: Tensor, caps: Sequence[Cap]) -> Tensor:
    """m (…, d, z) with the singular values of each matrix capped, one cap each; singular vectors stay."""
    squared, v = torch.linalg.eigh(m.mT @ m)
    none = squared.new_zeros(())
    rows = squared.clamp_min(0).reshape(-1, squared.shape[-1])
    factors = [cap(row, none, 0)[2] for cap, row in zip(caps, rows, strict=True)]
    return (m @ v * torch.stack(factors).reshape(squared.shape)[..., None, :]) @ v.mT
