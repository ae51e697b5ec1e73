"""What torch's and geoopt's optimizers have saved is taken up or refused at once, in one line."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry import (
    FrobeniusBall,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    Stiefel,
    haar,
    project_,
    residual,
)
from sslmanifold.geometry._geoopt import geoopt


class Net(nn.Module):
    def __init__(self, manifold=None):
        super().__init__()
        x = haar(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight = ManifoldParameter(x, manifold or Stiefel("canonical"), project=True)
        self.bias = nn.Parameter(torch.zeros(5, dtype=torch.float64))


def gradients(net, seed):
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype)


def trained(optimizer, manifold=None, steps=3):
    net = Net(manifold)
    o = optimizer(net.parameters())
    for seed in range(steps):
        gradients(net, seed)
        o.step()
    project_(net)
    return net, o


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


SGD = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=False),
    lambda p: geoopt.optim.RiemannianSGD(p, lr=0.1),
    lambda p: geoopt.optim.RiemannianSGD(p, lr=0.1, momentum=0.9, stabilize=7),
]


@pytest.mark.parametrize("other", SGD)
@pytest.mark.parametrize("metric", ["grassmann", "canonical"])
def test_sgd_goes_on_from_torch_and_geoopt(other, metric):
    net, theirs = trained(other, Stiefel(metric))
    ours = RiemannianSGD(net.parameters(), lr=1.0, max_norm=50.0)
    ours.load_state_dict(saved(theirs))
    group = ours.param_groups[0]
    assert (group["lr"], group["max_norm"]) == (0.1, 50.0)
    assert group["momentum"] == theirs.param_groups[0]["momentum"]
    gradients(net, 3)
    plain = copy.deepcopy(net.bias), copy.deepcopy(theirs.state[net.bias].get("momentum_buffer"))
    ours.step()
    assert float(residual(net.weight, net.weight.manifold)) < 1e-14
    if "momentum_buffer" in ours.state[net.weight]:
        buffer = ours.state[net.weight]["momentum_buffer"]
        torch.testing.assert_close(net.weight.manifold.transp(net.weight, net.weight, buffer), buffer)
    reference = torch.optim.SGD([plain[0]], lr=0.1, momentum=group["momentum"], nesterov=group["nesterov"])
    if group["momentum"]:
        reference.state[plain[0]]["momentum_buffer"] = plain[1]
    plain[0].grad = net.bias.grad.clone()
    reference.step()
    assert torch.equal(net.bias, plain[0])


def test_a_raw_average_becomes_tangent_before_it_acts():
    net, theirs = trained(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    ours = RiemannianSGD(net.parameters(), lr=0.1, momentum=0.9)
    ours.load_state_dict(saved(theirs))
    x, manifold = net.weight.data.clone(), net.weight.manifold
    raw = theirs.state[net.weight]["momentum_buffer"]
    gradients(net, 3)
    buffer = 0.9 * manifold.proju(x, raw) + manifold.egrad2rgrad(x, net.weight.grad)
    ours.step()
    torch.testing.assert_close(net.weight.data, manifold.retr(x, -0.1 * buffer), atol=1e-13, rtol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_goes_on_from_geoopt(amsgrad):
    def other(params):
        return geoopt.optim.RiemannianAdam(params, lr=0.1, amsgrad=amsgrad)

    net, theirs = trained(other, Stiefel("euclidean"))
    ours = RiemannianAdam(net.parameters())
    ours.load_state_dict(saved(theirs))
    assert ours.state[net.weight]["exp_avg_sq"].shape == (1, 1)
    reference = copy.deepcopy(net)
    again = other(reference.parameters())
    again.load_state_dict(saved(theirs))
    for model, o in ((net, ours), (reference, again)):
        gradients(model, 3)
        o.step()
    # geoopt's bias correction is in float32 once its state has been loaded
    torch.testing.assert_close(net.weight.data, reference.weight.data, atol=1e-6, rtol=0)
    torch.testing.assert_close(net.bias.data, reference.bias.data, atol=1e-6, rtol=0)


@pytest.mark.parametrize("other", [torch.optim.Adam, lambda p: torch.optim.AdamW(p, weight_decay=0.0)])
def test_adam_goes_on_from_torch_where_moments_are_per_entry(other):
    net, theirs = trained(other, FrobeniusBall(3.0))
    ours = RiemannianAdam(net.parameters())
    ours.load_state_dict(saved(theirs))
    reference = copy.deepcopy(net)
    again = other(reference.parameters())
    again.load_state_dict(saved(theirs))
    for model, o in ((net, ours), (reference, again)):
        gradients(model, 3)
        o.step()
    torch.testing.assert_close(net.weight.data, reference.weight.data, atol=1e-9, rtol=0)
    assert torch.equal(net.bias, reference.bias)


REFUSED = {
    "one number an entry": (torch.optim.Adam, RiemannianAdam, "one number an entry"),
    "amsgrad": (lambda p: torch.optim.Adam(p, amsgrad=True), RiemannianAdam, "one number an entry"),
    "penalty": (lambda p: torch.optim.Adam(p, weight_decay=0.1), RiemannianAdam, "decoupled_weight_decay"),
    "AdamW": (torch.optim.AdamW, RiemannianAdam, "one number an entry"),
    "RMSprop": (torch.optim.RMSprop, RiemannianAdam, "no 'betas'"),
    "SGD": (torch.optim.SGD, RiemannianAdam, "no 'betas', 'eps'; leave out load_state_dict"),
    "Adam": (torch.optim.Adam, RiemannianSGD, "no 'momentum'"),
    "ours": (RiemannianAdam, RiemannianSGD, "no 'momentum'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_here_is_refused_and_nothing_changes(name):
    other, kind, message = REFUSED[name]
    net, theirs = trained(other)
    ours = kind(net.parameters(), lr=0.5)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(UserError, match=message):
        ours.load_state_dict(saved(theirs))
    assert ours.state_dict() == before
    gradients(net, 3)
    ours.step()


def test_weight_decay_that_reaches_nothing_is_refused():
    net, theirs = trained(lambda p: torch.optim.SGD([next(p)], lr=0.1, weight_decay=0.1))
    ours = RiemannianSGD([net.weight], lr=0.1)
    with pytest.raises(UserError, match="weight_decay=0.1 on .*a group of their own"):
        ours.load_state_dict(saved(theirs))


def test_parameters_in_another_order_are_refused():
    net, theirs = trained(lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9))
    ours = RiemannianSGD(list(net.parameters())[::-1], lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match=r"'momentum_buffer' has shape \(5,\), its parameter \(9, 4\)"):
        ours.load_state_dict(saved(theirs))
    with pytest.raises(ValueError, match="size"):
        RiemannianSGD([net.weight], lr=0.1).load_state_dict(saved(theirs))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9, max_norm=2.0, stabilize=4),
        lambda p: RiemannianAdam(p, lr=0.1, max_norm=2.0, stabilize=4),
    ],
)
def test_optimizers_are_copied_with_their_parameters(again, make):
    _, o = trained(make)
    twin = again(o)
    twin.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert (twin.param_groups[1]["max_norm"], twin.param_groups[1]["stabilize"]) == (2.0, 4)
    twin.param_groups.pop()
    ends = []
    for optimizer in (o, twin):
        weight, bias = optimizer.param_groups[0]["params"]
        net = nn.Module()
        net.weight, net.bias = weight, bias
        gradients(net, 7)
        optimizer.step()
        ends.append(weight.data.clone())
    assert torch.equal(*ends)


def test_torch_goes_on_from_ours_on_plain_parameters():
    for ours, theirs in ((RiemannianSGD, torch.optim.SGD), (RiemannianAdam, torch.optim.AdamW)):
        p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
        a, b = ours([p], lr=0.1), theirs([q], lr=0.1)
        for seed in range(4):
            p.grad = torch.randn(3, generator=torch.Generator().manual_seed(seed))
            a.step()
            if seed == 2:
                q.data.copy_(p.data)
                b.load_state_dict(saved(a))
        q.grad = p.grad.clone()
        b.step()
        assert torch.equal(p, q)
