"""The product constraint: its projection, its flow, and training that converges to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.theory import ProductFlow, project_product


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.floats(0.2, 3.0))
@settings(max_examples=50, deadline=None)
def test_the_projection_is_one(seed, h, d, z, c) -> None:
    """Feasible, idempotent, caps the singular values alone, and blind to rotations of the hidden layer."""
    generator = torch.Generator().manual_seed(seed)
    w1 = torch.randn(2, h, d, dtype=torch.float64, generator=generator)
    w2 = torch.randn(2, h, z, dtype=torch.float64, generator=generator)
    p1, p2 = project_product(w1, w2, c)
    before, after = torch.linalg.svdvals(w1.mT @ w2), torch.linalg.svdvals(p1.mT @ p2)
    torch.testing.assert_close(after, before.clamp_max(c), rtol=0, atol=1e-9)
    q1, q2 = project_product(p1, p2, c)
    torch.testing.assert_close(q1, p1, rtol=0, atol=1e-9)
    torch.testing.assert_close(q2, p2, rtol=0, atol=1e-9)
    o = torch.linalg.qr(torch.randn(h, h, dtype=torch.float64, generator=generator))[0]
    r1, r2 = project_product(o @ w1, o @ w2, c)
    torch.testing.assert_close(r1, o @ p1, rtol=0, atol=1e-9)
    torch.testing.assert_close(r2, o @ p2, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("h", "d", "z", "bound"), [(12, 6, 2, 1.0), (12, 6, 3, 0.7), (4, 6, 3, 1.0), (7, 5, 1, 2.0)]
)
def test_training_converges_at_first_order(draw, gaps, follow, h, d, z, bound) -> None:
    w1, w2, c = draw(h, d, z, seed=h + d, gaussian=0.5)
    p1, p2 = (w.numpy() for w in project_product(torch.from_numpy(w1), torch.from_numpy(w2), bound))
    m = follow(ProductFlow(torch.from_numpy(c), bound), w1, w2, 1.0, pieces=600)
    errors = gaps("product", p1, p2, c, m, 1.0, (150, 300, 600), bound=bound)
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_derivative_on_the_boundary_is_the_stated_one(draw) -> None:
    """ṁ = ṁ0 + X11 m + m X22 with X11 = −Ua Z Uaᵀ/(2c), X22 = −Va Z Vaᵀ/(2c), Z = [sym(Uaᵀ ṁ0 Va)]₊, all active."""
    w1, w2, c = draw(12, 6, 2, seed=5)
    u, s, vt = np.linalg.svd(w1.T @ w2, full_matrices=False)
    bound = 0.5
    # weights whose map has both singular values exactly at the bound
    w2 = w2 @ (vt.T * (bound / s)) @ vt
    m = w1.T @ w2
    u, v = m @ vt.T / bound, vt.T
    g = -2 * c @ m
    free = g @ (w2.T @ w2) + w1.T @ w1 @ g
    block = u.T @ free @ v
    values, vectors = np.linalg.eigh((block + block.T) / 2)
    excess = (vectors * np.maximum(values, 0)) @ vectors.T
    expected = free - (u @ excess @ u.T @ m + m @ v @ excess @ v.T) / (2 * bound)
    flow = ProductFlow(torch.from_numpy(c), bound)
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    dt = 1e-6
    np.testing.assert_allclose((flow.advance(state, dt).m - state.m).numpy() / dt, expected, atol=1e-4)


def test_limit_reaches_the_optimum_of_prop_3(draw) -> None:
    c = torch.diag(torch.tensor([-1.5, -1.0, -0.4, 0.3, 0.8], dtype=torch.float64))
    w1, w2, _ = draw(12, 5, 4, seed=3)
    flow = ProductFlow(c, 0.8)
    state = flow.advance(flow.start(torch.from_numpy(w1), torch.from_numpy(w2)), 40.0)
    assert float(flow.loss(state)) == pytest.approx(0.64 * -2.9, rel=1e-3)
    assert float(flow.optimum(4)) == pytest.approx(0.64 * -2.9, abs=1e-12)
    assert float(torch.linalg.matrix_norm(state.m, 2)) < 0.8 + 1e-4  # extrapolated


def test_gram_matrices_follow_the_weights(draw) -> None:
    """One step of the flow's inner scheme is one training step, H1 and H2 included."""
    w1, w2, c = draw(9, 5, 2, seed=6)
    flow = ProductFlow(torch.from_numpy(c), 0.6)
    p1, p2 = project_product(torch.from_numpy(w1), torch.from_numpy(w2), 0.6)
    layers = flow.start(torch.from_numpy(w1), torch.from_numpy(w2)).coarse
    for _ in range(5):
        cm = torch.from_numpy(c) @ p1.T @ p2
        p1, p2 = project_product(p1 - 0.1 * 2 * p2 @ cm.T, p2 - 0.1 * 2 * p1 @ cm, 0.6)
        layers = flow._move(layers, 0.1, flow.moment)
    torch.testing.assert_close(layers.m, p1.T @ p2, rtol=0, atol=1e-12)
    torch.testing.assert_close(layers.h1, p1.T @ p1, rtol=0, atol=1e-12)
    torch.testing.assert_close(layers.h2, p2.T @ p2, rtol=0, atol=1e-12)


def test_batches_and_mistakes(draw) -> None:
    w1, w2, c = (torch.from_numpy(x) for x in draw(9, 5, 2, seed=2))
    flow = ProductFlow(c)
    both = flow.advance(flow.start(torch.stack([w1, 0.5 * w1]), torch.stack([w2, w2])), 0.01)
    one = flow.advance(flow.start(0.5 * w1, w2), 0.01)
    torch.testing.assert_close(both.m[1], one.m, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="constraint.c"):
        ProductFlow(c, -1.0)
