"""torch's semantics on plain parameters; tangent momentum, resume and independence on manifolds."""

import copy
import io

import pytest
import torch
from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry import (
    FrobeniusBall,
    ManifoldParameter,
    RiemannianSGD,
    SpectralBall,
    Stiefel,
    haar,
)
from sslmanifold.geometry._geoopt import geoopt

MANIFOLDS = [
    Stiefel("grassmann"),
    Stiefel("euclidean"),
    Stiefel("canonical"),
    Stiefel("canonical", retraction="cholesky_qr"),
    Stiefel("canonical", retraction="cayley"),
    Stiefel("euclidean", retraction="project"),
    FrobeniusBall(2.0),
    SpectralBall(1.0),
]
KWARGS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.8, "dampening": 0.3},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.01, "maximize": True},
    {"momentum": 0.9, "foreach": True},
]


def random_gradients(params, seed):
    g = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype)


def make(manifold, shape=(7, 3), dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ManifoldParameter(haar(*shape, dtype=dtype, generator=g), manifold, project=True, batch=True)


@pytest.mark.parametrize("kwargs", KWARGS)
def test_plain_parameters_follow_torch_bit_for_bit(kwargs):
    ours, theirs = ([nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(5))] for _ in range(2))
    a, b = RiemannianSGD(ours, lr=0.1, **kwargs), torch.optim.SGD(theirs, lr=0.1, **kwargs)
    for step in range(20):
        for params, optimizer in ((ours, a), (theirs, b)):
            random_gradients(params, step)
            if step == 7:
                params[1].grad = None
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kwargs", [k for k in KWARGS if "foreach" not in k])
def test_euclidean_manifold_parameters_follow_torch_too(kwargs):
    p = geoopt.ManifoldParameter(torch.ones(4, 3, dtype=torch.float64), manifold=geoopt.Euclidean())
    q = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    a, b = RiemannianSGD([p], lr=0.1, **kwargs), torch.optim.SGD([q], lr=0.1, **kwargs)
    for step in range(10):
        random_gradients([p], step)
        random_gradients([q], step)
        a.step()
        b.step()
    torch.testing.assert_close(p.data, q.data, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("kwargs", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_recursion_on_a_manifold(manifold, kwargs):
    # The same recursion written out with the manifold's own operations.
    p = make(manifold)
    optimizer = RiemannianSGD([p], lr=0.05, dampening=0.0, **kwargs)
    x, buffer = p.data.clone(), None
    mu = kwargs.get("momentum", 0.0)
    for step in range(8):
        random_gradients([p], step)
        optimizer.step()
        if manifold.name == "Stiefel" and manifold.retraction == "project" and not mu:
            x = manifold.projx(x - 0.05 * p.grad)
            continue
        g = manifold.egrad2rgrad(x, p.grad)
        buffer = g if buffer is None or not mu else mu * buffer + g
        direction = g + mu * buffer if kwargs.get("nesterov") else buffer
        y = manifold.retr(x, -0.05 * direction)
        x, buffer = y, manifold.transp(x, y, buffer)
    torch.testing.assert_close(p.data, x, atol=1e-13, rtol=0)


@pytest.mark.parametrize("manifold", MANIFOLDS[:6], ids=repr)
def test_momentum_is_tangent_after_every_step(manifold):
    p = make(manifold)
    optimizer = RiemannianSGD([p], lr=0.3, momentum=0.9)
    for step in range(5):
        random_gradients([p], step)
        optimizer.step()
        buffer = optimizer.state[p]["momentum_buffer"]
        torch.testing.assert_close(manifold.proju(p.data, buffer), buffer, atol=1e-14, rtol=0)
        if manifold.kappa == 0:
            assert float((p.data.mT @ buffer).abs().max()) < 1e-14


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_replicas_are_stepped_independently(manifold, momentum):
    start = torch.stack([make(manifold, seed=s).data for s in range(3)])
    together = ManifoldParameter(start.clone(), manifold, batch=True)
    apart = [ManifoldParameter(s.clone(), manifold) for s in start]
    a = RiemannianSGD([together], lr=0.1, momentum=momentum)
    b = RiemannianSGD(apart, lr=0.1, momentum=momentum, foreach=False)
    for step in range(6):
        random_gradients([together], step)
        together.grad[1] *= 1e3  # one replica takes enormous steps
        for i, p in enumerate(apart):
            p.grad = together.grad[i].clone()
        a.step()
        b.step()
    torch.testing.assert_close(together.data, torch.stack([p.data for p in apart]), atol=1e-11, rtol=0)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_a_diverged_replica_leaves_the_others_alone(manifold):
    p = ManifoldParameter(torch.stack([make(manifold, seed=s).data for s in range(2)]), manifold, batch=True)
    q = ManifoldParameter(p.data[:1].clone(), manifold, batch=True)
    a, b = RiemannianSGD([p], lr=0.1, momentum=0.5), RiemannianSGD([q], lr=0.1, momentum=0.5)
    for step in range(4):
        random_gradients([p], step)
        p.grad[1] = torch.nan
        q.grad = p.grad[:1].clone()
        a.step()
        b.step()
    torch.testing.assert_close(p.data[0], q.data[0], atol=1e-12, rtol=0)
    assert torch.isnan(p.data[1]).any()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_foreach_gives_the_same_steps(manifold, momentum):
    runs = []
    for foreach in (False, True, None):
        params = [make(manifold, seed=s) for s in range(3)] + [nn.Parameter(torch.ones(2))]
        optimizer = RiemannianSGD(params, lr=0.1, momentum=momentum, foreach=foreach)
        for step in range(12):
            random_gradients(params, step)
            if step == 3:
                params[0].grad = None
            optimizer.step()
        runs.append([p.data for p in params])
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_resume_is_bit_exact(manifold, dtype):
    def fresh():
        params = [make(manifold, dtype=dtype), nn.Parameter(torch.ones(3, dtype=dtype))]
        return params, RiemannianSGD(params, lr=0.1, momentum=0.9, nesterov=True)

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
    for step in range(7, 25):
        for ps, o in ((params, optimizer), (resumed, again)):
            random_gradients(ps, step)
            o.step()
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p.data, q.data)


def test_maximize_is_the_negated_gradient():
    a, b = make(Stiefel()), make(Stiefel())
    up, down = RiemannianSGD([a], lr=0.1, maximize=True), RiemannianSGD([b], lr=0.1)
    random_gradients([a], 0)
    b.grad = -a.grad
    up.step()
    down.step()
    torch.testing.assert_close(a.data, b.data)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_clipping_is_by_the_manifolds_norm_and_by_matrix(manifold):
    p = ManifoldParameter(
        torch.stack([make(manifold, seed=s).data / 2 for s in range(2)]), manifold, project=True, batch=True
    )
    optimizer = RiemannianSGD([p], lr=1.0, max_norm=1e-4)
    x = p.data.clone()
    random_gradients([p], 0)
    p.grad[1] *= 1e-9
    g = manifold.egrad2rgrad(x, p.grad)
    norm = manifold.norm(x, g, keepdim=True)
    optimizer.step()
    expected = manifold.retr(x, -g * (1e-4 / (norm + 1e-6)).clamp(max=1.0))
    torch.testing.assert_close(p.data, expected, atol=1e-13, rtol=0)
    moved = manifold.norm(x, p.data - x)
    assert float(moved[0]) == pytest.approx(1e-4, rel=0.02)
    assert float(moved[1]) < 1e-7


def test_weight_decay_is_refused_on_stiefel_and_names_the_group():
    p = make(Stiefel())
    with pytest.raises(UserError, match='"weight_decay": 0'):
        RiemannianSGD([p], lr=0.1, weight_decay=0.1)
    plain = nn.Parameter(torch.ones(3))
    RiemannianSGD([{"params": [p], "weight_decay": 0}, {"params": [plain]}], lr=0.1, weight_decay=0.1)
    RiemannianSGD([make(FrobeniusBall(2.0))], lr=0.1, weight_decay=0.1)


@pytest.mark.parametrize(
    "kwargs",
    [{"lr": -1}, {"momentum": -1}, {"weight_decay": -1}, {"nesterov": True}, {"max_norm": 0}],
    ids=str,
)
def test_wrong_arguments(kwargs):
    with pytest.raises(ValueError, match=r"Invalid|Nesterov"):
        RiemannianSGD([make(Stiefel())], **{"lr": 0.1, **kwargs})


def test_first_step_refuses_a_parameter_off_its_manifold():
    p = make(Stiefel())
    p.data.mul_(2)
    p.grad = torch.zeros_like(p)
    with pytest.raises(UserError, match="residual 3"):
        RiemannianSGD([p], lr=0.1).step()


def test_closure_hooks_and_schedulers_work():
    p = make(Stiefel())
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    seen = []
    optimizer.register_step_pre_hook(lambda *a: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *a: seen.append("post"))

    def closure():
        optimizer.zero_grad()
        loss = (p**2 * torch.arange(3)).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert losses[2] < losses[0]
    assert seen == ["pre", "post"] * 3


def test_other_geoopt_manifolds_and_deepcopy():
    sphere = geoopt.ManifoldParameter(torch.tensor([[0.6, 0.8]]), manifold=geoopt.Sphere())
    optimizer = RiemannianSGD([sphere], lr=0.1, momentum=0.9, stabilize=2)
    for _ in range(5):
        sphere.grad = torch.tensor([[1.0, 0.0]])
        optimizer.step()
    assert float(sphere.norm()) == pytest.approx(1, abs=1e-6)
    assert float(sphere[0, 0]) < 0.6
    assert isinstance(optimizer, geoopt.optim.mixin.OptimMixin)
    copied = copy.deepcopy(optimizer)
    assert copied.param_groups[0]["lr"] == 0.1


def test_stabilize_projects_parameters_and_buffers():
    p = make(Stiefel(), dtype=torch.float32)
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9, stabilize=1)
    for step in range(3):
        random_gradients([p], step)
        optimizer.step()
    assert float(p.manifold.residual(p)) < 1e-6
    optimizer.stabilize()


def test_sparse_gradients_are_refused():
    p = make(Stiefel())
    p.grad = torch.randn(7, 3, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        RiemannianSGD([p], lr=0.1).step()
