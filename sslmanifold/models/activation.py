"""The activations φ of u(x) = W2ᵀ φ(W1 x)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["linear", "tanh", "relu", "sigmoid"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
