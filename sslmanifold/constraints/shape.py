"""The shape of a network's weights: all that feasibility and geometry depend on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of u(x) = W_Lᵀ φ(… φ(W1 x)): W1 is h×d, hidden layers h×h, the last h×z.

    Attributes:
        dim: d, the number of input features.
        hidden: h, the width.
        embedding: z, the number of embedding dimensions.
        layers: L ≥ 2, the number of weight matrices.
    """

    dim: int
    hidden: int
    embedding: int
    layers: int = 2

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(rows, columns) of every weight, first layer first."""
        inner = [(self.hidden, self.hidden)] * (self.layers - 2)
        return [(self.hidden, self.dim), *inner, (self.hidden, self.embedding)]
