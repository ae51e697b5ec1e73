"""One line that constrains anybody's module: which weights, what becomes of them, what is refused."""

import copy
import io
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import sslmanifold
from sslmanifold import constrain, describe, release
from sslmanifold.constraints import Constraint, Orthogonal, make_constraint
from sslmanifold.constraints.selection import select
from sslmanifold.errors import UserError
from sslmanifold.geometry import (
    Flattened,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    Stiefel,
    residual,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6, bias=False)
        self.decode = nn.Linear(6, 11)
        self.decode.weight = self.embed.weight


class Model(nn.Module):
    """A bit of everything: convolutions (grouped, on a line), attention, recurrence, a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.line = nn.Conv1d(4, 12, 5, groups=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=5, vdim=3)
        self.memory = nn.LSTM(8, 6)
        self.projector = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.bare = nn.Parameter(torch.randn(5, 7))
        self.tokens = nn.Parameter(torch.randn(1, 3, 8))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def matrices(weight: torch.Tensor, blocks: int = 1) -> torch.Tensor:
    return weight.detach().reshape(blocks, weight.shape[0] // blocks, -1)


def is_orthonormal(m: torch.Tensor) -> bool:
    m = m if m.shape[-2] >= m.shape[-1] else m.mT
    return bool(((m.mT @ m - torch.eye(m.shape[-1])).abs() < 1e-5).all())


def test_each_kind_of_layer_is_its_own_matrix(model: Model) -> None:
    blocks = {
        "stem.0.weight": 1, "depthwise.weight": 8, "line.weight": 2, "attention.in_proj_weight": 3,
        "attention.out_proj.weight": 1, "cross.q_proj_weight": 1, "cross.k_proj_weight": 1, "cross.v_proj_weight": 1,
        "cross.out_proj.weight": 1, "memory.weight_ih_l0": 4, "memory.weight_hh_l0": 4, "projector.0.weight": 1,
        "projector.2.weight": 1,
    }  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert constrain(model, "orthogonal") is model
    for name, p in model.named_parameters():
        assert isinstance(p, ManifoldParameter) == (name in blocks), name
        if name in blocks:
            m, was = matrices(p, blocks[name]), matrices(before[name], blocks[name])
            assert is_orthonormal(m), name
            u, _, vh = torch.linalg.svd(was.double(), full_matrices=False)
            torch.testing.assert_close(m.double(), u @ vh, rtol=0, atol=1e-5, msg=name)  # the nearest
        else:
            assert torch.equal(p, before[name]), name


def test_patterns_layers_and_parameters(model: Model) -> None:
    def names(weights: Any) -> list[str]:
        return [weight.name for weight in select(model, weights)]

    assert names("projector.*.weight") == ["projector.0.weight", "projector.2.weight"]
    assert names("projector.*") == names("projector.*.weight")  # vectors are passed over
    assert names("ba?e") == ["bare"]
    assert names(["*.2.weight", "bare"]) == ["bare", "projector.2.weight"]
    assert names(model.projector) == names([model.projector[0], model.projector[2]]) == names("projector.*")
    assert names([model.attention, "bare", model.bare]) == [
        "bare", "attention.in_proj_weight", "attention.out_proj.weight",
    ]  # fmt: skip
    assert names(model.bare) == ["bare"]


def test_a_pattern_without_a_match_names_the_near_ones(model: Model) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for weights, message in (
        ("projectr.*.weight", r"weights='projectr\.\*\.weight' matches no parameter: near are .*projector\.0\.weight"),
        ("projector", r'write weights="projector\.\*" for the weights in it \(projector\.0\.weight, projector\.2'),
        ("stem.1.*", r"stem\.1\.weight of shape \(8,\) is no matrix"),
        ("tokens", r"tokens of shape \(1, 3, 8\) is no matrix: weights of nn\.Linear"),
        (model.stem[2], "the ReLU among weights: it has no weights"),
        (nn.Linear(2, 2), "the Linear among weights is not in Model"),
        (nn.Parameter(torch.ones(2, 2)), r"shape \(2, 2\) among weights is not in Model"),
        ([], r'weights=\[\] names no weight: write weights=\["\*\.weight"\]'),
        ([3], r"weights=3 is no pattern, layer or parameter"),
        (["projector.*", "nothing"], "weights='nothing' matches no parameter"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            constrain(model, "orthogonal", weights=weights)
    with pytest.raises(UserError, match="ReLU has no linear, convolution, attention or recurrent layer"):
        constrain(nn.ReLU(), "orthogonal")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(isinstance(p, ManifoldParameter) for p in model.parameters())


def test_what_cannot_be_feasible_changes_nothing(model: Model) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        (
            "product",
            {},
            r'product is no constraint on a single weight: .*ConstrainedStep\("product", weights=',
        ),
        ("scaled", {}, "scaled is no constraint on a single weight"),
        ("spherical", {}, "unknown constraint 'spherical': choose one of frobenius"),
        ("orthogonal", {"w1": "rows"}, "w1=rows speaks of the first layer of a chain"),
        (
            "orthogonal",
            {"metric": "grassmann"},
            r"attention\.in_proj_weight: a square weight 8×8 never moves",
        ),
        ("orthogonal", {"metrik": "euclidean"}, "did you mean constraint.metric"),
        ("frobenius", {"c": 1.0, "c2": 2.0}, "has one radius, got c, c2: write c=1.0"),
        ("frobenius", {"c": -1.0}, "constraint.c1"),
        ("orthogonal", {"init": "zeros"}, 'write init="project" or init="haar"'),
    ]
    for name, options, message in cases:
        with pytest.raises(UserError, match=message):
            constrain(model, name, **options)
    with pytest.raises(UserError, match="is made already, so metric would be ignored"):
        constrain(model, make_constraint("orthogonal"), metric="euclidean")
    with torch.no_grad():
        model.projector[2].weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r'projector\.2\.weight holds NaN or infinity: write init="haar"'):
        constrain(model, "orthogonal")
    assert not any(isinstance(p, ManifoldParameter) for p in model.parameters())
    with pytest.raises(UserError, match="weight has no shape yet: run one batch"):
        constrain(nn.Sequential(nn.LazyLinear(3)), "orthogonal", weights="*weight")
    with pytest.raises(UserError, match=r"0\.weight is on the meta device"):
        constrain(nn.Sequential(nn.Linear(3, 3, device="meta")), "orthogonal")


def test_the_defaults_suit_a_weight_that_stands_alone(model: Model) -> None:
    constrain(model, "orthogonal", weights="projector.*")
    assert model.projector[0].weight.manifold.kappa == 1.0  # κ = 0 would leave out motion within the span
    constrain(model, "orthogonal", weights="projector.*", metric="canonical")
    assert model.projector[0].weight.manifold.kappa == 2.0
    constrain(model, Orthogonal(metric="grassmann"), weights="projector.0.weight")
    assert model.projector[0].weight.manifold.kappa == 0.0
    constrain(model, "operator_norm", weights="stem.*", c=0.3)
    norm = torch.linalg.matrix_norm(model.stem[0].weight.detach().flatten(1), 2)
    assert float(norm) == pytest.approx(0.3, rel=1e-5)
    constrain(model, "frobenius", weights="bare", c1=100.0)
    assert float(residual(model.bare, model.bare.manifold)) == 0


def test_a_draw_is_haar_and_repeats(model: Model) -> None:
    def drawn(seed: int) -> Model:
        generator = torch.Generator().manual_seed(seed)
        return constrain(copy.deepcopy(model), "orthogonal", init="haar", generator=generator)

    first, again, other = drawn(0), drawn(0), drawn(1)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if isinstance(a, ManifoldParameter):
            assert float(residual(a, a.manifold)) < 1e-5
            assert not torch.equal(a, c) or a.numel() == 1


def test_release_leaves_plain_parameters_of_equal_values(model: Model) -> None:
    kept = dict(model.named_parameters())
    constrain(model, "orthogonal")
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    release(model, "projector.*")
    assert type(model.projector[0].weight) is nn.Parameter
    assert type(model.stem[0].weight) is ManifoldParameter
    assert release(model) is model
    for name, p in model.named_parameters():
        assert type(p) is nn.Parameter
        assert p is kept[name]
        assert torch.equal(p, values[name])
        assert not hasattr(p, "manifold")
        assert not p._post_accumulate_grad_hooks
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # nothing watches it any more
    for _ in range(4):
        optimizer.zero_grad()
        model.projector(torch.randn(2, 8)).sum().backward()
        optimizer.step()


def test_none_releases(model: Model) -> None:
    constrain(model, "orthogonal")
    constrain(model, "none", weights="projector.*")
    assert type(model.projector[0].weight) is nn.Parameter
    assert type(model.stem[0].weight) is ManifoldParameter


def test_describe_says_which_side_is_orthonormal(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    rows = describe(model)
    assert rows == []
    assert "Model: no constrained weights" in capsys.readouterr().out
    constrain(model, "orthogonal", weights=["stem.*", "projector.*", model.attention])
    constrain(model, "operator_norm", weights="bare", c=2.0)
    rows = {row.name: row for row in describe(model)}
    text = capsys.readouterr().out
    assert rows["stem.0.weight"].manifold == "8×27, orthonormal rows, κ = 1"
    assert rows["stem.0.weight"].shape == (8, 3, 3, 3)
    assert rows["projector.0.weight"].manifold == "16×8, orthonormal columns, κ = 1"
    assert rows["attention.in_proj_weight"].manifold == "3 × 8×8, orthonormal rows and columns, κ = 1"
    assert "radius=2.0" in rows["bare"].manifold
    assert all(0 <= row.residual < 1e-6 for row in rows.values())
    for row in rows.values():
        assert row.name in text
        assert row.manifold in text


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "amsgrad"])
def test_an_optimizer_goes_on_through_constrain_and_release(model: Model, optimizer: str) -> None:
    """Built before, it steps the weights as what they are: free, on their manifolds, free again."""
    steps: Any = {
        "sgd": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
        "adam": lambda p: RiemannianAdam(p, lr=0.1),
        "amsgrad": lambda p: RiemannianAdam(p, lr=0.1, amsgrad=True),
    }[optimizer](model.parameters())

    goals = {id(p): torch.randn_like(p) for p in model.parameters()}

    def train() -> None:
        for _ in range(3):
            steps.zero_grad()
            sum((p * goals[id(p)]).sum() for p in model.parameters()).backward()
            before = [p.detach().clone() for p in chosen]
            steps.step()
            assert not any(torch.equal(was, p) for was, p in zip(before, chosen, strict=True))

    weights = ["projector.*", "attention.in*", "stem.*"]
    chosen = [weight.parameter for weight in select(model, weights)]
    train()
    constrain(model, "orthogonal", weights=weights)
    train()
    assert all(float(residual(p, p.manifold)) < 1e-5 for p in chosen)
    for p in chosen:
        average = steps.state[p]["momentum_buffer" if optimizer == "sgd" else "exp_avg"]
        assert p.manifold.check_vector_on_tangent(p.detach(), average, atol=1e-5)
        if optimizer != "sgd":
            second = steps.state[p]["exp_avg_sq"]
            assert second.shape == p.manifold.component_inner(p.detach(), average).shape
    release(model)
    train()
    assert all(torch.isfinite(p).all() for p in chosen)


def test_a_plain_optimizer_is_found(model: Model) -> None:
    """Built before or after: at the second gradient the weight is named."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    constrain(model, "orthogonal", weights="projector.*")
    model.projector(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    with pytest.raises(UserError, match=r"projector\.[02]\.weight has left its manifold .* RiemannianAdam\("):
        model.projector(torch.randn(4, 8)).square().sum().backward()


def test_shared_weights_go_on_being_shared() -> None:
    torch.manual_seed(0)
    model = Tied()
    constrain(model, "orthogonal", weights="*.weight")
    assert model.decode.weight is model.embed.weight
    assert [w.name for w in select(model, "*.weight")] == ["embed.weight", "body.weight"]
    assert [row.name for row in describe(model)] == ["embed.weight", "body.weight"]
    again = copy.deepcopy(model)
    assert again.decode.weight is again.embed.weight
    assert again.decode.weight is not model.decode.weight
    optimizer = RiemannianSGD(again.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        again.decode(again.body(again.embed(torch.arange(5)))).square().sum().backward()
        optimizer.step()
    assert again.decode.weight is again.embed.weight
    assert is_orthonormal(again.embed.weight.detach())
    assert not torch.equal(again.embed.weight, model.embed.weight)
    release(again, "decode.weight")
    assert type(again.embed.weight) is nn.Parameter


def test_a_twin_trades_state_dicts_strictly(model: Model) -> None:
    twin, x = copy.deepcopy(model).double(), torch.randn(6, 8, dtype=torch.float64)
    model = constrain(model.double(), "orthogonal")
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin.projector(x), model.projector(x))
    other = constrain(Model().double(), "orthogonal", init="haar")
    other.load_state_dict(twin.state_dict(), strict=True)
    assert torch.equal(other.projector(x), model.projector(x))
    assert isinstance(other.stem[0].weight, ManifoldParameter)
    with pytest.raises((UserError, RuntimeError), match="off its manifold"):
        other.load_state_dict(Model().double().state_dict())


def test_copies_and_saved_modules_are_constrained(model: Model) -> None:
    constrain(model, "orthogonal")
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
            assert type(a) is type(b), name
            assert torch.equal(a, b)
        assert isinstance(again.stem[0].weight.manifold, Flattened)


def test_frozen_weights_can_be_constrained(model: Model) -> None:
    model.requires_grad_(False)
    constrain(model, "orthogonal")
    assert not any(p.requires_grad for p in model.parameters())
    assert is_orthonormal(matrices(model.stem[0].weight))


def test_decay_reaches_the_free_weights_only(model: Model) -> None:
    constrain(model, "orthogonal", weights="projector.*")
    optimizer = RiemannianAdam(model.parameters(), lr=1e-2, weight_decay=0.5)
    twin = copy.deepcopy(model)
    plain = RiemannianAdam(twin.parameters(), lr=1e-2)
    for m, o in ((model, optimizer), (twin, plain)):
        (m.projector(torch.ones(3, 8)).square().sum() + (m.bare**2).sum()).backward()
        o.step()
    assert torch.equal(model.projector[0].weight, twin.projector[0].weight)
    assert float(residual(model.projector[0].weight, model.projector[0].weight.manifold)) < 1e-5
    assert float(model.bare.norm()) < float(twin.bare.norm())
    assert not torch.equal(model.projector[0].bias, twin.projector[0].bias)


def test_half_precision_weights(model: Model) -> None:
    constrain(model.bfloat16(), "orthogonal")
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert all(row.residual < 5e-2 for row in describe(model))


def test_a_constraint_of_ones_own() -> None:
    """A subclass with ``manifold`` alone serves chains and single weights."""
    from dataclasses import dataclass

    import geoopt

    from sslmanifold.constraints import NetworkShape

    @dataclass(kw_only=True)
    class UnitRowsHere(Constraint):
        name = "unit_rows_here"

        def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
            return geoopt.Sphere()

    assert len(make_constraint("unit_rows_here").manifolds(NetworkShape(3, 4, 2))) == 2
    layer = constrain(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 6)), "unit_rows_here")
    for p in (layer[0].weight, layer[1].weight):
        torch.testing.assert_close(p.detach().flatten(1).norm(dim=1), torch.ones(len(p)))
    optimizer = RiemannianSGD(layer.parameters(), lr=0.1)
    (layer[0](torch.randn(2, 3, 5, 5)).square().sum() + layer[1](torch.randn(2, 4)).square().sum()).backward()
    optimizer.step()
    for p in (layer[0].weight, layer[1].weight):
        torch.testing.assert_close(p.detach().flatten(1).norm(dim=1), torch.ones(len(p)))


def test_the_import_touches_nothing_in_torch() -> None:
    """``import sslmanifold`` and its public names on torch alone leave torch's hooks as they were."""
    code = (
        "import torch, torch.nn.modules.module as m, torch.optim.optimizer as o\n"
        "hooks = lambda: [len(v) for h in (m, o) for k, v in sorted(vars(h).items()) if k.startswith('_global')"
        " and hasattr(v, '__len__')]\n"
        "before = hooks()\n"
        "import sslmanifold\n"
        "assert hooks() == before, hooks()\n"
        "from sslmanifold import constrain, describe, release\n"
        "import sslmanifold.geometry\n"
        "assert hooks() == before, hooks()\n"
        "assert before, 'nothing was looked at'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"constrain", "release", "describe"} <= set(sslmanifold.__all__)
    assert Stiefel  # the geometry is imported by now
