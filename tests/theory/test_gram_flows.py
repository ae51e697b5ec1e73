"""Free and Frobenius flows: first order in training's step, blow-up, conserved quantities, limits."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sslmanifold.errors import UserError
from sslmanifold.theory import (
    FlowBlowUp,
    FreeFlow,
    FrobeniusFlow,
    FrobeniusScaledFlow,
    blow_up_time,
    gram_state,
)
from sslmanifold.theory.flows.gram import LowRankUpdated, gram_norm

SHAPES = [(12, 6, 2), (4, 6, 3), (2, 5, 1), (6, 6, 4)]


@pytest.mark.parametrize(("h", "d", "z"), SHAPES)
def test_free_training_converges_at_first_order(draw, gaps, follow, h, d, z) -> None:
    w1, w2, c = draw(h, d, z, seed=h, gaussian=0.3)
    m = follow(FreeFlow(torch.from_numpy(c)), w1, w2, 0.1, pieces=20)
    errors = gaps("none", w1, w2, c, m, 0.1, (100, 200, 400))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize(("c1", "c2"), [(1.0, 1.0), (0.7, 1.6)])
@pytest.mark.parametrize(("h", "d", "z"), SHAPES)
def test_frobenius_training_converges_at_first_order(draw, gaps, follow, h, d, z, c1, c2) -> None:
    w1, w2, c = draw(h, d, z, seed=h + 1)
    w1, w2 = c1 * w1 / np.linalg.norm(w1), c2 * w2 / np.linalg.norm(w2)
    flow = FrobeniusFlow(torch.from_numpy(c), c1, c2)
    m = follow(flow, w1, w2, 1.0, pieces=50)
    errors = gaps("frobenius", w1, w2, c, m, 1.0, (200, 400, 800), c1=c1, c2=c2)
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_frobenius_from_the_interior_meets_the_boundary(draw, gaps, follow) -> None:
    w1, w2, c = draw(9, 5, 2, seed=3)
    w1, w2 = 0.8 * w1 / np.linalg.norm(w1), 0.5 * w2 / np.linalg.norm(w2)
    flow = FrobeniusFlow(torch.from_numpy(c))
    m = follow(flow, w1, w2, 4.0, pieces=500)
    errors = gaps("frobenius", w1, w2, c, m, 4.0, (200, 400, 800))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.8 < errors[1] / errors[2] < 2.2
    coarse = follow(flow, w1, w2, 4.0)
    assert float((coarse - m).norm()) < errors[2]


@pytest.mark.parametrize(("h", "d", "z"), SHAPES)
def test_frobenius_scaled_training_converges_at_first_order(draw, gaps, follow, h, d, z) -> None:
    w1, w2, c = draw(h, d, z, seed=h + 2, gaussian=0.4)
    m = follow(FrobeniusScaledFlow(torch.from_numpy(c)), w1, w2, 1.0, pieces=20)
    errors = gaps("frobenius_scaled", w1, w2, c, m, 1.0, (100, 200, 400))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_frobenius_and_its_scaled_loss_are_one_flow_on_the_boundary(draw) -> None:
    """On ‖W_i‖_F = c_i the scaled loss runs the same path, with time divided by c1²c2²."""
    w1, w2, c = draw(9, 5, 2, seed=5)
    c1, c2 = 1.3, 0.8
    b1, b2 = (torch.from_numpy(r * w / np.linalg.norm(w)) for r, w in ((c1, w1), (c2, w2)))
    c = torch.from_numpy(c) - torch.eye(5)  # negative definite: always outward
    ball, scaled = FrobeniusFlow(c, c1, c2), FrobeniusScaledFlow(c)
    a, b = ball.start(b1, b2), scaled.start(b1, b2)
    for _ in range(200):
        a, b = ball.advance(a, 0.005), scaled.advance(b, 0.005 * (c1 * c2) ** 2)
    torch.testing.assert_close(a.m, b.m, rtol=0, atol=1e-8)
    torch.testing.assert_close(scaled.loss(b) * (c1 * c2) ** 2, ball.loss(a), rtol=1e-8, atol=0)


@pytest.mark.parametrize("flow_class", [FrobeniusFlow, FrobeniusScaledFlow])
def test_frobenius_collapses_to_rank_one_at_its_optimum(draw, flow_class) -> None:
    """Prop. 2: global minimum λ1 (c = 1) at rank 1."""
    w1, w2, c = draw(9, 5, 3, seed=6)
    flow = flow_class(torch.from_numpy(c))
    state = flow.start(torch.from_numpy(w1 / np.linalg.norm(w1)), torch.from_numpy(w2 / np.linalg.norm(w2)))
    state = flow.advance(state, 25.0)
    assert float(flow.loss(state)) == pytest.approx(float(flow.optimum(3)), rel=1e-5)
    sigma = torch.linalg.svdvals(state.m)
    assert float(sigma[1] / sigma[0]) < 1e-2
    assert float(state.h1.trace()) == pytest.approx(1.0, abs=1e-6)


def test_free_flow_against_scipy(draw) -> None:
    """An independent right-hand side, on the weights instead of the Gram matrices."""
    w1, w2, c = draw(7, 4, 2, seed=8, gaussian=0.3)

    def velocity(_, flat):
        a, b = flat[:28].reshape(7, 4), flat[28:].reshape(7, 2)
        m = a.T @ b
        return -np.concatenate([(2 * b @ m.T @ c).ravel(), (2 * a @ c @ m).ravel()])

    end = solve_ivp(
        velocity, (0, 0.1), np.concatenate([w1.ravel(), w2.ravel()]), "DOP853", rtol=1e-12, atol=1e-13
    )
    a, b = end.y[:28, -1].reshape(7, 4), end.y[28:, -1].reshape(7, 2)
    flow = FreeFlow(torch.from_numpy(c))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for _ in range(100):
        state = flow.advance(state, 0.001)
    np.testing.assert_allclose(state.m.numpy(), a.T @ b, atol=1e-10)
    np.testing.assert_allclose(state.h1.numpy(), a.T @ a, atol=1e-10)
    np.testing.assert_allclose(state.h2.numpy(), b.T @ b, atol=1e-10)


@pytest.mark.parametrize("lowest", [-2.0, -0.5])
def test_blow_up_of_a_balanced_start_is_known_exactly(lowest) -> None:
    """W1 = a e vᵀ, W2 = a e: σ̇ = 4|λ1|σ², so T = 1/(4|λ1|a²)."""
    c = torch.diag(torch.tensor([lowest, 1.0, 3.0], dtype=torch.float64))
    w1, w2 = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)
    w1[0, 0] = w2[0, 0] = 0.5
    expected = 1 / (4 * abs(lowest) * 0.25)
    assert blow_up_time(c, w1, w2) == pytest.approx(expected, rel=1e-6)
    flow = FreeFlow(c)
    with pytest.raises(FlowBlowUp) as caught:
        flow.advance(flow.start(w1, w2), 2 * expected)
    assert caught.value.time == pytest.approx(expected, rel=1e-3)
    fine = flow.advance(flow.start(w1, w2), 0.9 * expected)
    assert float(fine.m[0, 0]) == pytest.approx(0.25 / (1 - 0.9), rel=1e-3)


def test_blow_up_against_training(draw, train_numpy) -> None:
    w1, w2, c = draw(12, 6, 2, seed=0, gaussian=0.3)
    time = blow_up_time(torch.from_numpy(c), torch.from_numpy(w1), torch.from_numpy(w2))
    assert math.isfinite(time)
    lr = time / 5000
    assert np.abs(train_numpy("none", w1, w2, c, lr, 4900)).max() < 1e4
    with np.errstate(all="ignore"):
        assert not np.abs(train_numpy("none", w1, w2, c, lr, 5200)).max() < 1e12


def test_no_blow_up_without_a_negative_direction(draw) -> None:
    w1, w2, c = draw(8, 4, 2, seed=1)
    positive = torch.from_numpy(c @ c + np.eye(4))
    assert math.isinf(blow_up_time(positive, torch.from_numpy(w1), torch.from_numpy(w2)))
    assert math.isinf(blow_up_time(torch.from_numpy(c), torch.from_numpy(0 * w1), torch.from_numpy(w2)))
    flow = FreeFlow(positive)
    assert (
        float(flow.advance(flow.start(torch.from_numpy(w1), torch.from_numpy(w2)), 50.0).m.abs().max()) < 1e-6
    )


def test_unconstrained_collapse_is_of_the_direction(draw) -> None:
    """σ2/σ1 → 0 as the blow-up nears (Prop. 1's content)."""
    w1, w2, c = draw(12, 6, 2, seed=4, gaussian=0.2)
    time = blow_up_time(torch.from_numpy(c), torch.from_numpy(w1), torch.from_numpy(w2))
    flow = FreeFlow(torch.from_numpy(c))
    start = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    ratios = []
    for share in (0.5, 0.9, 0.99, 0.999):
        sigma = torch.linalg.svdvals(flow.advance(start, share * time).m)
        ratios.append(float(sigma[1] / sigma[0]))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 0.1 * ratios[0]


def test_the_imbalance_of_the_layers_is_conserved(draw) -> None:
    """Free flow: Tr H1 − Tr H2 stays; H1 and m stay consistent with weights (PSD block matrix)."""
    w1, w2, c = draw(12, 6, 2, seed=9, gaussian=0.4)
    flow = FreeFlow(torch.from_numpy(c))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    before = state.h1.trace() - state.h2.trace()
    for _ in range(50):
        state = flow.advance(state, 0.001)
    torch.testing.assert_close(state.h1.trace() - state.h2.trace(), before, rtol=0, atol=1e-9)
    block = torch.cat([torch.cat([state.h1, state.m], 1), torch.cat([state.m.T, state.h2], 1)])
    assert float(torch.linalg.eigvalsh(block).min()) > -1e-9


@pytest.mark.parametrize("flow_class", [FreeFlow, FrobeniusFlow, FrobeniusScaledFlow])
def test_batches_are_independent_runs(draw, flow_class) -> None:
    w1, w2, c = draw(9, 5, 2, seed=2, gaussian=0.15)
    w1s = torch.stack([torch.from_numpy(w1), torch.from_numpy(w1) * 0.7])
    w2s = torch.stack([torch.from_numpy(w2), torch.from_numpy(w2) * 1.2])
    flow = flow_class(torch.from_numpy(c))
    both = flow.start(w1s, w2s)
    for _ in range(20):
        both = flow.advance(both, 0.005)
    assert flow.loss(both).shape == (2,)
    for i in range(2):
        one = flow.start(w1s[i], w2s[i])
        for _ in range(20):
            one = flow.advance(one, 0.005)
        torch.testing.assert_close(both.m[i], one.m, rtol=0, atol=1e-8)


def test_low_rank_updates_against_dense() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 20, 20, dtype=torch.float64, generator=generator)
    h = a @ a.mT
    left = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator)
    right = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator)
    updated = LowRankUpdated(h, torch.tensor([0.5, 2.0], dtype=torch.float64), left, right)
    dense = updated.scale[:, None, None] * h + left @ right.mT + right @ left.mT
    torch.testing.assert_close(updated.dense(), dense)
    torch.testing.assert_close(updated @ left, dense @ left)
    torch.testing.assert_close(updated.trace(), dense.diagonal(dim1=-2, dim2=-1).sum(-1))
    norm = float(torch.linalg.matrix_norm(h, 2).max())
    assert 0.8 * norm < gram_norm(h, left) <= 1.06 * norm


def test_mistakes_are_named(draw) -> None:
    w1, w2, c = (torch.from_numpy(x) for x in draw(9, 5, 2, seed=2))
    flow = FreeFlow(c)
    with pytest.raises(UserError, match="same h"):
        flow.start(w1[:4], w2)
    with pytest.raises(UserError, match="two-layer"):
        flow.start(w1, w1, w2)
    with pytest.raises(UserError, match="learning rate"):
        flow.advance(flow.start(w1, w2), -1.0)
    with pytest.raises(UserError, match="c1"):
        FrobeniusFlow(c, c1=0.0)
    with pytest.raises(UserError, match="NaN"):
        FreeFlow(c * torch.nan)
    assert gram_state(w1, w2).h1.shape == (5, 5)
