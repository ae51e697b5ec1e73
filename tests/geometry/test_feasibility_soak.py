"""Feasibility after many random-gradient steps, and steps of any size, without exception or NaN."""

import pytest
import torch

from sslmanifold.geometry import ManifoldParameter, RiemannianAdam, RiemannianSGD, SpectralBall, Stiefel, haar

RETRACTIONS = ["auto", "cholesky_qr", "polar", "cayley", "project"]
LIMIT = {torch.float32: 1e-6, torch.float64: 1e-13}


def manifold_of(retraction, metric="canonical"):
    return Stiefel("euclidean" if retraction == "project" else metric, retraction=retraction)


def run(p, optimizer, steps, seed=0, big_every=0):
    """Random gradients; every so often one with lr·‖G‖_F = 100. Returns the worst residual seen."""
    g = torch.Generator().manual_seed(seed)
    lr = optimizer.param_groups[0]["lr"]
    p.grad = torch.empty_like(p)
    worst = 0.0
    for step in range(steps):
        p.grad.normal_(generator=g)
        if big_every and step % big_every == big_every - 1:
            p.grad.mul_(100 / (lr * torch.linalg.matrix_norm(p.grad, keepdim=True)))
        optimizer.step()
        if step % 97 == 0 or step == steps - 1:
            worst = max(worst, float(p.manifold.residual(p).max()))
            assert worst == worst, f"NaN after {step + 1} steps"
    return worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("retraction", [*RETRACTIONS, "exponential"])
def test_a_thousand_steps(retraction, momentum, dtype):
    manifold = manifold_of(retraction)
    p = ManifoldParameter(haar(64, 16, dtype=dtype), manifold)
    worst = run(
        p, RiemannianSGD([p], lr=0.02, momentum=momentum), 100 if retraction == "exponential" else 1000
    )
    assert worst <= LIMIT[dtype]


@pytest.mark.parametrize("shape", [(160, 130), (20, 90), (3, 40, 8)])
@pytest.mark.parametrize("metric", ["grassmann", "canonical"])
@pytest.mark.parametrize("retraction", RETRACTIONS[1:])
def test_steps_of_length_a_hundred_in_float32(retraction, metric, shape):
    p = ManifoldParameter(haar(*shape, dtype=torch.float32), manifold_of(retraction, metric), batch=True)
    worst = run(p, RiemannianSGD([p], lr=0.02, momentum=0.5), 40, big_every=3)
    assert worst <= LIMIT[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_adam_stays_feasible(retraction, dtype):
    p = ManifoldParameter(haar(64, 16, dtype=dtype), manifold_of(retraction))
    assert run(p, RiemannianAdam([p], lr=0.05), 300) <= LIMIT[dtype]


def test_no_svd_and_no_raising_solver_in_any_step(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a decomposition that may raise was called in a step")

    for name in ("svd", "svdvals", "eigh", "eig", "solve", "inv", "cholesky"):
        monkeypatch.setattr(torch.linalg, name, never)
    monkeypatch.setattr(torch, "svd", never)
    for retraction in RETRACTIONS:
        for momentum in (0.0, 0.9):
            p = ManifoldParameter(haar(140, 130), manifold_of(retraction))
            run(p, RiemannianSGD([p], lr=0.1, momentum=momentum), 25, big_every=5)


@pytest.mark.parametrize("manifold", [Stiefel(), Stiefel(retraction="cayley"), SpectralBall(0.7)], ids=repr)
@pytest.mark.parametrize("optimizer", [RiemannianSGD, RiemannianAdam])
def test_a_step_inside_autocast_keeps_full_precision(optimizer, manifold):
    p = ManifoldParameter(haar(40, 8), manifold, project=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(p, optimizer([p], lr=0.05), 20) <= LIMIT[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_fifty_thousand_steps(retraction, momentum, dtype):
    p = ManifoldParameter(haar(64, 16, dtype=dtype), manifold_of(retraction))
    worst = run(p, RiemannianSGD([p], lr=0.02, momentum=momentum), 50_000)
    assert worst <= LIMIT[dtype]


# 200,000 float32 steps in all, most of them where they are cheap.
SOAK = {(512, 64): 130_000, (1024, 128): 60_000, (8, 512, 64): 8_000, (4096, 256): 2_000}


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(SOAK))
def test_two_hundred_thousand_steps_over_all_shapes(shape):
    settings = [(r, m) for r in RETRACTIONS for m in (0.0, 0.9)]
    for i, (retraction, momentum) in enumerate(settings):
        p = ManifoldParameter(haar(*shape, dtype=torch.float32), manifold_of(retraction), batch=True)
        optimizer = RiemannianSGD([p], lr=0.01, momentum=momentum)
        worst = run(p, optimizer, SOAK[shape] // len(settings), seed=i, big_every=101)
        assert worst <= LIMIT[torch.float32], (retraction, momentum, worst)
