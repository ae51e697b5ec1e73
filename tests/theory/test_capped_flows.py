"""Operator-norm balls and the scaled loss: ties at a Haar start included."""

import itertools

import numpy as np
import pytest
import torch

from sslmanifold.theory import OperatorNormFlow, ScaledFlow
from sslmanifold.theory.flows.capped import Spiked
from sslmanifold.theory.flows.operator_norm import Fixed
from sslmanifold.theory.flows.scaled import Shrunk

SHAPES = [(12, 6, 2), (4, 6, 3), (6, 6, 3), (3, 5, 1)]


@pytest.mark.parametrize(("c1", "c2"), [(1.0, 1.0), (0.8, 1.3)])
@pytest.mark.parametrize(("h", "d", "z"), SHAPES)
def test_operator_norm_training_converges_at_first_order(draw, gaps, follow, h, d, z, c1, c2) -> None:
    w1, w2, c = draw(h, d, z, seed=h + d)
    w1, w2 = c1 * w1, c2 * w2
    m = follow(OperatorNormFlow(torch.from_numpy(c), c1, c2), w1, w2, 0.5, pieces=200)
    errors = gaps("operator_norm", w1, w2, c, m, 0.5, (50, 100, 200), c1=c1, c2=c2)
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_operator_norm_from_the_interior(draw, gaps, follow) -> None:
    w1, w2, c = draw(12, 6, 3, seed=5, gaussian=0.2)
    m = follow(OperatorNormFlow(torch.from_numpy(c)), w1, w2, 2.0, pieces=600)
    errors = gaps("operator_norm", w1, w2, c, m, 2.0, (100, 200, 400))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.8 < errors[1] / errors[2] < 2.2


@pytest.mark.parametrize(("h", "d", "z", "seed"), [(12, 6, 3, 1), (4, 6, 3, 2), (9, 5, 2, 3)])
def test_scaled_training_converges_at_first_order_without_ties(draw, gaps, follow, h, d, z, seed) -> None:
    w1, w2, c = draw(h, d, z, seed=seed, gaussian=0.5)
    m = follow(ScaledFlow(torch.from_numpy(c)), w1, w2, 0.5, pieces=400)
    errors = gaps("scaled", w1, w2, c, m, 0.5, (100, 200, 400))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_scaled_training_converges_at_first_order_with_ties(draw, gaps, follow) -> None:
    """At a Haar start all singular values tie and training chatters: the mean halving ratio is 2, single ones scatter.

    So the acceptance is on the geometric mean over five halvings of each run.
    """
    for h, d, z, seed in [(12, 6, 2, 1), (4, 6, 3, 1), (12, 5, 3, 2), (12, 6, 2, 3)]:
        w1, w2, c = draw(h, d, z, seed=seed)
        m = follow(ScaledFlow(torch.from_numpy(c)), w1, w2, 0.5, pieces=400)
        errors = gaps("scaled", w1, w2, c, m, 0.5, (50, 400, 1600))
        assert 1.6 < (errors[0] / errors[2]) ** (1 / 5) < 2.5


@pytest.mark.parametrize("flow_class", [OperatorNormFlow, ScaledFlow])
@pytest.mark.parametrize(("h", "d", "z"), [(12, 6, 2), (4, 6, 3)])
def test_the_integrator_is_second_order_through_ties(draw, follow, flow_class, h, d, z) -> None:
    """2·fine − coarse: halving the step quarters the error, at a Haar start where everything ties."""
    w1, w2, c = draw(h, d, z, seed=4)
    flow = flow_class(torch.from_numpy(c))
    flow.step_limit = float("inf")  # so that each advance is one step
    exact = follow(flow, w1, w2, 0.2, pieces=800)
    errors = [float((follow(flow, w1, w2, 0.2, pieces=n) - exact).norm()) for n in (25, 100)]
    assert errors[1] < errors[0] / 8
    assert errors[0] < 5e-3


@pytest.mark.parametrize("flow_class", [OperatorNormFlow, ScaledFlow])
def test_the_map_stays_put_at_the_optimum(draw, follow, flow_class) -> None:
    """Not even what the loss does not see drifts, the tied singular values against the rest: long after arrival the
    map is that of a short run with a tenth of the step."""
    c = torch.diag(torch.tensor([-2.0, -1.5, -0.4, 0.3, 0.5, 0.8], dtype=torch.float64))
    w1, w2, _ = draw(12, 6, 2, seed=4)
    flow = flow_class(c)
    flow.step_limit = float("inf")
    careful = follow(flow, w1, w2, 6.0, pieces=1200)
    assert float((follow(flow, w1, w2, 30.0, pieces=600) - careful).norm() / careful.norm()) < 5e-3


@pytest.mark.parametrize(("flow_class", "time"), [(OperatorNormFlow, 40.0), (ScaledFlow, 40.0)])
def test_the_limit_keeps_every_negative_direction(draw, flow_class, time) -> None:
    """Prop. 3: no collapse; the loss ends at Σ_{i ≤ min(z, m)} λ_i with min(z, m) singular values."""
    c = torch.diag(torch.tensor([-1.5, -1.0, -0.4, 0.3, 0.8], dtype=torch.float64))
    w1, w2, _ = draw(12, 5, 4, seed=3)
    flow = flow_class(c)
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for _ in range(100):
        state = flow.advance(state, time / 100)
    assert float(flow.loss(state)) == pytest.approx(-2.9, rel=2e-3)
    assert float(flow.optimum(4)) == pytest.approx(-2.9, abs=1e-12)
    sigma = torch.linalg.svdvals(state.m) / torch.linalg.matrix_norm(state.m, 2)
    assert float(sigma[2]) > 0.9
    assert float(sigma[3]) < 0.05


def test_operator_norm_tangent_cone_formula(draw) -> None:
    """ṁ at a Haar start against X11 = −Va [sym(Vaᵀ m X21 Va)]₊ Vaᵀ with Va = I, X22 = −[sym(mᵀX12)]₊."""
    w1, w2, c = draw(12, 6, 2, seed=11)
    m = w1.T @ w2

    def positive(x: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh((x + x.T) / 2)
        return (vectors * np.maximum(values, 0)) @ vectors.T

    x21, x12 = -2 * m.T @ c, -2 * c @ m
    expected = -positive(m @ x21) @ m + x21.T + x12 - m @ positive(m.T @ x12)
    flow = OperatorNormFlow(torch.from_numpy(c))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    dt = 1e-5
    velocity = (flow.advance(state, dt).m - state.m).numpy() / dt
    np.testing.assert_allclose(velocity, expected, atol=1e-3)


def test_scaled_conserves_the_frobenius_norms(draw) -> None:
    w1, w2, c = draw(12, 6, 2, seed=12)
    flow = ScaledFlow(torch.from_numpy(c))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for _ in range(50):
        state = flow.advance(state, 0.02)
    for solution in (state.coarse, state.fine):
        run = solution.runs[0]
        assert float(run.h1.trace()) == pytest.approx(6.0, abs=1e-10)
        assert float(run.h2.trace()) == pytest.approx(2.0, abs=1e-10)
        u = run.h1.u
        torch.testing.assert_close(u.T @ u, torch.eye(u.shape[1], dtype=u.dtype), rtol=0, atol=1e-11)


def test_scaled_with_a_positive_spectrum_goes_down(draw) -> None:
    """ℓ > 0 falls by growing the top singular value; the scaled loss still decreases monotonically to about 0."""
    w1, w2, c = draw(9, 5, 2, seed=13)
    flow = ScaledFlow(torch.from_numpy(c @ c + 0.1 * np.eye(5)))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    losses = []
    for _ in range(60):
        losses.append(float(flow.loss(state)))
        state = flow.advance(state, 0.05)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(losses))
    assert 0 <= losses[-1] < 0.2 * losses[0]
    assert float(flow.optimum(2)) == 0.0


def test_batches_are_independent_runs(draw) -> None:
    first, second = draw(9, 5, 2, seed=1), draw(9, 5, 2, seed=2)
    c = torch.from_numpy(first[2])
    w1 = torch.stack([torch.from_numpy(first[0]), torch.from_numpy(second[0])]).reshape(2, 1, 9, 5)
    w2 = torch.stack([torch.from_numpy(first[1]), torch.from_numpy(second[1])]).reshape(2, 1, 9, 2)
    for flow in (OperatorNormFlow(c), ScaledFlow(c)):
        both = flow.start(w1, w2)
        one = flow.start(w1[1, 0], w2[1, 0])
        flow.step_limit = 1e9
        for _ in range(10):
            both, one = flow.advance(both, 0.02), flow.advance(one, 0.02)
        assert both.m.shape == (2, 1, 5, 2)
        assert flow.loss(both).shape == (2, 1)
        torch.testing.assert_close(both.m[1, 0], one.m, rtol=0, atol=1e-12)


def test_levels_spend_the_budget_exactly() -> None:
    squared = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    base = torch.tensor(2.25, dtype=torch.float64)
    for budget in (0.05, 0.4, 1.0, 2.0, 50.0):
        level = float(
            Shrunk(torch.tensor(-budget, dtype=torch.float64), squared.sum()).level(squared, base, 3).sqrt()
        )
        roots = np.array([2.0, 1.0, 0.5, 1.5, 1.5, 1.5])
        assert np.maximum(0, roots / level - 1).sum() == pytest.approx(budget, abs=1e-12)
    capped, base_capped, factor, base_factor = Fixed(1.0)(squared, base, 3)
    assert capped.tolist() == [1.0, 1.0, 0.25]
    assert factor.tolist() == [0.5, 1.0, 1.0]
    assert float(base_capped) == 1.0
    assert float(base_factor) == pytest.approx(1 / 1.5)


def test_spiked_against_dense() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64, generator=generator))[0]
    h = Spiked(torch.tensor(1.5, dtype=torch.float64), u, torch.tensor([0.2, 3.0], dtype=torch.float64))
    dense = 1.5 * (torch.eye(7) - u @ u.T) + u @ torch.diag(h.sigma) @ u.T
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(h @ x, dense @ x)
    assert float(h.trace()) == pytest.approx(float(dense.trace()))
