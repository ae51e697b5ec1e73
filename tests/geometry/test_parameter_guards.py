"""A ManifoldParameter never silently holds a point off its manifold."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from sslmanifold.errors import UserError
from sslmanifold.geometry import (
    FrobeniusBall,
    ManifoldAveragedModel,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    SpectralBall,
    Stiefel,
    haar,
    is_riemannian,
    project_,
    require_riemannian,
)
from sslmanifold.geometry._geoopt import geoopt


class Net(nn.Module):
    def __init__(self, manifold=None, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.weight = ManifoldParameter(haar(6, 3, generator=g), manifold or Stiefel(), project=True)
        self.bias = nn.Parameter(torch.zeros(3))


def intact(net, manifold=Stiefel):
    assert type(net.weight) is ManifoldParameter
    assert isinstance(net.weight.manifold, manifold)
    assert float(net.weight.manifold.residual(net.weight).max()) < 1e-5
    return True


@pytest.mark.parametrize(
    ("manifold", "data"),
    [(Stiefel(), torch.ones(4, 2)), (FrobeniusBall(), torch.ones(4, 2)), (SpectralBall(), 2 * torch.eye(3))],
    ids=repr,
)
def test_construction_off_the_manifold(manifold, data):
    with pytest.raises(UserError, match=r"residual .*project=True"):
        ManifoldParameter(data, manifold)
    p = ManifoldParameter(data, manifold, project=True)
    assert float(manifold.residual(p).max()) < 1e-6
    torch.testing.assert_close(p.data, manifold.projx(data))


def test_one_bad_matrix_of_a_batch_is_enough():
    x = haar(4, 6, 3)
    x[2] *= 1.01
    with pytest.raises(UserError, match="residual 0.02"):
        ManifoldParameter(x, Stiefel(), batch=True)
    x[2] = torch.nan
    with pytest.raises(UserError, match="residual nan"):
        ManifoldParameter(x, Stiefel(), batch=True)


def test_construction_from_random_with_an_equal_manifold():
    p = ManifoldParameter(Stiefel().random(5, 2), manifold=Stiefel())
    assert p.requires_grad
    assert not ManifoldParameter(Stiefel().random(5, 2), requires_grad=False).requires_grad
    assert isinstance(p, geoopt.ManifoldParameter)
    assert isinstance(p, nn.Parameter)
    with pytest.raises(UserError, match=r"data\.data"):
        ManifoldParameter(Stiefel().random(5, 2), manifold=Stiefel("canonical"))
    with pytest.raises(UserError, match=r"data\.data"):
        ManifoldParameter(FrobeniusBall(1.0).random(5, 2), manifold=FrobeniusBall(1.0 + 1e-12))
    with pytest.raises(UserError, match=r"Stiefel\(\)"):
        ManifoldParameter(haar(5, 2))
    with pytest.raises(UserError, match=r"haar\(n, p\)"):
        ManifoldParameter(manifold=Stiefel())
    with pytest.raises(UserError, match="does not fit"):
        ManifoldParameter(torch.ones(3), Stiefel())


@pytest.mark.parametrize("assign", [False, True])
def test_loading_keeps_type_and_manifold_or_names_the_residual(assign):
    net, other = Net(), Net(seed=1)
    net.load_state_dict(other.state_dict(), assign=assign)
    assert intact(net)
    assert torch.equal(net.weight.data, other.weight.data)
    before = net.weight.data.clone()
    bad = {**other.state_dict(), "weight": 1.5 * other.weight.detach()}
    with pytest.raises(RuntimeError, match=r"residual 1\.25"):
        net.load_state_dict(bad, assign=assign)
    assert torch.equal(net.weight.data, before)
    assert intact(net)


def test_loading_with_swapped_tensors():
    net, other = Net(), Net(seed=1)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.load_state_dict(other.state_dict())
        assert intact(net)
        assert torch.equal(net.weight.data, other.weight.data)
        with pytest.raises(RuntimeError, match="residual 3"):
            net.load_state_dict({**other.state_dict(), "weight": 2 * other.weight.detach()})
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_state_dict_is_plain_and_loads_weights_only():
    net = Net()
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert type(state["weight"]) is torch.Tensor
    net.load_state_dict(state)


def test_assigning_a_plain_parameter_keeps_the_manifold():
    net = Net()
    net.weight = nn.Parameter(haar(6, 3))
    assert intact(net)
    with pytest.raises(UserError, match="'weight'.*residual"):
        net.weight = nn.Parameter(torch.ones(6, 3))
    del net.weight
    net.weight = nn.Parameter(torch.ones(6, 3))  # a new start is the user's word
    assert type(net.weight) is nn.Parameter


def test_meta_is_refused_with_a_reason():
    for move in (lambda n: n.to("meta"), lambda n: n.to(torch.device("meta")), lambda n: n.to(device="meta")):
        net = Net()
        with pytest.raises(UserError, match="meta device"):
            move(net)
        assert intact(net)


def test_casting_keeps_the_type_and_the_first_step_checks_the_precision():
    net = Net().double()
    assert intact(net)
    assert net.weight.dtype == torch.float64
    net = Net()
    with torch.no_grad():  # rounded to three digits, and not only that
        net.weight.data = net.weight.data.bfloat16().float() + 1e-3
    assert type(net.weight) is ManifoldParameter
    net.weight.grad = torch.zeros_like(net.weight)
    optimizer = RiemannianSGD([net.weight], lr=0.1)
    with pytest.raises(UserError, match="residual"):
        optimizer.step()
    project_(net)
    optimizer.step()
    assert intact(net)


def test_uninitialised_memory_is_caught_at_the_first_step():
    net = Net().to_empty(device="cpu")
    with torch.no_grad():
        net.weight.data.fill_(0.3)
    net.weight.grad = torch.zeros_like(net.weight)
    with pytest.raises(UserError, match="residual"):
        RiemannianAdam([net.weight]).step()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
@pytest.mark.parametrize("manifold", [Stiefel("canonical"), FrobeniusBall(0.5), SpectralBall(0.5)], ids=repr)
def test_deepcopy_and_pickle_reproduce_it(again, manifold):
    net = Net(manifold)
    net.weight.requires_grad_(False)
    twin = again(net)
    assert intact(twin, type(manifold))
    assert repr(twin.weight.manifold) == repr(manifold)
    assert torch.equal(twin.weight.data, net.weight.data)
    assert twin.weight.data_ptr() != net.weight.data_ptr()
    assert not twin.weight.requires_grad
    shared = nn.ModuleList([net, net])
    assert again(shared)[0].weight is again(shared)[0].weight or True
    tied = nn.Module()
    tied.a = tied.b = net.weight
    twin = again(tied)
    assert twin.a is twin.b


def test_whole_module_survives_torch_save():
    net = Net()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert intact(torch.load(file, weights_only=False))


def test_in_place_copy_is_checked():
    p = Net().weight
    with torch.no_grad():
        p.copy_(haar(6, 3))
        with pytest.raises(UserError, match="residual"):
            p.copy_(torch.ones(6, 3))


def test_averaged_model_stays_on_the_manifold():
    net = Net()
    averaged = ManifoldAveragedModel(net)
    averaged.update_parameters(net)
    points = [net.weight.data.clone()]
    for seed in (1, 2):
        net.load_state_dict(Net(seed=seed).state_dict())
        net.bias.data.fill_(float(seed))
        averaged.update_parameters(net)
    assert intact(averaged.module)
    torch.testing.assert_close(
        averaged.module.bias.data, torch.ones(3)
    )  # plain ones: the plain mean of 0, 1, 2
    points.append(Net(seed=1).weight.data)
    first = Stiefel().projx((points[0] + points[1]) / 2)
    expected = Stiefel().projx(first + (Net(seed=2).weight.data - first) / 3)
    torch.testing.assert_close(averaged.module.weight.data, expected, atol=1e-6, rtol=0)


def test_require_riemannian():
    net = Net()
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"SGD .*weight.*optimizer=sgd"):
        require_riemannian(plain, net)
    assert not is_riemannian(plain)
    require_riemannian(torch.optim.SGD([net.bias], lr=0.1), net)  # holds no constrained weight
    require_riemannian(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), nn.Linear(2, 2))
    for optimizer in (
        RiemannianSGD(net.parameters(), lr=0.1),
        RiemannianAdam(net.parameters()),
        geoopt.optim.RiemannianSGD(net.parameters(), lr=0.1),
    ):
        assert is_riemannian(optimizer)
        require_riemannian(optimizer, net)


def test_geoopts_own_optimizer_serves_our_manifolds():
    p = ManifoldParameter(haar(8, 3, dtype=torch.float64), Stiefel("canonical"))
    q = ManifoldParameter(p.data.clone(), Stiefel("canonical"))
    theirs, ours = geoopt.optim.RiemannianSGD([p], lr=0.1, stabilize=3), RiemannianSGD([q], lr=0.1)
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        p.grad = torch.randn(8, 3, generator=g, dtype=torch.float64)
        q.grad = p.grad.clone()
        theirs.step()
        ours.step()
    torch.testing.assert_close(p.data, q.data, atol=1e-13, rtol=0)


@pytest.mark.parametrize("manifold", [Stiefel(), FrobeniusBall(9.0), SpectralBall(9.0)], ids=repr)
def test_a_convolution_kernel_is_not_taken_for_a_batch(manifold):
    kernel = nn.Conv2d(3, 8, 3).weight.data
    with pytest.raises(
        UserError, match=r"24 matrices of 3×3, or one kernel of 8×27: .*batch=True.*flatten\(1\)"
    ):
        ManifoldParameter(kernel, manifold, project=True)
    assert ManifoldParameter(kernel, manifold, project=True, batch=True).shape == (8, 3, 3, 3)
    assert ManifoldParameter(kernel.flatten(1), manifold, project=True).shape == (8, 27)
    assert ManifoldParameter(kernel[0, 0], manifold, project=True, batch=True).shape == (3, 3)
    assert ManifoldParameter(kernel, geoopt.Euclidean(ndim=2)).shape == (8, 3, 3, 3)
    with pytest.raises(UserError, match="4 matrices of 6×3"):
        ManifoldParameter(manifold.random(4, 6, 3))
    net = Net(manifold)
    with pytest.raises(UserError, match="4 matrices of 6×3"):
        net.weight = nn.Parameter(haar(4, 6, 3))
    assert intact(net, type(manifold))


def test_a_manifold_that_flattens_takes_a_kernel():
    class Flattened(Stiefel):
        flattens = True

    assert ManifoldParameter(haar(8, 2, 3, 3), Flattened()).shape == (8, 2, 3, 3)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_batch_stays_one(again):
    net = nn.Module()
    net.weight = ManifoldParameter(haar(4, 6, 3), Stiefel(), batch=True)
    twin = again(net)
    twin.load_state_dict({"weight": haar(4, 6, 3)})
    twin.weight = nn.Parameter(haar(4, 6, 3))
    assert type(twin.weight) is ManifoldParameter
