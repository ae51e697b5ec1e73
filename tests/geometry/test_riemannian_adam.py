"""AdamW on plain parameters; Riemannian Adam with one second moment a matrix on manifolds."""

import io

import pytest
import torch
from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry import FrobeniusBall, ManifoldParameter, RiemannianAdam, SpectralBall, Stiefel, haar
from sslmanifold.geometry._geoopt import geoopt

MANIFOLDS = [
    Stiefel("grassmann"),
    Stiefel("canonical"),
    Stiefel("euclidean", retraction="cayley"),
    Stiefel("euclidean", retraction="project"),
    FrobeniusBall(2.0),
    SpectralBall(1.0),
]
KWARGS = [
    {},
    {"amsgrad": True},
    {"maximize": True},
    {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6},
    {"foreach": True, "weight_decay": 0.01},
]


def random_gradients(params, seed):
    g = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype)


def make(manifold, shape=(7, 3), dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ManifoldParameter(haar(*shape, dtype=dtype, generator=g), manifold, project=True, batch=True)


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plain_parameters_follow_adamw_bit_for_bit(kwargs, dtype):
    ours, theirs = (
        [nn.Parameter(torch.ones(4, 3, dtype=dtype)), nn.Parameter(torch.ones(5, dtype=dtype))]
        for _ in range(2)
    )
    a = RiemannianAdam(ours, lr=0.1, **kwargs)
    b = torch.optim.AdamW(theirs, lr=0.1, **{"weight_decay": 0.0, **kwargs})
    for step in range(20):
        for params, optimizer in ((ours, a), (theirs, b)):
            random_gradients(params, step)
            if step == 7:
                params[1].grad = None
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_recursion_on_a_manifold(manifold, amsgrad):
    p = make(manifold, shape=(2, 7, 3))
    optimizer = RiemannianAdam([p], lr=0.05, betas=(0.8, 0.9), amsgrad=amsgrad)
    x = p.data.clone()
    m = v = top = torch.zeros(())
    for step in range(1, 8):
        random_gradients([p], step)
        p.grad /= step
        optimizer.step()
        g = manifold.egrad2rgrad(x, p.grad)
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * (
            g**2 if isinstance(manifold, geoopt.Euclidean) else manifold.inner(x, g, keepdim=True)
        )
        top = torch.maximum(top, v) if amsgrad else v
        direction = (m / (1 - 0.8**step)) / ((top / (1 - 0.9**step)).sqrt() + 1e-8)
        y = manifold.retr(x, -0.05 * direction)
        x, m = y, manifold.transp(x, y, m)
    torch.testing.assert_close(p.data, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], m, atol=1e-12, rtol=0)


def test_second_moment_is_one_number_a_matrix_and_the_first_step_has_length_lr():
    p = make(Stiefel("euclidean"), shape=(4, 9, 3))
    x = p.data.clone()
    optimizer = RiemannianAdam([p], lr=1e-5)
    random_gradients([p], 0)
    optimizer.step()
    assert optimizer.state[p]["exp_avg_sq"].shape == (4, 1, 1)
    torch.testing.assert_close(
        (p.data - x).norm(dim=(-2, -1)), torch.full((4,), 1e-5).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_resume_is_bit_exact(manifold, dtype):
    def fresh():
        params = [make(manifold, dtype=dtype), nn.Parameter(torch.ones(3, dtype=dtype))]
        return params, RiemannianAdam(params, lr=0.1, amsgrad=True)

    params, optimizer = fresh()
    for step in range(7):
        random_gradients(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "params": [p.detach() for p in params]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, again = fresh()
    for p, value in zip(resumed, saved["params"], strict=True):
        p.data.copy_(value)
    again.load_state_dict(saved["optimizer"])
    for step in range(7, 30):
        for ps, o in ((params, optimizer), (resumed, again)):
            random_gradients(ps, step)
            o.step()
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p.data, q.data)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_replicas_and_foreach_are_independent(manifold):
    start = torch.stack([make(manifold, seed=s).data for s in range(3)])
    together = ManifoldParameter(start.clone(), manifold, batch=True)
    apart = [ManifoldParameter(s.clone(), manifold) for s in start]
    stacked = [ManifoldParameter(s.clone(), manifold) for s in start]
    optimizers = [
        RiemannianAdam([together], lr=0.1),
        RiemannianAdam(apart, lr=0.1, foreach=False),
        RiemannianAdam(stacked, lr=0.1, foreach=True),
    ]
    for step in range(12):
        random_gradients([together], step)
        together.grad[1] *= 1e3
        for i in range(3):
            apart[i].grad = together.grad[i].clone()
            stacked[i].grad = together.grad[i].clone()
        for optimizer in optimizers:
            optimizer.step()
    for params in (apart, stacked):
        torch.testing.assert_close(together.data, torch.stack([p.data for p in params]), atol=1e-11, rtol=0)


@pytest.mark.parametrize("manifold", MANIFOLDS[:4], ids=repr)
def test_average_stays_tangent(manifold):
    p = make(manifold)
    optimizer = RiemannianAdam([p], lr=0.3)
    for step in range(5):
        random_gradients([p], step)
        optimizer.step()
        average = optimizer.state[p]["exp_avg"]
        torch.testing.assert_close(manifold.proju(p.data, average), average, atol=1e-14, rtol=0)


def test_maximize_is_the_negated_gradient():
    a, b = make(Stiefel()), make(Stiefel())
    up, down = RiemannianAdam([a], lr=0.1, maximize=True), RiemannianAdam([b], lr=0.1)
    random_gradients([a], 0)
    b.grad = -a.grad
    up.step()
    down.step()
    torch.testing.assert_close(a.data, b.data)


def test_weight_decay_is_decoupled_on_balls_and_refused_elsewhere():
    with pytest.raises(UserError, match="weight_decay=0"):
        RiemannianAdam([make(Stiefel())], weight_decay=0.1)
    sphere = geoopt.ManifoldParameter(torch.tensor([0.6, 0.8]), manifold=geoopt.Sphere())
    with pytest.raises(UserError, match="leaves the manifold"):
        RiemannianAdam([sphere], weight_decay=0.1)
    p = make(FrobeniusBall(5.0))
    q = nn.Parameter(p.data.clone())
    a, b = RiemannianAdam([p], lr=0.01, weight_decay=0.5), torch.optim.AdamW([q], lr=0.01, weight_decay=0.5)
    for step in range(10):
        random_gradients([p], step)
        random_gradients([q], step)
        a.step()
        b.step()
    assert float(p.data.norm()) < 5  # never touched the boundary: then it is AdamW
    torch.testing.assert_close(p.data, q.data, atol=1e-12, rtol=0)


def test_clipping_by_the_manifolds_norm():
    p = make(Stiefel("canonical"))
    optimizer = RiemannianAdam([p], lr=0.1, max_norm=0.5)
    random_gradients([p], 0)
    optimizer.step()
    assert float(optimizer.state[p]["exp_avg_sq"]) == pytest.approx(0.25 * 1e-3, rel=1e-4)


def test_first_step_refuses_a_parameter_off_its_manifold():
    p = make(Stiefel())
    p.data.mul_(2)
    p.grad = torch.zeros_like(p)
    with pytest.raises(UserError, match="residual 3"):
        RiemannianAdam([p]).step()


def test_square_grassmann_weights_do_not_move():
    # Their gradient is zero; Adam would make steps of length lr out of its roundoff.
    p = make(Stiefel("grassmann"), shape=(5, 5), dtype=torch.float32)
    x = p.data.clone()
    optimizer = RiemannianAdam([p], lr=0.1)
    for step in range(5):
        random_gradients([p], step)
        optimizer.step()
    torch.testing.assert_close(p.data, x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("retraction", ["polar", "cholesky_qr", "cayley"])
def test_a_gradient_of_roundoff_alone_keeps_the_manifold(retraction):
    x = haar(40, 8)
    p = ManifoldParameter(x.clone(), Stiefel("grassmann", retraction=retraction))
    p.grad = x @ torch.randn(8, 8)  # within the span: horizontal part zero up to roundoff
    RiemannianAdam([p], lr=0.05).step()
    assert float(p.manifold.residual(p)) < 1e-6


def test_training_finds_the_top_subspace():
    c = torch.diag(torch.arange(6, dtype=torch.float64))
    p = make(Stiefel(), shape=(6, 2))
    optimizer = RiemannianAdam([p], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss = -torch.trace(p.mT @ c @ p)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(-9, abs=1e-3)  # 5 + 4
