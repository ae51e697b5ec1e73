"""A solved run: times and the map m (or q, its coordinates in C's eigenbasis) at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.theory.moment_product import Moment, moment_product


@dataclass(frozen=True)
class Trajectory:
    """q(t) of a flow at given times, Eq. 9: times (T,), q (T, …, d, z), and the method that found it.

    Time is Σ lr of the training that the flow describes. ``q`` holds eigenbasis coordinates when it comes
    from `solve`, and the map m itself when it comes from `Flow.trajectory` with a dense C (``m`` is the same
    tensor).
    """

    times: Tensor
    q: Tensor
    method: str

    @property
    def m(self) -> Tensor:
        """The same tensor, under the name that it has outside the eigenbasis."""
        return self.q

    def loss(self, moment: Moment) -> Tensor:
        """Tr(qᵀ C q) at each time (Eq. 8): C dense (d, d), eigenvalues (d,), or an operator -> (T, …)."""
        return torch.sum(self.q * moment_product(moment, self.q), dim=(-2, -1))

    def embed(self, x: Tensor) -> Tensor:
        """u(x) = qᵀx at each time, x (n, d) in the basis that q is in -> (T, …, n, z)."""
        return x.to(self.q.dtype) @ self.q

    def __len__(self) -> int:
        return int(self.times.shape[0])


class Solution(NamedTuple):
    """The map and the objective along a flow, in the basis of the data, float64.

    Attributes:
        times: (T,), Σ lr of the training it describes; ends early where the flow blows up.
        m: (T, …, d, z).
        loss: the objective as differentiated, (T, …).
        method: what solved it.
        blow_up: the time at which the flow leaves every bound, or None.
    """

    times: Tensor
    m: Tensor
    loss: Tensor
    method: str
    blow_up: float | None = None
