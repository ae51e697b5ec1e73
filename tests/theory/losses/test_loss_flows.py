"""Every constraint's flow for any loss: the package's own training steps follow it, at first order in the step."""

import itertools
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
from sslmanifold.errors import UserError
from sslmanifold.geometry import ManifoldParameter, RiemannianSGD
from sslmanifold.theory import LossGradient, SampleLoss, solve_loss
from sslmanifold.theory.flows.head import FreeHeadFlow, OrthogonalHeadFlow

LOSSES = ("NT-Xent", "spectral", "Barlow", "SIGReg", "squared", "quadratic")
TIME = 0.08
HEAD = NetworkShape(4, None, 2, layers=1)
# constraint, shape: two layers of h = 7, 4 layers, rows, one layer
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
    "head none": (Unconstrained(), HEAD),
    "head frobenius": (Frobenius(c1=1.2), HEAD),
    "head operator_norm": (OperatorNorm(c1=0.8), HEAD),
    "head scaled": (Scaled(), HEAD),
    "head product": (Product(c=0.9), HEAD),
    "head 0": (Orthogonal(metric="grassmann"), HEAD),
    "head 1": (Orthogonal(metric="euclidean"), HEAD),
    "head 2": (Orthogonal(metric="canonical"), HEAD),
}
# under the scaled NT-Xent 1/s² makes .01 too long a step for its order to show: 2.18, 2.08, 2.04 from there on, of one
# layer from .02 on
SHORTER = dict.fromkeys(("scaled", "head scaled"), (0.005, 0.0025, 0.00125))


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
    steps = SHORTER.get(name, (0.01, 0.005, 0.0025)) if loss == "NT-Xent" else (0.01, 0.005, 0.0025)
    coarse, middle, fine = (gap(constraint, shape, of_map, lr) for lr in steps)
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1


@pytest.mark.parametrize("name", ["none", "frobenius", "orthogonal 1", "operator_norm"])
def test_two_evaluations_a_step_are_enough(written, name) -> None:
    """What the midpoint rule adds is far below what a training step of the same length does."""
    of_map = written.of_map("NT-Xent", *written.data)
    coarse, middle, fine = (gap(*CONSTRAINTS[name], of_map, lr, order=2) for lr in (0.01, 0.005, 0.0025))
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_a_head_is_its_solution(written, loss, kappa) -> None:
    """W ∈ St(d, z) by its flow, stepped, against `solve_loss`; with a weight κ where the loss sees rotations."""
    of_map = written.of_map(loss, *written.data)
    w = torch.from_numpy(written.weights[2])
    flow = OrthogonalHeadFlow(LossGradient(of_map, 4), kappa)
    state = flow.start(w)
    for _ in range(40):
        state = flow.advance(state, 0.0025)
    exact = solve_loss(of_map, w, [0.1], kappa=kappa, layers=1).m[0]
    torch.testing.assert_close(state.m, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_free_head_descends_as_its_gradient(written, loss) -> None:
    of_map = written.of_map(loss, *written.data)
    gradient = LossGradient(of_map, 4)
    start = torch.from_numpy(written.weights[2])
    flow = FreeHeadFlow(gradient)
    ends = []
    for steps in (40, 80, 160, 320):
        m = start
        for _ in range(steps):
            m = m - 0.1 / steps * gradient.gradient(m)
        ends.append(m)
    for order in range(1, len(ends)):  # Romberg's columns: each takes one more order of the step out
        ends = [fine + (fine - coarse) / (2**order - 1) for coarse, fine in itertools.pairwise(ends)]
    state = flow.start(start)
    for _ in range(40):
        state = flow.advance(state, 0.0025)
    torch.testing.assert_close(state.m, ends[0], rtol=0, atol=1e-7)


def test_a_gradient_of_half_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"dtype=bfloat16.*set dtype=torch.float32"):
        LossGradient(lambda m: m.sum((-2, -1)), 4, dtype=torch.bfloat16)


def test_the_data_enter_by_the_gradient_alone(written) -> None:
    """C as a loss is C as a matrix, under every constraint."""
    a, b = written.data
    c = (a.T @ (a - 2 * b) + (a - 2 * b).T @ a) / 2

    def of_map(m: Tensor) -> Tensor:
        return (m * (c @ m)).sum((-2, -1))

    for name, (constraint, shape) in CONSTRAINTS.items():
        weights = [w[0] for w in constraint.initial(shape, [torch.Generator().manual_seed(1)])]
        by_c, by_loss = (constraint.flow(driving, shape) for driving in (c, LossGradient(of_map, 4)))
        one, other = by_c.start(*weights), by_loss.start(*weights)
        for _ in range(20):
            one, other = by_c.advance(one, 5e-4), by_loss.advance(other, 5e-4)
        torch.testing.assert_close(one.m, other.m, rtol=0, atol=1e-6, msg=name)
        torch.testing.assert_close(by_c.loss(one), by_loss.loss(other), rtol=1e-5, atol=0, msg=name)


def test_samples_of_every_shape(written) -> None:
    """X m, X⁺ m and X⁻ m reach the loss in the shapes of the triplets."""
    a, b = written.data
    seen = []

    def loss(u: Tensor, u_pos: Tensor, u_neg: Tensor | None) -> Tensor:
        seen.append((u.shape, u_pos.shape, None if u_neg is None else u_neg.shape))
        push = 0 if u_neg is None else u_neg.square().sum((-3, -2, -1))
        return u.square().sum((-2, -1)) + push

    m = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    many = torch.stack([a, b, b], 1)  # (n, 3, d)
    SampleLoss(loss, a, b)(m)
    value = SampleLoss(loss, a, many, many)(m)
    assert seen == [
        ((3, 12, 2), (3, 12, 2), None),
        ((3, 12, 2), (3, 12, 3, 2), (3, 12, 3, 2)),
    ]
    torch.testing.assert_close(
        value, (a @ m).square().sum((-2, -1)) + (many @ m[:, None]).square().sum((-3, -2, -1))
    )
    other = SampleLoss(loss, a, b).of(lambda u, u_pos, u_neg: u.sum((-2, -1)))
    torch.testing.assert_close(other(m), (a @ m).sum((-2, -1)))


def test_what_a_flow_of_a_loss_has_not(written) -> None:
    flow = Orthogonal().flow(
        LossGradient(written.of_map("spectral", *written.data), 4), NetworkShape(4, 7, 2)
    )
    with pytest.raises(UserError, match=r"known for Tr\(mᵀCm\) alone"):
        flow.optimum(2)
    with pytest.raises(UserError, match="order=3"):
        LossGradient(lambda m: m.sum((-2, -1)), 4, order=3)
