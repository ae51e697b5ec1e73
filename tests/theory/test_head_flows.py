"""One linear layer: its flows against closed forms, its optima against what random weights reach."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.optimize import brentq

from sslmanifold.constraints import (
    Constraint,
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
from sslmanifold.theory import largest_stable_head_step
from sslmanifold.theory.flows.frobenius import FrobeniusHeadFlow
from sslmanifold.theory.flows.head import FreeHeadFlow
from sslmanifold.theory.flows.operator_norm import OperatorNormHeadFlow
from sslmanifold.theory.flows.scaled import ScaledHeadFlow

D, Z = 5, 2
SHAPE = NetworkShape(D, None, Z, layers=1)
SPECTRUM = np.array([-1.3, -0.7, -0.2, 0.4, 0.9])


def moment(seed: int = 0, spectrum: np.ndarray = SPECTRUM) -> np.ndarray:
    v = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]
    return (v * spectrum) @ v.T


def map_of(size: float, seed: int = 1, z: int = Z) -> np.ndarray:
    m = np.random.default_rng(seed).normal(size=(D, z))
    return size * m / np.linalg.norm(m)


def followed(flow, m: np.ndarray, time: float, pieces: int = 400) -> np.ndarray:
    state = flow.start(torch.from_numpy(m))
    for _ in range(pieces):
        state = flow.advance(state, time / pieces)
    assert state.time == pytest.approx(time)
    return state.m.numpy()


def free(c: np.ndarray, m: np.ndarray, time: float) -> np.ndarray:
    return expm(-2 * time * c) @ m


def test_a_free_head_is_its_exponential() -> None:
    c, m = moment(), map_of(1.0)
    np.testing.assert_allclose(
        followed(FreeHeadFlow(torch.from_numpy(c)), m, 2.0), free(c, m, 2.0), rtol=1e-8
    )


@pytest.mark.parametrize("metric", ["grassmann", "canonical"])
def test_an_orthogonal_head_spans_its_exponential(metric: str) -> None:
    """span W(t) = span e^{−2Ct} W(0), whatever κ: by the closed form, and stepped."""
    c, m = moment(), np.linalg.qr(map_of(1.0))[0]
    constraint, dense = Orthogonal(metric=metric), torch.from_numpy(c)  # type: ignore[arg-type]
    solved = constraint.solve(
        dense, SHAPE, [torch.from_numpy(m)], torch.tensor([0.3, 1.7], dtype=torch.float64)
    )
    assert solved.method == "closed_form"
    stepped = followed(constraint.flow(dense, SHAPE), m, 1.7)
    basis = np.linalg.qr(free(c, m, 1.7))[0]
    for found, atol in ((solved.m[-1].numpy(), 1e-12), (stepped, 1e-9)):
        np.testing.assert_allclose(found @ found.T, basis @ basis.T, rtol=0, atol=atol)
    np.testing.assert_allclose(stepped, solved.m[-1].numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("c1", [0.5, 1.0])
def test_a_head_in_a_frobenius_ball_is_the_exponential_held_at_the_radius(c1: float) -> None:
    """m(t) = e^{−2Ct} m(0) until ‖m‖_F = c, from then on its multiple of that norm: the field less its radial part."""
    c = moment()
    m = np.linalg.qr(map_of(1.0, seed=4))[0] * 0.6 / math.sqrt(2) if c1 == 1.0 else map_of(2.0, seed=4)
    inside = np.linalg.norm(m) < c1
    start = m if inside else m * c1 / np.linalg.norm(m)
    pull = np.trace(start.T @ c @ start)
    assert pull < 0  # outward
    if inside:
        reached = brentq(lambda t: np.linalg.norm(free(c, m, t)) - c1, 0, 5)
        assert 0 < reached < 1.5
    for time in (0.1, 1.5):
        expected = free(c, start, time)
        expected *= min(1.0, c1 / np.linalg.norm(expected))
        found = followed(FrobeniusHeadFlow(torch.from_numpy(c), c1), m, time)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if inside else 1e-10)


def test_a_head_leaves_the_frobenius_boundary_where_its_loss_pulls_inward() -> None:
    c, m = moment(spectrum=np.abs(SPECTRUM)), map_of(3.0)
    found = followed(FrobeniusHeadFlow(torch.from_numpy(c), 1.0), m, 0.8)
    np.testing.assert_allclose(found, free(c, m / 3.0, 0.8), rtol=0, atol=1e-10)


@pytest.mark.parametrize("time", [0.2, 0.9, 3.0])
def test_aligned_singular_values_grow_apart_up_to_the_cap(time: float) -> None:
    """m = V diag(s) Rᵀ: σ_i(t) = min(c, s_i e^{−2λ_i t}) in an operator-norm ball, λ_i > 0 shrinking."""
    c = moment(spectrum=np.array([-1.3, -0.7, 0.4, 0.9, 1.1]))
    v = np.linalg.eigh(c)[1][:, :3]
    r = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    s, cap = np.array([0.3, 0.5, 0.8]), 0.9
    found = followed(OperatorNormHeadFlow(torch.from_numpy(c), cap), (v * s) @ r.T, time, pieces=800)
    sigma = np.minimum(cap, s * np.exp(-2 * np.array([-1.3, -0.7, 0.4]) * time))
    np.testing.assert_allclose(found, (v * sigma) @ r.T, rtol=0, atol=1e-5)


def test_one_column_under_a_cap_is_one_in_a_ball() -> None:
    c, m = moment(), map_of(2.0, seed=6, z=1)
    expected = followed(FrobeniusHeadFlow(torch.from_numpy(c), 1.1), m, 1.0)
    found = followed(OperatorNormHeadFlow(torch.from_numpy(c), 1.1), m, 1.0, pieces=2000)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


def test_one_column_of_the_scaled_loss_turns_at_its_length() -> None:
    """Tr(mᵀCm)/‖m‖²: ‖m‖ stays, and the direction is that of e^{−2Ct/‖m‖²} m(0)."""
    c, m = moment(), map_of(1.4, seed=7, z=1)
    expected = free(c, m, 0.9 / 1.4**2)
    found = followed(ScaledHeadFlow(torch.from_numpy(c)), m, 0.9, pieces=800)
    np.testing.assert_allclose(found, 1.4 * expected / np.linalg.norm(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("flow_class", [OperatorNormHeadFlow, ScaledHeadFlow])
@pytest.mark.parametrize("z", [2, 3])
def test_the_integrator_is_second_order_through_ties(flow_class, z: int) -> None:
    c, m = torch.from_numpy(moment()), np.linalg.qr(map_of(1.0, z=z))[0]  # all singular values are at the cap
    ends = []
    for pieces in (50, 100, 200, 800):
        flow = flow_class(c)
        flow.step_limit = math.inf
        ends.append(followed(flow, m, 0.8, pieces))
    errors = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert 3.3 < errors[0] / errors[1] < 5.5
    assert 3.3 < errors[1] / errors[2] < 5.5


CONSTRAINTS: dict[str, Constraint] = {
    "orthogonal": Orthogonal(),
    "frobenius": Frobenius(c1=1.4),
    "operator_norm": OperatorNorm(c1=0.7),
    "product": Product(c=1.3),
    "scaled": Scaled(),
}


@pytest.mark.parametrize("negative", [0, 1, 3])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_optimum_is_where_the_flow_ends_and_below_every_weight(name: str, negative: int) -> None:
    constraint, generator = CONSTRAINTS[name], torch.Generator().manual_seed(0)
    spectrum = np.array([0.3, 0.5, 0.8, 1.0, 1.3]) * np.where(np.arange(D) < negative, -1, 1)
    c = torch.from_numpy(moment(spectrum=spectrum))
    best = float(constraint.optimum(torch.linalg.eigvalsh(c), SHAPE))  # type: ignore[arg-type]
    flow = constraint.flow(c, SHAPE)
    assert flow is not None
    assert float(flow.optimum(Z)) == pytest.approx(best, abs=1e-12)  # type: ignore[arg-type]
    drawn = constraint.initial(SHAPE, [generator] * 200)[0]
    values = constraint.objective((drawn * (c @ drawn)).sum((-2, -1)), [drawn])
    assert float(values.min()) > best - 1e-9
    if name == "scaled" and negative == 0:
        return  # a positive loss falls for ever, by growing one singular value
    # steps of a size that the flow would not take: they end where it does
    weight = ManifoldParameter(drawn[:1].clone(), manifold=constraint.manifolds(SHAPE)[0], batch=True)
    optimizer = RiemannianSGD([weight], lr=0.2 if name != "scaled" else 0.1)
    for _ in range(600):
        take_step(constraint, [weight], optimizer, lambda: (weight * (c @ weight)).sum((-2, -1)))
    m = weight.detach()
    ended = constraint.objective((m * (c @ m)).sum((-2, -1)), [m])
    assert float(ended) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("constraint", [Scaled(), OperatorNorm()], ids=["scaled", "operator_norm"])
def test_the_map_stays_put_at_the_optimum(constraint: Constraint) -> None:
    c = torch.from_numpy(moment())
    v = torch.linalg.eigh(c).eigenvectors[:, :Z]
    flow = constraint.flow(c, SHAPE)
    assert flow is not None
    state = flow.start(v)
    for _ in range(200):
        state = flow.advance(state, 0.05)
    torch.testing.assert_close(state.m, v, rtol=0, atol=1e-12)


def test_above_the_largest_stable_step_training_leaves_the_optimum() -> None:
    c, constraint = torch.from_numpy(moment()), Orthogonal()
    largest = largest_stable_head_step(torch.linalg.eigvalsh(c))
    assert constraint.predictions(c, SHAPE) == {
        "predicted/limit_rank": Z,
        "predicted/largest_stable_step": largest,
    }
    v = torch.linalg.eigh(c).eigenvectors[:, :Z]
    start = torch.linalg.qr(v + 1e-6 * torch.from_numpy(map_of(1.0)))[0][None]
    away = []
    for factor in (0.97, 1.03):
        weight = ManifoldParameter(start.clone(), manifold=constraint.manifolds(SHAPE)[0], batch=True)
        optimizer = RiemannianSGD([weight], lr=factor * largest)
        for _ in range(120):
            take_step(constraint, [weight], optimizer, lambda: (weight * (c @ weight)).sum((-2, -1)))  # noqa: B023
        span = weight.detach()[0]
        away.append(float(torch.linalg.matrix_norm(span - v @ (v.T @ span))))
    assert away[0] < 1e-6 < 1e-5 < away[1]


def test_runs_side_by_side_are_runs_alone() -> None:
    """Leading dimensions are independent, also where one run meets its boundary and another does not."""
    c = torch.from_numpy(moment())
    maps = torch.stack([torch.from_numpy(map_of(size, seed=9)) for size in (0.2, 0.9, 1.5)])
    for constraint in (Frobenius(), OperatorNorm(), Scaled(), Product(), Unconstrained()):
        flow = constraint.flow(c, SHAPE)
        assert flow is not None
        flow.step_limit = math.inf  # else the shortest decides how many sub-steps the others take
        state, alone = flow.start(maps), [flow.start(m) for m in maps]
        for _ in range(60):
            state, alone = flow.advance(state, 0.01), [flow.advance(each, 0.01) for each in alone]
        expected = torch.stack([each.m for each in alone])
        torch.testing.assert_close(state.m, expected, rtol=0, atol=1e-8, msg=constraint.name)


@pytest.mark.parametrize("constraint", [Unconstrained(), Frobenius(), OperatorNorm(), Scaled(), Orthogonal()])
def test_a_flow_stays_at_its_start_when_the_weight_moves_on(constraint: Constraint) -> None:
    """Trainers step weights in place: in float64 too, the state is no view of them."""
    weight = constraint.initial(SHAPE, [torch.Generator().manual_seed(0)])[0]
    flow = constraint.flow(torch.from_numpy(moment()), SHAPE)
    assert flow is not None
    state, before = flow.start(weight), weight.clone()
    weight.zero_()
    torch.testing.assert_close(state.m, before, rtol=0, atol=1 if constraint.name == "frobenius" else 1e-12)
    assert float(state.m.norm()) > 0.9


def test_a_head_has_one_weight_and_no_width() -> None:
    weights = [torch.zeros(4, 3), torch.zeros(3, 2)]
    for flow in (FreeHeadFlow(torch.eye(4)), OperatorNormHeadFlow(torch.eye(4))):
        with pytest.raises(UserError, match=r"a head has one weight .* got 2: give m alone"):
            flow.start(*weights)
    with pytest.raises(UserError, match=r"write NetworkShape\(4, None, 2, layers=1\)"):
        NetworkShape(4, 9, 2, layers=1)
    with pytest.raises(UserError, match="one layer has no hidden width"):
        NetworkShape(4, None, 2)
