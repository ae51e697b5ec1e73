"""The ODE beside minibatches, resampling and momentum."""

from collections.abc import Callable

import pytest

from sslmanifold.runs import Run

BASE = ("data=gaussian", "data.dim=5", "data.n=60", "loss.reduction=mean", "trainer.precision=64-true")


def run(train: Callable[..., Run], lr: float, *overrides: str, time: float = 0.4) -> Run:
    steps = f"trainer.max_steps={round(time / lr)}"
    return train(*BASE, f"optimizer.lr={lr}", steps, "trainer.log_every_n_steps=1000", *overrides)


@pytest.mark.parametrize(
    "batches", [("data.batch_size=10",), ("data.resample=step",), ("data.resample=epoch",)]
)
@pytest.mark.parametrize("constraint", ["orthogonal", "frobenius", "operator_norm"])
def test_following_the_batches_leaves_only_the_step_error(
    train: Callable[..., Run], batches: tuple[str, ...], constraint: str
) -> None:
    """Same noise, step by step: deviation O(lr), far below the scatter about the population's flow."""
    options = (*batches, f"constraint={constraint}")
    coarse = run(train, 0.01, *options).summary["ode/deviation_max"]
    fine = run(train, 0.0025, *options).summary["ode/deviation_max"]
    population = run(train, 0.0025, *options, "callbacks.ode.follow=population").summary["ode/deviation_max"]
    assert fine < 0.4 * coarse  # a quarter, but for the other batches that more steps see
    assert fine < 0.5 * population


def test_batches_are_followed_by_default(train: Callable[..., Run]) -> None:
    summary = run(train, 0.02, "data.batch_size=10").summary
    assert summary["ode/meaning"] == "the flow follows the realised batches"
    asked = run(train, 0.02, "data.batch_size=10", "callbacks.ode.follow=batches").summary
    assert summary["ode/deviation_max"] == asked["ode/deviation_max"]
    population = run(train, 0.02, "data.batch_size=10", "callbacks.ode.follow=population").summary
    assert population["ode/meaning"].startswith("approximate: the noise")
    assert population["ode/deviation_max"] != asked["ode/deviation_max"]


@pytest.mark.parametrize("nesterov", ["false", "true"])
def test_momentum_runs_on_effective_time(train: Callable[..., Run], nesterov: str) -> None:
    """μ = 0.8: each step counts lr (1 − μᵏ)/(1 − μ), and the deviation vanishes with lr."""
    options = ("optimizer.momentum=0.8", f"optimizer.nesterov={nesterov}")
    runs = [run(train, lr, *options, time=0.08) for lr in (0.002, 0.001)]
    coarse, fine = (r.summary["ode/deviation_max"] for r in runs)
    assert runs[1].summary["ode/time"] == pytest.approx(0.08 * 5, rel=0.1)
    assert "effective time" in runs[1].summary["ode/meaning"]
    assert fine < 0.6 * coarse
    plain = run(train, 0.001, time=0.4).summary["ode/deviation_max"]
    assert (
        fine < 2 * plain / (1 - 0.8) ** 2
    )  # the inertia of the buffer: O(lr/(1 − μ)²), measured 1.5 times that
