"""From which weights each constraint is forecast: the same ones for all, or the nearest that the constraint allows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape, Unconstrained
from sslmanifold.errors import UserError
from sslmanifold.geometry import Stiefel, feasibility_tolerance, residual

# relative distance that is rounding
_SAME = 1e-6
# an orthonormal matrix nearest to one with a smaller σ_min/σ_max is decided by rounding of its last directions
_DETERMINED = 1e-5


class Start(NamedTuple):
    """Feasible weights of one constraint.

    Attributes:
        weights: (S, rows, columns) each, float64.
        distance: ‖W − W₀‖_F/‖W₀‖_F from the common weights W₀, the largest of all layers and replicas.
    """

    weights: list[Tensor]
    distance: float

    @property
    def same(self) -> bool:
        """Whether the common weights are feasible as they are."""
        return self.distance <= _SAME


def drawn_start(constraint: Constraint, shape: NetworkShape, generators: Sequence[torch.Generator]) -> Start:
    """What training under this constraint starts from: Haar weights of the generators, projected onto it.

    Raises:
        UserError: where no weights of this shape are feasible.
    """
    constraint.check(shape)
    states = [generator.get_state() for generator in generators]
    common = Unconstrained().initial(shape, generators)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)  # the same draw
    weights = constraint.initial(shape, generators)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    return Start(weights, _distance(weights, common))


@torch.no_grad()
def saved_start(constraint: Constraint, shape: NetworkShape, saved: Sequence[Tensor]) -> Start:
    """Saved weights (S, rows, columns) as they are where they are feasible, else the nearest ones that are.

    Raises:
        UserError: where none are feasible, or none is the nearest: orthonormal matrices near a collapsed one.
    """
    constraint.check(shape)
    manifolds = constraint.manifolds(shape)
    # plain tensors: a parameter brings the manifold of the constraint that it was trained under
    saved = [weight.detach().as_subclass(Tensor) for weight in saved]  # type: ignore[arg-type]
    worst = max(float(residual(w, m).amax()) for w, m in zip(saved, manifolds, strict=True))
    worst = max(worst, float(constraint.residual(saved).amax()))
    common = [weight.double().cpu() for weight in saved]
    if worst <= feasibility_tolerance(saved[0].dtype):
        return Start(common, 0.0)
    for index, (weight, manifold) in enumerate(zip(common, manifolds, strict=True)):
        if not isinstance(manifold, Stiefel):
            continue
        sigma = torch.linalg.svdvals(weight)  # (S, k)
        ratio = float((sigma[..., -1] / sigma[..., 0].clamp_min(1e-300)).min())
        if not ratio >= _DETERMINED:
            raise UserError(
                f"W{index + 1} has no nearest orthonormal matrix, its smallest singular value is {ratio:.1g} of its "
                "largest: start=initial forecasts from where the run began"
            )
    weights = [manifold.projx(weight.clone()) for weight, manifold in zip(common, manifolds, strict=True)]
    constraint.project_jointly(weights)
    return Start(weights, _distance(weights, common))


def _distance(weights: Sequence[Tensor], common: Sequence[Tensor]) -> float:
    relative = [
        torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(b).clamp_min(1e-300)
        for a, b in zip(weights, common, strict=True)
    ]
    return float(torch.stack(relative).max())
