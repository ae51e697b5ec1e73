"""The order of a training step under a constraint, written once: smooth part, kinks, step, joint projection."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslmanifold.constraints.base import Constraint
from sslmanifold.errors import UserError


def take_step(
    constraint: Constraint,
    weights: Sequence[Tensor],
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
) -> Tensor:
    """One step of training under a constraint, gradients cleared first::

        ∇ smooth_part(L, W) → add_kinks → optimizer.step() → project_jointly

    A loop that belongs to somebody else (Lightning's) calls the same parts from its hooks: it differentiates
    ``constraint.smooth_part``, and calls :func:`before_step` and :func:`after_step` around the optimizer's step.

    Args:
        weights: what the constraint binds, (S, ·, ·) each, first layer first.
        optimizer: Riemannian where a weight has a manifold.
        loss: gives L, (S,).

    Returns:
        The objective before the step, (S,), without a graph.
    """
    optimizer.zero_grad(set_to_none=True)
    objective = constraint.smooth_part(loss(), weights)
    objective.sum().backward()  # the gradient of a sum keeps replicas independent
    before_step(constraint, weights, objective.detach(), optimizer)
    optimizer.step()
    after_step(constraint, weights)
    return objective.detach()


def before_step(
    constraint: Constraint,
    weights: Sequence[Tensor],
    objective: Tensor,
    optimizer: Optimizer,
    *,
    held: Sequence[Tensor] | None = None,
) -> None:
    """Between backward and the optimizer's step: the kinks' share goes into the gradients.

    Args:
        objective: the objective at these weights, (S,).
        held: what the optimizer holds, where ``weights`` are views of it.

    Raises:
        UserError: where the weights have different learning rates and the constraint has kinks.
    """
    if has_kinks(constraint):
        constraint.add_kinks(weights, objective, step_size(constraint, optimizer, held or weights))


@torch.no_grad()
def after_step(constraint: Constraint, weights: Sequence[Tensor]) -> None:
    """After the optimizer's step: weights that a constraint binds together go back onto it.

    Where no weight learns, none is touched.
    """
    if any(weight.requires_grad for weight in weights):
        constraint.project_jointly(weights)


def has_kinks(constraint: Constraint) -> bool:
    """Whether the constraint's objective has kinks, which a step along a gradient alone would waver about."""
    return type(constraint).add_kinks is not Constraint.add_kinks


def step_size(constraint: Constraint, optimizer: Optimizer, weights: Iterable[Tensor]) -> float:
    """The learning rate of these weights; 0 where the optimizer holds none of them."""
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    found = {rates[id(weight)] for weight in weights if id(weight) in rates}
    if len(found) > 1:
        raise UserError(
            f"constraint={constraint.name} takes one proximal step in all its weights, but their learning rates "
            f"are {', '.join(f'{rate:g}' for rate in sorted(found))}: put them into one group of the optimizer"
        )
    return found.pop() if found else 0.0
