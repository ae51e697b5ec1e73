"""Conversions keep a weight on its manifold, and what is written to it between two steps is looked at."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
    project_,
    residual,
)
from sslmanifold.geometry._geoopt import geoopt

OPTIMIZERS = [
    lambda p: RiemannianSGD(p, lr=0.1),
    lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    lambda p: RiemannianAdam(p, lr=0.1, amsgrad=True),
]


class Net(nn.Module):
    def __init__(self, manifold=None, seed=0, dtype=torch.float32):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        x = haar(40, 12, generator=g, dtype=dtype)
        self.weight = ManifoldParameter(x, manifold or Stiefel("canonical"), project=True)
        self.bias = nn.Parameter(torch.zeros(3, dtype=dtype))


def gradients(net, seed=0):
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def deviation(net):
    return float(residual(net.weight, net.weight.manifold).max())


@pytest.fixture
def swapping():
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("manifold", [Stiefel(), FrobeniusBall(0.7), SpectralBall(0.7)], ids=repr)
def test_doubling_a_float32_weight_projects_it_once(manifold):
    net = Net(manifold)
    single = net.weight.data.clone()
    net.double()
    assert type(net.weight) is ManifoldParameter
    assert deviation(net) < 1e-14
    torch.testing.assert_close(net.weight.data, single.double(), atol=1e-6, rtol=0)
    again = net.weight.data.clone()
    net.double()
    assert torch.equal(net.weight.data, again)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_rounded_to_a_half_precision_and_back(half):
    net = Net().to(half).float()
    assert deviation(net) < 1e-6
    gradients(net)
    RiemannianSGD(net.parameters(), lr=0.1).step()


def test_a_float32_checkpoint_serves_a_float64_module():
    state = Net(seed=1).state_dict()
    for assign in (False, True):
        net = Net(dtype=torch.float64)
        net.load_state_dict({k: v.double() for k, v in state.items()} if assign else state, assign=assign)
        assert net.weight.dtype == torch.float64
        assert deviation(net) < 1e-14
    assert float(residual(ManifoldParameter(state["weight"].double(), Stiefel()), Stiefel())) < 1e-14
    net.weight = nn.Parameter(state["weight"].double())
    assert deviation(net) < 1e-14


def test_only_numbers_of_a_coarser_dtype_are_projected():
    x = haar(40, 12, dtype=torch.float64)
    with pytest.raises(UserError, match="allowed 1e-08 in float64"):
        ManifoldParameter(x + 1e-7 * torch.randn_like(x), Stiefel())
    with pytest.raises(UserError, match="allowed 1e-08 in float64"):
        ManifoldParameter((x.float() * 1.001).double(), Stiefel())
    with pytest.raises(UserError, match=r"residual 0\.061"):
        ManifoldParameter(torch.eye(5) * 0.96875, Stiefel())  # a bfloat16 number, but no rounding
    net = Net()
    net.weight.data.mul_(1.5)
    net.double()  # was off before: nothing is mended silently
    assert deviation(net) > 1
    gradients(net)
    with pytest.raises(UserError, match=r"project_\(module\)"):
        RiemannianSGD(net.parameters(), lr=0.1).step()


def test_geoopts_own_parameters_may_be_doubled_too():
    net = nn.Module()
    net.weight = geoopt.ManifoldParameter(haar(40, 12), manifold=geoopt.EuclideanStiefel())
    net.double()
    net.weight.grad = torch.zeros_like(net.weight)
    RiemannianSGD(net.parameters(), lr=0.1).step()
    assert deviation(net) < 1e-14


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_follows_the_weights_to_another_dtype(optimizer):
    net = Net()
    o = optimizer(net.parameters())
    for step in range(3):
        gradients(net, step)
        o.step()
    net.double()
    twin = copy.deepcopy(net)
    saved = [copy.deepcopy(o.state.get(p, {})) for p in net.parameters()]
    gradients(net, 3)
    o.step()
    for state in o.state.values():
        assert {v.dtype for k, v in state.items() if k != "step"} <= {torch.float64}
    assert deviation(net) < 1e-14
    # the same step from the same state, all of it in float64 from the start
    q = optimizer(twin.parameters())
    for p, state in zip(twin.parameters(), saved, strict=True):
        q.state[p] = {k: v if k == "step" else v.double() for k, v in state.items()}
    gradients(twin, 3)
    q.step()
    torch.testing.assert_close(net.weight.data, twin.weight.data, atol=1e-12, rtol=0)
    torch.testing.assert_close(net.bias.data, twin.bias.data, atol=1e-12, rtol=0)


CONVERSIONS = {
    "double": lambda n: n.double(),
    "bfloat16": lambda n: n.bfloat16(),
    "to the same": lambda n: n.to("cpu"),
    "float of float": lambda n: n.float(),
    "to_empty": lambda n: n.to_empty(device="cpu"),
    "share_memory": lambda n: n.share_memory(),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_type_and_manifold_stay_where_torch_swaps_parameters(name, swapping):
    net = Net()
    weight, manifold, before = net.weight, net.weight.manifold, net.weight.data.clone()
    gradients(net)
    CONVERSIONS[name](net)
    assert net.weight is weight
    assert type(weight) is ManifoldParameter
    assert weight.manifold is manifold
    assert weight.requires_grad
    assert type(net.bias) is nn.Parameter
    assert weight.grad.dtype == weight.dtype
    if name == "to_empty":
        return
    torch.testing.assert_close(weight.data, before.to(weight.dtype), atol=1e-6, rtol=0)
    RiemannianSGD([weight], lr=0.1).step()
    assert deviation(net) < (1e-14 if name == "double" else 1e-2)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert type(twin.weight) is ManifoldParameter


def test_meta_is_refused_where_torch_swaps_parameters(swapping):
    with pytest.raises(UserError, match="meta device"):
        Net().to("meta")


def in_place(p):
    with torch.no_grad():
        p.lerp_(haar(40, 12), 0.5)


EDITS = {
    "lerp_": in_place,
    "data": lambda p: setattr(p, "data", torch.ones(40, 12)),
    "loaded plainly": lambda p: torch.Tensor.copy_(
        p.requires_grad_(False), torch.ones(40, 12)
    ).requires_grad_(),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_between_two_steps_is_noticed_at_the_next(name, optimizer):
    net = Net()
    o = optimizer(net.parameters())
    for step in range(2):
        gradients(net, step)
        o.step()
    EDITS[name](net.weight)
    with pytest.raises(UserError, match=r"off its manifold .*project_\(module\)"):
        o.step()
    project_(net)
    o.step()
    assert deviation(net) < 1e-6


def test_edits_through_data_before_every_step_are_noticed_at_the_hundredth():
    net = Net()
    o = RiemannianSGD(net.parameters(), lr=0.1)
    gradients(net)
    for _ in range(99):
        o.step()
        net.weight.data.mul_(0.9)
    with pytest.raises(UserError, match=r"project_\(module\)"):
        o.step()


def test_a_plain_weight_between_steps_is_nobodys_business():
    free = ManifoldParameter(torch.ones(4, 3), geoopt.Euclidean(ndim=2))
    o = RiemannianSGD([free], lr=0.1)
    for _ in range(3):
        free.grad = torch.ones(4, 3)
        o.step()
        with torch.no_grad():
            free.mul_(7.0)


def test_teachers():
    student = Net()
    plain = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    teacher = ManifoldAveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    by_hand = copy.deepcopy(student)
    o = RiemannianSGD(student.parameters(), lr=0.5)
    for step in range(5):
        gradients(student, step)
        o.step()
        for model in (plain, teacher):
            model.update_parameters(student)
        with torch.no_grad():
            for t, s in zip(by_hand.parameters(), student.parameters(), strict=True):
                t.lerp_(s, 0.1 if step else 1.0)
        project_(by_hand)
    assert deviation(plain.module) > 1e-3
    assert deviation(teacher.module) < 1e-6
    torch.testing.assert_close(teacher.module.weight.data, by_hand.weight.data, atol=1e-5, rtol=0)
