"""Minibatches, resampling and schedules: the flow can follow the realised C step by step, or the population's."""

import numpy as np
import pytest
import torch

from sslmanifold.theory import (
    FreeFlow,
    FrobeniusFlow,
    OperatorNormFlow,
    OrthogonalFlow,
    ProductFlow,
    ScaledFlow,
)

CASES = [
    ("orthogonal", lambda c: OrthogonalFlow(c, 0.0)),
    ("projected", lambda c: OrthogonalFlow(c, 1.0)),
    ("none", FreeFlow),
    ("frobenius", FrobeniusFlow),
    ("operator_norm", OperatorNormFlow),
    ("product", ProductFlow),
]


def realised(d: int, steps: int, seed: int, noise: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((d, d))
    mean = -(a + a.T) / 4 - 0.3 * np.eye(d)
    out = []
    for _ in range(steps):
        b = rng.standard_normal((d, d))
        out.append(mean + noise * (b + b.T) / 2)
    return out


@pytest.mark.parametrize(("kind", "make"), CASES, ids=[case[0] for case in CASES])
def test_following_the_realised_batches_keeps_the_deviation_first_order(
    draw, train_numpy, kind, make
) -> None:
    """Same noise, step by step: halving lr with each batch kept for the same time halves the deviation."""
    w1, w2, _ = draw(12, 5, 2, seed=4)
    if kind == "frobenius":
        w1, w2 = w1 / np.linalg.norm(w1), w2 / np.linalg.norm(w2)
    elif kind == "none":
        w1, w2 = 0.4 * w1, 0.4 * w2
    batches = realised(5, 10, seed=1, noise=0.8)
    flow = make(torch.from_numpy(np.mean(batches, 0)))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for batch in batches:
        for _ in range(20):
            state = flow.advance(state, 0.03 / 20, torch.from_numpy(batch))
    errors = []
    for repeats in (4, 8, 16):
        drawn = [batch for batch in batches for _ in range(repeats)]
        m = train_numpy(kind, w1, w2, drawn, 0.03 / repeats, len(drawn))
        errors.append(np.linalg.norm(m - state.m.numpy()))
    assert 1.85 < errors[0] / errors[1] < 2.15
    assert 1.85 < errors[1] / errors[2] < 2.15


def test_scaled_follows_realised_batches_too(draw, train_numpy) -> None:
    w1, w2, _ = draw(12, 5, 2, seed=4, gaussian=0.5)
    batches = realised(5, 10, seed=1, noise=0.4)
    flow = ScaledFlow(torch.from_numpy(np.mean(batches, 0)))
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for batch in batches:
        for _ in range(20):
            state = flow.advance(state, 0.03 / 20, torch.from_numpy(batch))
    errors = []
    for repeats in (4, 8, 16):
        drawn = [batch for batch in batches for _ in range(repeats)]
        errors.append(
            np.linalg.norm(train_numpy("scaled", w1, w2, drawn, 0.03 / repeats, len(drawn)) - state.m.numpy())
        )
    assert 1.6 < errors[0] / errors[1] < 2.5
    assert 1.6 < errors[1] / errors[2] < 2.5


def test_the_population_flow_is_off_by_the_noise_instead(draw, train_numpy) -> None:
    """Against C's mean the deviation falls like √η only (fresh noise each step): far above the realised one's."""
    w1, w2, _ = draw(12, 5, 2, seed=4)
    steps, lr = 200, 0.002
    batches = realised(5, steps, seed=1, noise=2.0)
    start = torch.from_numpy(w1), torch.from_numpy(w2)
    flow = OrthogonalFlow(torch.from_numpy(realised(5, 1, seed=1, noise=0.0)[0]))
    population = realisation = flow.start(*start)
    for batch in batches:
        population = flow.advance(population, lr)
        realisation = flow.advance(realisation, lr, torch.from_numpy(batch))
    m = train_numpy("orthogonal", w1, w2, batches, lr, steps)
    near, far = (np.linalg.norm(m - s.m.numpy()) for s in (realisation, population))
    assert near < far / 5


@pytest.mark.parametrize("schedule", ["cosine", "warmup"])
def test_time_is_the_sum_of_learning_rates(draw, train_numpy, schedule) -> None:
    w1, w2, c = draw(12, 5, 2, seed=5)
    flow = OrthogonalFlow(torch.from_numpy(c), 0.0)
    errors = []
    for steps in (100, 200, 400):
        k = (np.arange(steps) + 0.5) / steps
        rates = 0.4 / steps * (1 + np.cos(np.pi * k)) if schedule == "cosine" else 0.8 / steps * k
        state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
        for rate in rates:
            state = flow.advance(state, float(rate))
        assert state.time == pytest.approx(0.4)
        m = train_numpy("orthogonal", w1, w2, c, rates.tolist(), steps)
        errors.append(np.linalg.norm(m - state.m.numpy()))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


def test_heavy_ball_momentum_runs_at_effective_time(draw) -> None:
    """Momentum μ on the free loss: the flow at time Σ lr/(1 − μ), first order in lr after the transient."""
    w1, w2, c = draw(12, 5, 2, seed=6, gaussian=0.2)
    flow, mu, time = FreeFlow(torch.from_numpy(c)), 0.9, 0.1
    state = flow.start(torch.from_numpy(w1), torch.from_numpy(w2))
    for _ in range(50):
        state = flow.advance(state, time / 50)
    errors = []
    for steps in (2000, 4000, 8000):
        a, b, va, vb = w1, w2, 0.0 * w1, 0.0 * w2
        lr = time * (1 - mu) / steps
        for _ in range(steps):
            cm = c @ (a.T @ b)
            va, vb = mu * va + 2 * b @ cm.T, mu * vb + 2 * a @ cm
            a, b = a - lr * va, b - lr * vb
        errors.append(np.linalg.norm(a.T @ b - state.m.numpy()))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.8 < errors[1] / errors[2] < 2.2
