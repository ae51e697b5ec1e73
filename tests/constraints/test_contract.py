"""Every constraint in conf/constraint keeps what a constraint promises."""

from typing import Any

import pytest
import torch

from sslmanifold.config.check import build_group
from sslmanifold.config.location import config_dir
from sslmanifold.constraints import Constraint, NetworkShape, available_constraints, make_constraint
from sslmanifold.constraints.step import after_step, take_step
from sslmanifold.errors import UserError
from sslmanifold.geometry import ManifoldParameter, RiemannianSGD
from sslmanifold.models import ConstrainedNetwork

NAMES = sorted(path.stem for path in (config_dir() / "constraint").glob("*.yaml"))
SHAPE = NetworkShape(dim=5, hidden=9, embedding=2)
HEAD = NetworkShape(dim=5, hidden=None, embedding=2, layers=1)
SHAPES = pytest.mark.parametrize("shape", [SHAPE, HEAD], ids=["two layers", "head"])
SPECTRUM = torch.tensor([-1.0, -0.6, -0.3, 0.2, 0.5], dtype=torch.float64)


def of_yaml(name: str, **options: Any) -> Constraint:
    from omegaconf import OmegaConf

    group = OmegaConf.to_container(OmegaConf.load(config_dir() / "constraint" / f"{name}.yaml"))
    return build_group(group | options, "constraint")  # type: ignore[operator]


def network(constraint: Constraint, shape: NetworkShape = SHAPE, seed: int = 0) -> ConstrainedNetwork:
    weights = constraint.initial(shape, [torch.Generator().manual_seed(seed)], torch.float64)
    return ConstrainedNetwork(shape, constraint, weights)


def loss(model: ConstrainedNetwork) -> torch.Tensor:
    m = model.map()
    return (m * (SPECTRUM[:, None] * m)).sum((-2, -1))


def trained(
    constraint: Constraint, lr: float, steps: int, shape: NetworkShape = SHAPE, seed: int = 0
) -> ConstrainedNetwork:
    model = network(constraint, shape, seed)
    optimizer = RiemannianSGD(list(model.weights), lr=lr)
    for _ in range(steps):
        take_step(constraint, list(model.weights), optimizer, lambda: loss(model))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_and_its_class_share_a_name(name: str) -> None:
    assert of_yaml(name).name == name
    assert name in available_constraints()
    assert isinstance(make_constraint(name), Constraint)


@pytest.mark.parametrize("name", NAMES)
def test_projection_is_idempotent_and_feasible(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for (rows, cols), manifold in zip(SHAPE.matrices, of_yaml(name).manifolds(SHAPE), strict=True):
        x = manifold.projx(2 * torch.randn(rows, cols, generator=generator, dtype=torch.float64))
        torch.testing.assert_close(manifold.projx(x), x, rtol=0, atol=1e-12)
        if hasattr(manifold, "residual"):
            assert float(manifold.residual(x)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_the_retraction_starts_along_the_tangent(name: str) -> None:
    """R(0) = x and R'(0) u = u at a point in the interior for balls; central differences, error O(t²)."""
    generator = torch.Generator().manual_seed(4)
    for (rows, cols), manifold in zip(SHAPE.matrices, of_yaml(name).manifolds(SHAPE), strict=True):
        x = manifold.projx(torch.randn(rows, cols, generator=generator, dtype=torch.float64))
        x = x if "Stiefel" in type(manifold).__name__ else 0.5 * x
        u = manifold.proju(x, torch.randn(rows, cols, generator=generator, dtype=torch.float64))
        torch.testing.assert_close(manifold.retr(x, torch.zeros_like(u)), x, rtol=0, atol=1e-12)
        errors = []
        for t in (1e-2, 5e-3):
            difference = (manifold.retr(x, t * u) - manifold.retr(x, -t * u)) / (2 * t)
            errors.append(float((difference - u).norm() / u.norm()))
        assert errors[1] < 1e-3
        assert errors[1] < 0.3 * errors[0] or errors[1] < 1e-10


@SHAPES
@pytest.mark.parametrize("name", NAMES)
def test_feasible_after_100_steps(name: str, shape: NetworkShape) -> None:
    constraint = of_yaml(name)
    model = trained(constraint, lr=0.02, steps=12 if name == "none" else 100, shape=shape)
    assert float(constraint.residual(list(model.weights))) < 1e-12


def gaps(
    constraint: Constraint, time: float, steps: tuple[int, ...], shape: NetworkShape = SHAPE
) -> list[float]:
    """‖m − m_flow‖_F at one time, for a training that takes ever more and smaller steps to it."""
    model = network(constraint, shape)
    flow = constraint.flow(torch.diag(SPECTRUM), shape)
    assert flow is not None
    state = flow.start(*(w.detach() for w in model.weights))
    for _ in range(steps[-1]):  # the flow's own error is second order: far below the training's
        state = flow.advance(state, time / steps[-1])
    return [
        float((trained(constraint, time / n, n, shape).map().detach() - state.m).norm()) for n in steps
    ]  # fmt: skip


@SHAPES
@pytest.mark.parametrize("name", NAMES)
def test_training_converges_to_its_own_flow_at_first_order(name: str, shape: NetworkShape) -> None:
    """The gap halves when the step halves: the acceptance test of theory and geometry together."""
    time = 0.2 if name == "none" else 0.5
    coarse, middle, fine = gaps(of_yaml(name), time, steps=(40, 80, 160), shape=shape)
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1


def test_a_wrong_pairing_does_not_converge() -> None:
    """Training at κ = 0 against the flow of κ = 1 keeps its gap however small the step."""
    model = network(of_yaml("orthogonal"))
    wrong = of_yaml("orthogonal", metric="euclidean").flow(torch.diag(SPECTRUM), SHAPE)
    assert wrong is not None
    state = wrong.start(*(w.detach() for w in model.weights))
    for _ in range(200):
        state = wrong.advance(state, 0.5 / 200)
    coarse, fine = (
        float((trained(of_yaml("orthogonal"), 0.5 / n, n).map() - state.m).norm()) for n in (80, 160)
    )
    assert coarse / fine < 1.2


@pytest.mark.parametrize("replicas", [1, 3])
def test_initial_weights_are_feasible_and_reproducible(replicas: int) -> None:
    for name in NAMES:
        constraint = of_yaml(name)
        draw = [
            constraint.initial(SHAPE, [torch.Generator().manual_seed(i) for i in range(replicas)])
            for _ in "ab"
        ]
        for first, second, manifold in zip(*draw, constraint.manifolds(SHAPE), strict=True):
            assert first.shape[0] == replicas
            assert torch.equal(first, second)
            ManifoldParameter(first, manifold=manifold, batch=True)


def test_infeasible_shapes_name_the_override() -> None:
    with pytest.raises(UserError, match=r"needs h ≥ d, got h=10, d=784: set model.hidden=784 or data.pca=10"):
        make_constraint("orthogonal").check(NetworkShape(784, 10, 2))
    with pytest.raises(UserError, match=r"needs h ≥ z, got h=2, z=3: set model.hidden="):
        make_constraint("orthogonal").check(NetworkShape(1, 2, 3))
    with pytest.raises(UserError, match="constraint.w1=columns"):
        make_constraint("orthogonal", w1="rows").check(NetworkShape(5, 9, 2))
    with pytest.raises(UserError, match="constraint.metric=grassmann"):
        make_constraint("orthogonal", w1="rows", metric="canonical")
    with pytest.raises(UserError, match="constraint.metric=euclidean"):
        make_constraint("orthogonal", retraction="project")
    with pytest.raises(UserError, match="choose one of"):
        make_constraint("spherical")


def test_rows_follow_their_flow_at_first_order() -> None:
    """constraint.w1=rows, h < d: q̇ = −2 (I − qqᵀ) Λ q."""
    shape = NetworkShape(dim=5, hidden=3, embedding=2)
    constraint = make_constraint("orthogonal", w1="rows")
    model = network(constraint, shape)
    flow = constraint.flow(torch.diag(SPECTRUM), shape)
    assert flow is not None
    state = flow.start(*(w.detach() for w in model.weights))
    for _ in range(800):
        state = flow.advance(state, 0.5 / 800)
    errors = [float((trained(constraint, 0.5 / n, n, shape).map() - state.m).norm()) for n in (40, 80, 160)]
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize("learning", [0, 1])
def test_a_bounded_product_takes_its_excess_from_what_learns(learning: int) -> None:
    constraint = make_constraint("product")
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(1, *size, generator=generator, dtype=torch.float64).requires_grad_(index == learning)
        for index, size in enumerate(SHAPE.matrices)
    ]
    before = [weight.detach().clone() for weight in weights]
    after_step(constraint, weights)
    singular = torch.linalg.svdvals(before[0].mT @ before[1])[0, :2]
    now = torch.linalg.svdvals((weights[0].mT @ weights[1]).detach())[0, :2]
    torch.testing.assert_close(now, singular.clamp(max=1.0))
    assert torch.equal(weights[1 - learning], before[1 - learning])
    frozen = [9 * weight.detach() for weight in weights]
    kept = [weight.clone() for weight in frozen]
    after_step(constraint, frozen)
    assert all(torch.equal(a, b) for a, b in zip(frozen, kept, strict=True))


def test_one_proximal_step_needs_one_learning_rate() -> None:
    constraint = make_constraint("scaled")
    model = network(constraint)
    first, second = model.weights
    optimizer = RiemannianSGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}])
    with pytest.raises(UserError, match=r"learning rates are 0\.1, 0\.2: put them into one group"):
        take_step(constraint, [first, second], optimizer, lambda: loss(model))


def test_every_constraint_has_its_yaml() -> None:
    """A constraint that a file of the package defines can be chosen on the command line."""
    here = {
        name for name, cls in available_constraints().items() if cls.__module__.startswith("sslmanifold.")
    }
    assert here == set(NAMES)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_product_bounds_the_map_of_any_depth(layers: int) -> None:
    """The cut map is U min(Σ, c) Vᵀ by an SVD of its own, and hidden layers are left alone."""
    shape, generator = NetworkShape(5, 9, 3, layers), torch.Generator().manual_seed(0)
    weights = [torch.randn(2, *matrix, generator=generator, dtype=torch.float64) for matrix in shape.matrices]
    before = [weight.clone() for weight in weights]

    def chain(parts: list[torch.Tensor]) -> torch.Tensor:
        m = parts[0].mT
        for weight in parts[1:-1]:
            m = m @ weight.mT
        return m @ parts[-1]

    u, sigma, vh = torch.linalg.svd(chain(weights), full_matrices=False)
    constraint = make_constraint("product", c=1.5)
    constraint.project_jointly(weights)
    torch.testing.assert_close(chain(weights), u * sigma.clamp(max=1.5).unsqueeze(-2) @ vh)
    assert all(torch.equal(a, b) for a, b in zip(weights[1:-1], before[1:-1], strict=True))
    assert float(constraint.residual(weights).amax()) < 1e-12
    assert float(constraint.residual(before).amin()) > 1
