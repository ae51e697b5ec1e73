"""The scaled loss L / (‖W1‖₂² ‖W2‖₂²), the practical form of orthogonality (Proposition 3, item 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.geometry import lower_to_level, top_singular
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.scaled import ScaledFlow, ScaledHeadFlow
from sslmanifold.theory.moment_product import Moment

# Relative, of float64 norms: ties of float32 weights are split by their rounding, which is not worth resolving.
_TOLERANCE = 1e-6


def squared_spectral_norm(weight: Tensor) -> Tensor:
    """‖W‖₂² of each matrix (…, rows, cols) → (…,), differentiable.

    The top right singular vector v is held fixed in ‖W v‖²: by the envelope theorem that is the gradient,
    and at a tie of the top singular value it is one of the subgradients.
    """
    tolerance = _TOLERANCE if weight.dtype == torch.float64 else None
    _, vector = top_singular(weight.detach(), tolerance=tolerance)
    return (weight @ vector.unsqueeze(-1)).square().sum((-2, -1))  # (…, rows, cols) @ (…, cols, 1)


@dataclass(kw_only=True)
class Scaled(Constraint):
    """Free weights under a loss that no scale of theirs can change: L / Π ‖W_i‖₂².

    Top singular values tie, from a Haar start on and for good, and ‖W‖₂² has a kink there: a step along one of its
    subgradients lowers one of the tied values, and training wavers about the tie. So a step here is proximal: the
    gradient at fixed norms, then the top singular values lowered to the level that the norms' share of the step
    pays for, then ‖W_i‖_F set to what the flow makes of it (which conserves it where the loss is homogeneous).
    """

    name = "scaled"

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        """Free weights: nothing of this is a constraint on one of them."""
        return [geoopt.Euclidean(ndim=2) for _ in shape.matrices]

    def objective(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        for weight in weights:
            loss = loss / squared_spectral_norm(weight)
        return loss

    def smooth_part(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        for weight in weights:
            loss = loss / squared_spectral_norm(weight.detach())
        return loss

    def embedding_scale(self, weights: Sequence[Tensor]) -> Tensor:
        """Π ‖W_i‖₂, differentiable as :func:`squared_spectral_norm` is."""
        squared = [squared_spectral_norm(weight) for weight in weights]
        return torch.stack(squared).prod(0).sqrt()

    @torch.no_grad()
    def add_kinks(self, weights: Sequence[Tensor], objective: Tensor, lr: float) -> None:
        if lr <= 0:
            return
        for weight in weights:
            if weight.grad is None:
                continue
            value, _ = top_singular(weight)
            budget = -2 * lr * objective / value  # (S,)
            free = weight - lr * weight.grad
            if (budget < 0).any():
                # A positive loss falls by growing the largest singular value, smoothly: no proximal step there. Of
                # tied ones it grows the one that the gradient has just made the largest: at W itself each would do.
                _, vector = top_singular(free)
                top = free @ vector.unsqueeze(-1)  # (S, rows, 1)
                free = free - budget.clamp(max=0)[:, None, None] * top @ vector.unsqueeze(-2)
            moved = lower_to_level(free, budget.clamp_min(0))
            # d‖W‖²/dt = −2⟨W, ∇⟩ + 4 L/(‖W1‖² ‖W2‖²): zero where L is homogeneous of degree 2 in W
            squared = weight.square().sum((-2, -1))
            growth = 2 * lr * (2 * objective - (weight * weight.grad).sum((-2, -1))) / squared
            # 1 + y to first order, and positive for every y
            factor = torch.where(growth < 0, 1 / (1 - growth), 1 + growth)
            length = (squared * factor).sqrt()
            moved *= (length / moved.norm(dim=(-2, -1)))[:, None, None]
            weight.grad.copy_((weight - moved) / lr)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return ScaledHeadFlow(moment)
        return ScaledFlow(moment) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """Σ of the min(z, h) most negative eigenvalues (Proposition 3)."""
        return eigvals[..., : shape.rank].clamp(max=0).sum(-1)
