"""All that the dynamics of a two-layer linear net depend on, whatever its width."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sslmanifold.errors import UserError


class State(Protocol):
    """What every flow carries: the map m = W1ᵀW2 (…, d, z), float64, and the time Σ lr it stands at."""

    @property
    def m(self) -> Tensor: ...

    @property
    def time(self) -> float: ...


class GramState(NamedTuple):
    """(m, H1, H2) = (W1ᵀW2, W1ᵀW1, W2ᵀW2): the width-free state of a two-layer linear net.

    m (…, d, z), h1 (…, d, d), h2 (…, z, z), float64; leading batch dimensions are independent runs.
    """

    m: Tensor
    h1: Tensor
    h2: Tensor
    time: float = 0.0


def as_weights(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 copies of W1 (…, h, d) and W2 (…, h, z); raises UserError unless their widths h agree."""
    if w1.ndim < 2 or w2.ndim < 2 or w1.shape[-2] != w2.shape[-2]:
        raise UserError(
            f"weights of shapes {tuple(w1.shape)} and {tuple(w2.shape)}: give W1 as (…, h, d) and W2 as (…, h, z) "
            "with the same h"
        )
    return w1.detach().to(torch.float64), w2.detach().to(torch.float64)


def two_layers(*weights: Tensor) -> GramState:
    """The state of the weights that a flow of two layers is started with; UserError unless they are W1 and W2."""
    if len(weights) != 2:
        raise UserError(f"{len(weights)} weights: this flow is that of a two-layer net, give W1 and W2")
    return gram_state(*weights)


def gram_state(w1: Tensor, w2: Tensor, time: float = 0.0) -> GramState:
    """(W1ᵀW2, W1ᵀW1, W2ᵀW2) of weights (…, h, d) and (…, h, z), float64."""
    w1, w2 = as_weights(w1, w2)
    return GramState(w1.mT @ w2, w1.mT @ w1, w2.mT @ w2, time)
