"""``model=head``: one layer W (d, z), from training to everything that opens the run."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold import load_run
from sslmanifold.commands.export import export_run
from sslmanifold.config.compose import composed, plain
from sslmanifold.errors import UserError
from sslmanifold.models import LinearMap
from sslmanifold.probes.finetune import FineTune
from sslmanifold.probes.finetune_fit import fine_tune
from sslmanifold.probes.labelled import labelled
from sslmanifold.runs import Run
from sslmanifold.training.dynamics import solve_dynamics


@pytest.fixture(scope="module")
def default_run(train: Callable[..., Run]) -> Run:
    return train("model=head", callbacks="[spectrum,ode,optimum,figures]")


def test_the_default_run_keeps_its_promises(default_run: Run) -> None:
    summary = default_run.summary
    assert summary["status"] == "completed"
    assert (summary["model"], summary["ode/flow"]) == ("head", "orthogonal head")
    assert "hidden" not in summary
    assert abs(summary["train/optimality_gap"]) < 1e-5
    assert summary["ode/deviation_max"] < 0.05
    assert summary["constraint/residual"] < 1e-5
    # the step of the flow at which the gap is closed, and that of training
    assert summary["predicted/steps_to_tolerance"] == pytest.approx(summary["seen/steps_to_tolerance"], abs=3)
    figures = {path.name for path in (default_run.path / "figures").glob("*.png")}
    assert figures == {"loss.png", "effective_rank.png", "embedding.png", "singular_values.png"}


def test_the_saved_head_is_one_orthonormal_matrix(default_run: Run) -> None:
    """Against NumPy: L* is the sum of the two lowest eigenvalues, and W spans their eigenvectors."""
    model = load_run(default_run.path).model
    (w,) = (weight.detach().double().numpy()[0] for weight in model.weights)
    assert w.shape == (64, 2)
    np.testing.assert_allclose(w.T @ w, np.eye(2), atol=1e-6)
    from sslmanifold.data import Digits

    x = Digits().load(0).train_x
    np.testing.assert_allclose(default_run.embed(x).numpy(), x.numpy() @ w, rtol=0, atol=1e-4)
    eigvals = default_run.trajectory["eigvals"]
    assert default_run.summary["train/optimum"] == pytest.approx(np.sort(eigvals)[:2].sum())


def test_rows_of_the_trajectory_are_the_maps_of_their_time(train: Callable[..., Run]) -> None:
    """The map of a head is its weight, and what was measured does not move with it."""
    run = train(
        "model=head", "trainer.max_steps=8", "trainer.log_every_n_steps=2", "trainer.precision=64-true",
    )  # fmt: skip
    losses = run.metrics["train/loss"]
    assert len(losses) == len(set(losses)) == 5
    values = run.trajectory["singular_values"][:, 0]
    assert all(np.abs(a - b).max() > 0 for a, b in pairwise(values))


@pytest.mark.parametrize(
    ("constraint", "flow", "largest"),
    [
        ("frobenius", "frobenius head", 0.1),
        ("operator_norm", "operator norm head", 0.1),
        ("product", "operator norm head", 0.1),
        ("scaled", "scaled head", 0.1),
        ("orthogonal constraint.metric=euclidean", "orthogonal head", 0.05),
    ],
)
def test_every_constraint_reaches_its_optimum_beside_its_flow(
    train: Callable[..., Run], constraint: str, flow: str, largest: float
) -> None:
    summary = train("model=head", *f"constraint={constraint}".split(), "trainer.max_steps=400").summary
    assert summary["status"] == "completed"
    assert summary["ode/flow"] == flow
    assert abs(summary["train/optimality_gap"]) < 1e-3
    assert 0 < summary["ode/deviation_max"] < largest


def test_a_free_head_grows_along_its_flow(train: Callable[..., Run]) -> None:
    options = ("model=head", "constraint=none", "data=half_moons", "trainer.precision=64-true")
    runs = [
        train(*options, f"optimizer.lr={lr}", f"trainer.max_steps={steps}")
        for lr, steps in ((4e-5, 100), (2e-5, 200))
    ]
    coarse, fine = (run.summary["ode/deviation_max"] for run in runs)
    assert 1.9 < coarse / fine < 2.1
    assert "ode/blow_up_time" not in runs[0].summary


@pytest.mark.parametrize("loss", ["infonce", "vicreg", "barlow", "spectral", "lejepa"])
def test_every_loss_has_its_flow(train: Callable[..., Run], loss: str) -> None:
    run = train("model=head", "data=gaussian", f"loss={loss}", "trainer.max_steps=60")
    assert run.summary["ode/flow"] == "orthogonal head"
    assert run.summary["ode/deviation_max"] < 0.1


def test_replicas_are_independent_runs(train: Callable[..., Run]) -> None:
    options = ("model=head", "data=gaussian", "trainer.max_steps=30", "trainer.precision=64-true")
    single, several = train(*options), train(*options, "replicas=3")
    torch.testing.assert_close(several.model.weights[0][:1], single.model.weights[0], rtol=0, atol=1e-13)
    assert several.summary["train/loss_r0"] == pytest.approx(single.summary["train/loss"], rel=1e-10)
    dim = several.summary["dim"]
    assert several.embed(np.zeros((4, dim))).shape == (3, 4, 2)


def test_it_is_solved_probed_fine_tuned_and_exported(
    default_run: Run, compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    solved = solve_dynamics(plain(composed("dynamics", ["model=head"])), tmp_path / "solved")
    assert solved.summary["ode/method"] == "closed_form"
    assert isinstance(load_run(solved.path).model, LinearMap)
    assert abs(solved.summary["train/optimality_gap"]) < 1e-6
    x = labelled(default_run)
    mine, exact = (run.embed(x.test_x.numpy()).double() for run in (default_run, solved))
    assert float((mine - exact).norm() / exact.norm()) < 1e-3

    options = FineTune(fractions=[1.0], epochs=3)
    fit, records = fine_tune(options, default_run.model, x, tmp_path / "tuned", validation=0.2, seed=0)
    assert records[0]["constraint/residual"] < 1e-5
    assert (fit.predicted == x.test_y).mean() > 0.4

    for run in (default_run, solved):
        export_run(compose_config(f"run='{run.path}'", config="export"))
        with np.load(run.path / "export" / "embedding.npz") as stored:
            assert sorted(stored) == ["activation", "map"]
            assert stored["map"].shape == (64, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data=half_moons", "model.embedding=5"), r"needs d ≥ z, got d=2, z=5: set model.embedding=2, or"),
        (("model.hidden=9",), r"unknown key model.hidden"),
        (("constraint.w1=rows",), r"constraint.w1=rows .* a head has one.*: leave it out"),
        (("constraint=frobenius", "constraint.c2=3"), r"constraint.c2=3 .* set constraint.c1=3"),
        (("constraint=operator_norm", "constraint.c2=3"), r"constraint.c2=3 .* set constraint.c1=3"),
    ],
)
def test_what_a_head_has_not_is_refused_in_one_line(
    tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    from sslmanifold import train as train_command

    with pytest.raises(UserError, match=words) as raised:
        train_command("model=head", *overrides, run_dir=tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_square_head_says_that_nothing_moves(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("model=head", "data=half_moons", "trainer.max_steps=10")
    said = [line for line in capsys.readouterr().err.splitlines() if "never moves" in line]
    assert len(said) == 1
    assert "set model.embedding=1, or constraint.metric=euclidean" in said[0]
    assert math.isclose(run.metrics["train/loss"][0], run.metrics["train/loss"][-1], rel_tol=1e-6)
    train("model=head", "data=half_moons", "trainer.max_steps=3", "constraint.metric=euclidean")
    assert "never moves" not in capsys.readouterr().err
