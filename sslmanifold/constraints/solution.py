"""A flow solved from given weights: what `sslmanifold dynamics` writes down."""

from typing import NamedTuple

from torch import Tensor


class Solution(NamedTuple):
    """The map and the objective along a flow, in the basis of the data, float64.

    Attributes:
        times: (T,), Σ lr of the training it describes; ends early where the flow blows up.
        m: (T, S, d, z).
        loss: the objective as differentiated, (T, S).
        method: what solved it.
        blow_up: the time at which the flow leaves every bound, or None.
    """

    times: Tensor
    m: Tensor
    loss: Tensor
    method: str
    blow_up: float | None = None
