"""How long a training has to be: as long as its exact flow needs from the very weights it starts from."""

import math

import torch
from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.reproduction.problem import Problem, streams

# time by which a flow must have arrived, in units of 1/(the slowest rate it could have near the optimum)
PATIENCE = 40.0
POINTS = 1201
# training lags or leads its flow by its step error, a few percent of the time
MARGIN = 1.1


def arrival_times(
    scene: Problem, constraint: Constraint, shape: NetworkShape, starts: int, seed: int, tolerance: float
) -> Tensor:
    """Time t = Σ lr at which (L − L*)/|L*| of the exact flow is within the tolerance for good, float64.

    Args:
        scene: data and C; the two lowest eigenvalues must differ.
        constraint: whose flow it is.
        shape: of the network; z = 1.
        starts: number of initialisations, those of a training run with as many replicas and this seed.

    Returns:
        (starts,); NaN where the flow has not arrived after a time of ``PATIENCE``/(2 (λ2 − λ1)).
    """
    weights = constraint.initial(shape, streams(seed, starts))
    end = PATIENCE / (2 * float(scene.eigvals[1] - scene.eigvals[0]))
    times = torch.linspace(0, end, POINTS, dtype=torch.float64)
    best = constraint.optimum(scene.eigvals, shape)
    assert best is not None
    gap = (constraint.solve(scene.moment, shape, weights, times).loss - best) / best.abs()  # (T, S)
    late = torch.where(gap > tolerance, times[:, None], 0.0).amax(0)  # the last time outside
    return torch.where(late < times[-1], late + times[1], torch.nan)


def steps_to_arrive(
    scene: Problem,
    constraint: Constraint,
    shape: NetworkShape,
    starts: int,
    seed: int,
    *,
    lr: float,
    tolerance: float,
) -> int:
    """Steps of this learning rate after which every start has arrived, a margin for their step error included.

    Args:
        scene, constraint, shape, starts, seed, tolerance: see :func:`arrival_times`.
        lr: of the training, constant.

    Raises:
        UserError: where a start has not arrived after the longest time looked at.
    """
    slowest = arrival_times(scene, constraint, shape, starts, seed, tolerance).max()
    if not math.isfinite(slowest):
        raise UserError(
            f"seed={seed}: from one of its starts the flow of {constraint.name} is still more than {tolerance:g} "
            f"from its optimum after {PATIENCE:g} times 1/(2 (λ2 − λ1)): set another seed"
        )
    return math.ceil(MARGIN * float(slowest) / lr)
