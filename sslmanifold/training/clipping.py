"""Gradient clipping on manifolds: one factor on the whole Riemannian gradient, so that it stays tangent."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslmanifold.constraints import Constraint
from sslmanifold.constraints.step import before_step
from sslmanifold.errors import UserError
from sslmanifold.geometry import Stiefel


@torch.no_grad()
def norm_factor(weights: Sequence[Tensor], bound: float) -> Tensor:
    """min(1, bound/‖g‖) of each replica, (S,), with ‖g‖² = Σ over layers of ⟨g_i, g_i⟩, g_i the Riemannian gradient.

    The rule of ``torch.nn.utils.clip_grad_norm_``, each replica by itself and every layer measured by its manifold.

    Args:
        weights: (S, ·, ·) each, on manifolds, with Euclidean gradients in ``.grad``.
        bound: the largest norm, > 0.
    """
    squared = torch.zeros(weights[0].shape[0], dtype=torch.float64, device=weights[0].device)
    for weight in weights:
        manifold = weight.manifold  # type: ignore[attr-defined]
        gradient = manifold.egrad2rgrad(weight, weight.grad)
        squared += manifold.norm(weight, gradient).double().square()
    return (bound / squared.sqrt()).clamp(max=1.0)


@torch.no_grad()
def before_clipped_step(
    constraint: Constraint, weights: Sequence[Tensor], objective: Tensor, optimizer: Optimizer, bound: float
) -> Tensor:
    """:func:`~sslmanifold.constraints.step.before_step` with the gradient, kinks and all, no longer than ``bound``.

    The clipped step is the step of size f · lr, also where it is proximal: gradients and objective times f.

    Returns:
        f, (S,).
    """
    smooth = [weight.grad.clone() for weight in weights]  # type: ignore[union-attr]
    before_step(constraint, weights, objective, optimizer)
    factor = norm_factor(weights, bound)
    if bool((factor < 1).any()):
        for weight, gradient in zip(weights, smooth, strict=True):
            weight.grad.copy_(gradient * factor[:, None, None].to(gradient.dtype))  # type: ignore[union-attr]
        before_step(constraint, weights, objective * factor, optimizer)
    return factor


def require_flat(weights: Sequence[Tensor], bound: float) -> None:
    """Raise where entries of a gradient cannot be clipped one by one.

    Raises:
        UserError: for a weight on a curved manifold: clipped entries leave its tangent space.
    """
    for weight in weights:
        if isinstance(weight.manifold, Stiefel):  # type: ignore[attr-defined]
            raise UserError(
                "trainer.gradient_clip_algorithm=value clips entries, and a tangent vector of the orthonormal matrices "
                f"with clipped entries is tangent no longer: set trainer.gradient_clip_algorithm=norm with "
                f"trainer.gradient_clip_val={bound:g}, which scales all of it"
            )
