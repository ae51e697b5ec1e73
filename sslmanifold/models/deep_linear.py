"""Deep linear networks u(x) = W_Lᵀ W_{L−1} ⋯ W_1 x (the paper's Figure 6)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sslmanifold.models.two_layer import TwoLayer


@dataclass(kw_only=True)
class DeepLinear(TwoLayer):
    """L layers, the hidden ones square (h×h), no activation.

    Attributes:
        layers: L; 2 is the two-layer linear network, 3 has two hidden layers.
    """

    layers: Annotated[int, Field(ge=2)] = 3  # type: ignore[misc]  # what is fixed at two there is a choice here

    def __post_init__(self) -> None:
        self.activation = "linear"
