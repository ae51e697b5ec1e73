"""The scaled loss L / (‖W1‖₂² ‖W2‖₂²), the practical form of orthogonality (Proposition 3, item 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import geoopt
from torch import Tensor

from sslmanifold.constraints.base import Constraint
from sslmanifold.constraints.shape import NetworkShape
from sslmanifold.geometry import top_singular
from sslmanifold.theory.flow import Flow
from sslmanifold.theory.scaled import ScaledFlow


def squared_spectral_norm(weight: Tensor) -> Tensor:
    """‖W‖₂² of each matrix (…, rows, cols) → (…,), differentiable.

    The top right singular vector v is held fixed in ‖W v‖²: by the envelope theorem that is the gradient,
    and at a tie of the top singular value it is one of the subgradients.
    """
    _, vector = top_singular(weight.detach())
    return (weight @ vector.unsqueeze(-1)).square().sum((-2, -1))  # (…, rows, cols) @ (…, cols, 1)


@dataclass(kw_only=True)
class Scaled(Constraint):
    """Free weights under a loss that no scale of theirs can change: L / Π ‖W_i‖₂².

    At a tie of the top singular value a step lowers one of the tied values only, so with a constant step the loss
    wavers a few percent above its optimum and the weights grow slowly; ``scheduler=cosine`` settles the loss, a
    smaller ``optimizer.lr`` follows the flow more closely.
    """

    name = "scaled"

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        return [geoopt.Euclidean(ndim=2) for _ in shape.matrices]

    def objective(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        for weight in weights:
            loss = loss / squared_spectral_norm(weight)
        return loss

    def flow(self, moment: Tensor, shape: NetworkShape) -> Flow | None:
        return ScaledFlow(moment) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """Σ of the min(z, h) most negative eigenvalues (Proposition 3)."""
        rank = min(shape.embedding, shape.hidden, shape.dim)
        return eigvals[..., :rank].clamp(max=0).sum(-1)
