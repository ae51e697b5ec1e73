"""Every constraint's flow for any loss: the package's own training steps follow it, at first order in the step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sslmanifold.constraints import (
    Frobenius,
    NetworkShape,
    OperatorNorm,
    Orthogonal,
    Product,
    Scaled,
    Unconstrained,
)
from sslmanifold.constraints.step import take_step
from sslmanifold.geometry import ManifoldParameter, RiemannianSGD
from sslmanifold.theory import LossGradient

LOSSES = ("NT-Xent", "spectral", "Barlow", "SIGReg", "squared")
TIME = 0.08
# constraint, shape: two layers of h = 7, 4 layers, rows
CONSTRAINTS = {
    "none": (Unconstrained(), NetworkShape(4, 7, 2)),
    "frobenius": (Frobenius(c1=1.5, c2=1.2), NetworkShape(4, 7, 2)),
    "operator_norm": (OperatorNorm(), NetworkShape(4, 7, 2)),
    "scaled": (Scaled(), NetworkShape(4, 7, 2)),
    "product": (Product(), NetworkShape(4, 7, 2)),
    "orthogonal 0": (Orthogonal(metric="grassmann"), NetworkShape(4, 7, 2)),
    "orthogonal 1": (Orthogonal(metric="euclidean"), NetworkShape(4, 5, 2)),
    "orthogonal 2": (Orthogonal(metric="canonical"), NetworkShape(4, 4, 2)),
    "rows": (Orthogonal(w1="rows"), NetworkShape(4, 3, 2)),
    "deep 0": (Orthogonal(metric="grassmann"), NetworkShape(4, 6, 2, layers=3)),
    "deep 2": (Orthogonal(metric="canonical"), NetworkShape(4, 6, 2, layers=4)),
}


def chain(weights: list[Tensor]) -> Tensor:
    m = weights[-1]
    for weight in reversed(weights[:-1]):
        m = weight.mT @ m
    return m


def gap(
    constraint, shape: NetworkShape, of_map: Callable[[Tensor], Tensor], lr: float, order: int = 4
) -> float:
    """Largest ‖m − m_flow‖/‖m_flow‖ over every step to TIME, of two replicas."""
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    initial = constraint.initial(shape, generators)
    weights = [
        ManifoldParameter(w, manifold=manifold, batch=True)
        for w, manifold in zip(initial, constraint.manifolds(shape), strict=True)
    ]
    optimizer = RiemannianSGD(weights, lr=lr)
    flow = constraint.flow(LossGradient(of_map, shape.dim, order=order), shape)
    state, largest = flow.start(*(w.detach() for w in weights)), 0.0
    for _ in range(round(TIME / lr)):
        take_step(constraint, weights, optimizer, lambda: of_map(chain(weights)))
        state = flow.advance(state, lr)
        away = torch.linalg.matrix_norm(chain([w.detach() for w in weights]) - state.m)
        largest = max(largest, float((away / torch.linalg.matrix_norm(state.m)).max()))
    return largest


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_deviation_halves_with_the_step(written, name, loss) -> None:
    constraint, shape = CONSTRAINTS[name]
    of_map = written.of_map(loss, *written.data)
    coarse, middle, fine = (gap(constraint, shape, of_map, lr) for lr in (0.01, 0.005, 0.0025))
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1
