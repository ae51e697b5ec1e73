"""Predicted against seen, and stopping at a certified optimum."""

from collections.abc import Callable

import pytest

from sslmanifold.errors import UserError
from sslmanifold.runs import Run

CALLBACKS = "[spectrum,optimum]"


@pytest.mark.parametrize("metric", ["grassmann", "canonical"])
def test_the_predicted_step_is_the_step_seen(train: Callable[..., Run], metric: str) -> None:
    options = (
        "data=half_moons",
        f"constraint.metric={metric}",
        "optimizer.lr=5e-5",
        "trainer.max_steps=2000",
    )
    summary = train(*options, callbacks=CALLBACKS).summary
    predicted, seen = summary["predicted/steps_to_tolerance"], summary["seen/steps_to_tolerance"]
    assert 50 < seen < 1500
    assert predicted == pytest.approx(seen, rel=0.05)
    assert summary["predicted/limit_rank"] == 2
    assert summary["predicted/largest_stable_step"] > summary["optimizer/lr"]


def test_a_schedule_is_part_of_the_prediction(train: Callable[..., Run]) -> None:
    options = ("data=half_moons", "optimizer.lr=1e-4", "scheduler=warmup", "scheduler.steps=100")
    summary = train(*options, callbacks=CALLBACKS).summary
    assert summary["predicted/steps_to_tolerance"] == pytest.approx(
        summary["seen/steps_to_tolerance"], rel=0.06
    )


@pytest.mark.parametrize("constraint", ["orthogonal", "frobenius", "operator_norm"])
def test_stopping_is_certified(train: Callable[..., Run], constraint: str) -> None:
    options = ("data=half_moons", f"constraint={constraint}", "callbacks.optimum.stop=true")
    run = train(*options, "callbacks.optimum.tolerance=1e-3", callbacks=CALLBACKS)
    assert run.summary["steps"] == run.summary["seen/steps_to_tolerance"] < 1000
    assert run.summary["status"] == "completed"
    assert "certified by L*" in run.summary["reason"]
    assert run.summary["train/optimality_gap"] <= 1e-3


def test_stopping_needs_an_optimum(train: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="callbacks.optimum.stop=false"):
        train("data=half_moons", "constraint=none", "callbacks.optimum.stop=true", callbacks=CALLBACKS)


def test_too_large_a_step_is_what_the_theory_calls_too_large(train: Callable[..., Run]) -> None:
    """Above the largest stable step training does not settle at L*; below it, it does."""
    options = ("data=half_moons", "trainer.max_steps=400", "trainer.precision=64-true")
    bound = train(*options, callbacks=CALLBACKS).summary["predicted/largest_stable_step"]
    below = train(*options, f"optimizer.lr={0.8 * bound}", callbacks=CALLBACKS).summary[
        "train/optimality_gap"
    ]
    above = train(*options, f"optimizer.lr={4 * bound}", callbacks=CALLBACKS).summary["train/optimality_gap"]
    assert below < 1e-10
    assert above > 1e-3
