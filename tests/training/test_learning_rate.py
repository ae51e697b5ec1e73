"""optimizer.lr=auto: C's rule, the Hessian's beside an exact Hessian, Adam's one percent; all of them train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.geometry import Stiefel
from sslmanifold.runs import Run
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.learning_rate import adaptive_rate, curvature_rate, hessian_norm, moment_rate

LOSSES = ("contrastive", "noncontrastive", "infonce", "spectral")
CONSTRAINTS = ("none", "frobenius", "operator_norm", "scaled", "product", "orthogonal")


@pytest.fixture
def experiment(compose_config: Callable[..., dict[str, Any]]) -> Callable[..., Experiment]:
    return lambda *overrides: Experiment(compose_config("callbacks=[]", *overrides))


def test_the_norm_is_that_of_an_exact_hessian() -> None:
    """Free weights: the largest |eigenvalue| of torch's own dense Hessian, of an indefinite quartic."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64)

    def objective(weights: list[torch.Tensor]) -> torch.Tensor:
        return (weights[0].mT @ weights[1] - target).square().sum() - (
            a.mT @ a * (weights[0] @ weights[0].mT)
        ).sum()

    import geoopt

    weights = [torch.randn(4, p, generator=generator, dtype=torch.float64) for p in (4, 3)]
    flat = torch.cat([weight.flatten() for weight in weights])
    dense = torch.autograd.functional.hessian(
        lambda x: objective([x[:16].reshape(4, 4), x[16:].reshape(4, 3)]), flat
    )
    expected = float(torch.linalg.eigvalsh(dense).abs().max())
    found = hessian_norm(objective, weights, [geoopt.Euclidean(ndim=2)] * 2, iterations=200)
    assert found == pytest.approx(expected, rel=1e-3)
    rough = hessian_norm(objective, weights, [geoopt.Euclidean(ndim=2)] * 2)
    assert 0.8 * expected < rough <= expected * (1 + 1e-9)


@pytest.mark.parametrize("metric", ["euclidean", "grassmann"])
def test_on_a_manifold_the_norm_is_the_riemannian_hessians(metric: str) -> None:
    """f = Tr(XᵀA X) at its minimum on the Stiefel manifold: eigenvalues 2(λ_j − λ_i) across, 0 within the span."""
    eigvals = torch.tensor([-3.0, -2.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    x = torch.eye(5, 2, dtype=torch.float64)
    found = hessian_norm(
        lambda w: (w[0] * eigvals[:, None] * w[0]).sum(), [x], [Stiefel(metric)], iterations=200
    )
    assert found == pytest.approx(2 * (4 + 3), rel=1e-3)


def test_a_square_layer_without_a_gradient_is_left_out() -> None:
    """κ = 0 and W square: nothing is horizontal."""
    w = torch.eye(3, dtype=torch.float64)
    assert hessian_norm(lambda weights: weights[0].sum().square(), [w], [Stiefel()]) == 0


def test_where_nothing_can_move_there_is_a_rate_all_the_same(experiment: Callable[..., Experiment]) -> None:
    assert experiment("data=half_moons", "loss=infonce", "constraint.w1=rows").learning_rate > 0


@pytest.mark.parametrize(("data", "reduction"), [("half_moons", "sum"), ("digits", "mean")])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_hessians_rule_agrees_with_cs(
    experiment: Callable[..., Experiment], data: str, reduction: str, constraint: str
) -> None:
    """A loss that has both: 1/(5‖H‖₂) beside 1/(20‖Λ‖₂), in batches and whole, 1,024 anchors standing for all."""
    for batches in ((), ("data.batch_size=40",)):
        one = experiment(f"data={data}", f"constraint={constraint}", f"loss.reduction={reduction}", *batches)
        assert one.moment is not None
        by_moment = moment_rate(one.moment, one.constraint).value
        assert one.learning_rate == by_moment
        assert 0.8 * by_moment < curvature_rate(one.module, one.datamodule).value < 1.6 * by_moment


def test_replicas_do_not_change_the_rate(experiment: Callable[..., Experiment]) -> None:
    rates = [experiment("loss=infonce", f"replicas={n}").learning_rate for n in (1, 3)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


@pytest.mark.parametrize("constraint", ["none", "orthogonal", "frobenius"])
def test_adam_moves_no_weight_by_more_than_a_percent(
    experiment: Callable[..., Experiment], constraint: str
) -> None:
    one = experiment(
        f"constraint={constraint}", "optimizer=adam", "optimizer.lr=auto", "trainer.precision=64-true"
    )
    assert one.learning_rate == adaptive_rate(one.module).value
    weights = list(one.module.network.weights)
    before = [weight.detach().clone() for weight in weights]
    optimizer = one.module.build_optimizer(weights)
    assert optimizer.param_groups[0]["lr"] == one.learning_rate
    batch = one.datamodule.triplets.full(0, torch.float64)
    one.module.sample_objective(weights, batch).sum().backward()
    optimizer.step()
    moved = [
        float((after - start).norm() / start.norm())
        for after, start in zip((w.detach() for w in weights), before, strict=True)
    ]
    assert max(moved) == pytest.approx(0.01, rel=0.05)


def test_the_rule_is_in_the_summary_and_printed(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("data=half_moons", "trainer.max_steps=3")
    assert train(*options).summary["optimizer/lr_rule"].startswith("1/(20 ‖Λ‖₂")
    assert "lr=auto" not in capsys.readouterr().err
    for override, rule in (("loss=infonce", "1/(5 ‖H‖₂"), ("optimizer=adam", "Adam's steps")):
        summary = train(*options, override, "optimizer.lr=auto").summary
        assert summary["optimizer/lr_rule"].startswith(rule)
        assert capsys.readouterr().err.count(f"optimizer.lr=auto: {summary['optimizer/lr']:.3g}; {rule}") == 1
    assert "optimizer/lr_rule" not in train(*options, "optimizer.lr=0.001").summary


def test_a_flat_objective_has_no_rate(experiment: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"set optimizer\.lr=0\.01"):
        experiment("data=gaussian", "data.spectrum=[0.0,0.0]", "data.positive_variance=0", "loss=infonce")


def descent(train: Callable[..., Run], data: str, loss: str, constraint: str, optimizer: str) -> None:
    run = train(
        f"data={data}", f"loss={loss}", f"constraint={constraint}", f"optimizer={optimizer}", "optimizer.lr=auto",
        "trainer.max_steps=200", "trainer.log_every_n_steps=50", callbacks="[]",
    )  # fmt: skip
    values = run.metrics["train/loss"]
    assert values[-1] < values[0] - 0.2 * abs(values[0])
    assert run.summary["status"] == ("diverged" if _blows_up(loss, constraint, optimizer) else "completed")


def _blows_up(loss: str, constraint: str, optimizer: str) -> bool:
    """Free weights under a loss without a minimum leave every bound (Proposition 1), Adam's at its own pace."""
    return constraint == "none" and optimizer == "sgd" and loss in ("contrastive", "noncontrastive")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("loss", "constraint"),
    [
        *(("infonce", c) for c in ("orthogonal", "scaled")),
        *(("spectral", c) for c in ("none", "frobenius")),
        ("contrastive", "product"),
        ("noncontrastive", "operator_norm"),
    ],
)
def test_it_lowers_the_loss(train: Callable[..., Run], loss: str, constraint: str, optimizer: str) -> None:
    descent(train, "half_moons", loss, constraint, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("data", ["half_moons", "digits"])
def test_it_lowers_every_loss(
    train: Callable[..., Run], data: str, loss: str, constraint: str, optimizer: str
) -> None:
    descent(train, data, loss, constraint, optimizer)
