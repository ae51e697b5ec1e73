"""sslmanifold dynamics: what training would do, solved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslmanifold import load_run
from sslmanifold.errors import UserError
from sslmanifold.runs import Run


@pytest.fixture(scope="module")
def solve(
    compose_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    from sslmanifold.training.dynamics import solve_dynamics

    def run(*overrides: str, folder: Path | None = None) -> Run:
        config = compose_config("callbacks=[]", *overrides, config="dynamics")
        return solve_dynamics(config, folder or tmp_path_factory.mktemp("dynamics"))

    return run


@pytest.mark.parametrize("constraint", ["frobenius", "operator_norm", "scaled", "orthogonal", "product"])
def test_it_ends_where_training_ends(
    solve: Callable[..., Run], train: Callable[..., Run], constraint: str
) -> None:
    """The same overrides, the same initial weights, the same time: the same embedding to first order in lr."""
    options = ("data=half_moons", f"constraint={constraint}", "trainer.max_steps=400")
    solved, trained = solve(*options), train(*options, "trainer.precision=64-true", callbacks="[]")
    assert solved.summary["ode/time"] == pytest.approx(trained.summary["optimizer/lr"] * 400)
    points = np.random.default_rng(0).normal(size=(20, 2))
    ours, theirs = (np.asarray(run.embed(points)) for run in (solved, trained))
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)
    assert solved.summary["train/loss"] == pytest.approx(solved.summary["train/optimum"], rel=1e-4)


def test_the_start_is_trainings_start(solve: Callable[..., Run], train: Callable[..., Run]) -> None:
    options = ("data=half_moons", "trainer.max_steps=10", "trainer.precision=64-true")
    solved, trained = solve(*options), train(*options)
    assert solved.metrics["train/loss"][0] == pytest.approx(trained.metrics["train/loss"][0], rel=1e-12)
    assert solved.metrics["ode/time"][-1] == pytest.approx(trained.metrics["ode/time"][-1], rel=1e-12)


def test_the_unconstrained_flow_blows_up(solve: Callable[..., Run]) -> None:
    summary = solve("data=half_moons", "constraint=none").summary
    assert summary["status"] == "diverged"
    assert 0 < summary["ode/blow_up_time"] < 0.01
    assert summary["rank/effective"] < 1.3


def test_conjecture_2_on_digits(solve: Callable[..., Run]) -> None:
    run = solve("time=0.5", "points=51", "model.embedding=3")
    assert run.summary["ode/limit_distance"] < 1e-6
    assert run.summary["train/optimality_gap"] < 1e-8
    assert run.trajectory["ode_m"].shape == (51, 1, 64, 3)
    assert load_run(run.path).embed(np.zeros((2, 64))).shape == (2, 3)


def test_replicas_and_deep_networks(solve: Callable[..., Run]) -> None:
    run = solve("data=half_moons", "replicas=3", "model=deep_linear", "constraint.metric=canonical")
    assert run.embed(np.zeros((4, 2))).shape == (3, 4, 2)
    assert run.summary["train/optimality_gap"] < 1e-6


def test_what_cannot_be_solved_is_said(solve: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="set model.activation=linear"):
        solve("data=half_moons", "model.activation=tanh")
    with pytest.raises(UserError, match="time=-1"):
        solve("data=half_moons", "time=-1")
    with pytest.raises(UserError, match="no exact flow for 3 layers"):
        solve("data=half_moons", "model=deep_linear", "constraint=frobenius")
    with pytest.raises(UserError, match="still under way after .* a shorter time"):
        solve("data=half_moons", "data.n=20", "loss=infonce", "time=1e9", "trainer.max_steps=5")


@pytest.mark.parametrize(
    "constraint", ["none", "frobenius", "operator_norm", "scaled", "orthogonal", "product"]
)
@pytest.mark.parametrize("loss", ["infonce", "ntxent"])
def test_a_loss_without_c_is_solved_too(
    solve: Callable[..., Run], train: Callable[..., Run], loss: str, constraint: str
) -> None:
    """The gap to training halves with the step, of one time."""
    options = (
        "data=half_moons",
        "data.n=60",
        f"loss={loss}",
        "loss.normalize=false",
        f"constraint={constraint}",
    )
    lr = 0.0002 if loss == "infonce" else 0.01
    maps = []
    for steps in (20, 40):
        line = (*options, f"optimizer.lr={lr * 20 / steps}", f"trainer.max_steps={steps}")
        solved = solve(*line, "points=5")
        trained = train(*line, "trainer.precision=64-true", callbacks="[]")
        assert solved.summary["ode/time"] == pytest.approx(20 * lr)
        m = solved.trajectory["ode_m"][-1, 0]
        w1, w2 = (np.asarray(weight[0]) for weight in trained.model.weights)
        maps.append(np.linalg.norm(w1.T @ w2 - m))
    assert 1.8 < maps[0] / maps[1] < 2.2


def test_its_time_is_that_of_training(solve: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    """Momentum counts its effective steps; Adam has no time, and a line says what stands in for it."""
    options = ("data=half_moons", "trainer.max_steps=100", "points=3")
    plain = solve(*options).summary["ode/time"]
    assert plain < 6 * plain < solve(*options, "optimizer.momentum=0.9").summary["ode/time"] < 10 * plain
    assert solve(*options, "optimizer=adam").summary["ode/time"] == pytest.approx(plain)
    assert "time=auto: the steps of RiemannianAdam have no time" in capsys.readouterr().err
