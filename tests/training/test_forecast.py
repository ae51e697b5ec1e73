"""sslmanifold forecast: what the flows say beforehand, against training, against dynamics, and from run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.commands.forecast import forecast_run
from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.errors import UserError
from sslmanifold.geometry import haar
from sslmanifold.runs import Run
from sslmanifold.theory import blow_up_time
from sslmanifold.training.dynamics import solve_dynamics
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.flow_time import step_at, time_of_training
from sslmanifold.training.forecast import Forecast, Row
from sslmanifold.training.forecast_start import drawn_start, saved_start

MOONS = ("data=half_moons", "trainer.max_steps=100")


@pytest.fixture(scope="module")
def say(compose_config: Callable[..., dict[str, Any]]) -> Callable[..., Forecast]:
    def forecast(*overrides: str) -> Forecast:
        return forecast_run(compose_config(*overrides, config="forecast"))[0]

    return forecast


def row_of(found: Forecast, name: str) -> Row:
    (row,) = [row for row in found.rows if row.constraint == name]
    assert not row.reason
    return row


def test_each_row_is_what_dynamics_solves(
    say: Callable[..., Forecast], compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """From one seed every constraint starts where `dynamics` under it starts, and ends where that ends."""
    found = say(*MOONS, "replicas=2", "model.embedding=2")
    assert [row.constraint for row in found.rows] == [
        "none", "frobenius", "operator_norm", "scaled", "orthogonal", "product",
    ]  # fmt: skip
    for row in found.rows:
        config = compose_config(
            *MOONS, "replicas=2", f"constraint={row.constraint}", "callbacks=[]", config="dynamics"
        )
        summary = solve_dynamics(config, tmp_path / row.constraint).summary
        ours = row.to_dict()
        if row.constraint == "none":
            assert ours["ode/blow_up_time"] == pytest.approx(summary["ode/blow_up_time"], rel=1e-9)
            assert ours["train/loss"] is None
            continue
        for key in ("rank/effective", "train/loss", "train/optimum"):
            assert ours[key] == pytest.approx(summary[key], rel=1e-9), (row.constraint, key)
        assert ours["train/optimality_gap"] == pytest.approx(summary["train/optimality_gap"], abs=1e-9)
        assert found.time == pytest.approx(summary["ode/time"], rel=1e-12)


@pytest.mark.parametrize(
    ("constraint", "loss"),
    [
        ("orthogonal", "contrastive"),
        ("frobenius", "contrastive"),
        ("orthogonal", "infonce"),
        ("none", "infonce"),
    ],
)
def test_training_is_what_was_forecast_to_first_order(
    say: Callable[..., Forecast], train: Callable[..., Run], constraint: str, loss: str
) -> None:
    """At half the lr and twice the steps, half of the difference is left, in rank and in loss."""
    lr = 5e-5 if loss == "contrastive" else 2e-4
    off = []
    for halving in (0, 1):
        line = (
            "data=half_moons",
            f"constraint={constraint}",
            f"loss={loss}",
            f"optimizer.lr={lr / 2**halving}",
            f"trainer.max_steps={100 * 2**halving}",
        )
        row = row_of(say(*line, f"constraints=[{constraint}]"), constraint).to_dict()
        trained = train(*line, "trainer.precision=64-true", callbacks="[spectrum]").summary
        off.append([trained[key] - row[key] for key in ("rank/effective", "train/loss")])
    ratios = np.array(off[0]) / np.array(off[1])
    assert np.all((ratios > 1.8) & (ratios < 2.2)), ratios


def test_the_step_of_the_collapse_is_that_of_training(
    say: Callable[..., Forecast], train: Callable[..., Run]
) -> None:
    line = ("data=half_moons", "constraint=frobenius", "trainer.max_steps=100", "optimizer.lr=1e-4")
    row = row_of(say(*line), "frobenius")
    assert row.own
    assert row.collapse is not None
    trained = train(*line, "trainer.log_every_n_steps=1", "trainer.precision=64-true", callbacks="[spectrum]")
    seen = trained.summary["collapse/step"]
    assert row.collapse_step == pytest.approx(seen, abs=2)
    assert row.collapse == pytest.approx(1e-4 * seen, abs=2e-4)
    # not where the points in time happen to lie
    coarse = row_of(say(*line, "points=21", "constraints=[frobenius]"), "frobenius")
    assert coarse.collapse == pytest.approx(row.collapse, rel=1e-3)


def test_without_constraint_it_is_known_when_it_ends(say: Callable[..., Forecast]) -> None:
    found = say(*MOONS, "constraint=none", "constraints=[none]")
    row = row_of(found, "none")
    experiment_weights = row.start.weights  # type: ignore[union-attr]
    assert row.blow_up is not None
    assert row.collapse is not None
    assert row.collapse < row.blow_up
    from sslmanifold.config.compose import composed, plain

    experiment = Experiment(plain(composed("train", [*MOONS, "trainer.precision=64-true"])))
    assert experiment.moment is not None
    expected = blow_up_time(experiment.moment, experiment_weights[0], experiment_weights[1])
    assert row.blow_up == pytest.approx(expected, rel=1e-3)
    assert float(row.rank[-1, 0]) < 1.05  # Proposition 1, in the limit of the blow-up


# -- from a folder ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_way(train: Callable[..., Run]) -> Run:
    return train("data=half_moons", "trainer.max_steps=40", "optimizer.lr=1e-4", "trainer.precision=64-true")


def test_a_run_goes_on_as_forecast(
    half_way: Run, train: Callable[..., Run], say: Callable[..., Forecast]
) -> None:
    found, written = forecast_run(
        {"run": str(half_way.path), "start": "auto", "constraints": "all", "time": "auto", "points": 51}
    )
    assert found.steps == 40
    row = row_of(found, "orthogonal").to_dict()
    whole = train(
        "data=half_moons", "trainer.max_steps=80", "optimizer.lr=1e-4", "trainer.precision=64-true"
    ).summary
    begun = half_way.summary["rank/effective"]
    assert row["rank/initial"] == pytest.approx(begun, rel=1e-9)
    assert abs(whole["rank/effective"] - row["rank/effective"]) < 0.05 * abs(whole["rank/effective"] - begun)
    assert whole["train/loss"] == pytest.approx(row["train/loss"], rel=1e-2)
    assert written == half_way.path / "forecast.json"
    kept = json.loads(written.read_text(encoding="utf-8"))
    assert kept["constraints"] == found.to_dict()["constraints"]
    before = row_of(say("run=" + str(half_way.path), "start=initial", "out=null"), "orthogonal").to_dict()
    assert before["rank/effective"] == pytest.approx(begun, rel=2e-2)


def test_what_a_folder_cannot_be_forecast_from(
    half_way: Run, compose_config: Callable[..., dict[str, Any]], tmp_path: Path, say: Callable[..., Forecast]
) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        say(f"run={tmp_path}")
    with pytest.raises(UserError, match="start=last is a checkpoint of a run"):
        say("start=last")
    with pytest.raises(UserError, match="unknown constraint 'orthogonl'"):
        say(*MOONS, "constraints=[orthogonl]")
    solved = tmp_path / "solved"
    solve_dynamics(compose_config(*MOONS, "callbacks=[]", config="dynamics"), solved)
    with pytest.raises(UserError, match="was solved, not trained"):
        say(f"run={solved}")
    assert row_of(say(f"run={solved}", "start=initial", "out=null"), "orthogonal").own
    text = (half_way.path / "config.yaml").read_text(encoding="utf-8")
    forged = tmp_path / "forged"
    forged.mkdir()
    (forged / "config.yaml").write_text(
        text.replace("sslmanifold.losses.Contrastive", "subprocess.Popen"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="is no loss of sslmanifold, so it is not run"):
        say(f"run={forged}", "start=initial")


# -- what has no forecast, and what is said ------------------------------------------------------------------


def test_rows_without_a_flow_have_their_reason(
    say: Callable[..., Forecast], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = say(*MOONS, "model=deep_linear")
    reasons = {row.constraint: row.reason for row in found.rows}
    assert reasons.pop("orthogonal") == ""
    assert set(reasons.values()) == {"no exact flow for 3 layers"}
    narrow = say("trainer.max_steps=20", "model.hidden=10", "constraint=frobenius")
    assert "needs h ≥ d, got h=10" in next(r.reason for r in narrow.rows if r.constraint == "orthogonal")
    monkeypatch.setattr("sslmanifold.training.forecast._EVALUATIONS", 1)
    # free weights meet VICReg's hinge, a kink, and stay on it
    kinked = say("data=half_moons", "loss=vicreg", "constraints=[none,orthogonal]")
    assert "after 1,402 evaluations of the loss" in kinked.rows[0].reason
    assert kinked.rows[1].reason == ""  # each begins anew


def test_what_is_not_in_the_forecast_is_said(say: Callable[..., Forecast]) -> None:
    line = (*MOONS, "constraints=[orthogonal]", "points=5")
    assert say(*line).notes == []
    notes = " ".join(
        say(*line, "model.activation=tanh", "data.batch_size=50", "optimizer.momentum=0.9").notes
    )
    for words in ("linear network: model.activation=tanh", "minibatches", "momentum"):
        assert words in notes
    notes = " ".join(say(*line, "loss=infonce", "data.batch_size=50", "optimizer=adam").notes)
    for words in ("mean over the first pass", "RiemannianAdam"):
        assert words in notes


def test_minibatches_of_a_sum_are_their_share_of_the_whole(say: Callable[..., Forecast]) -> None:
    """InfoNCE is a sum over anchors: at the same time of the whole, half the batch is half the loss."""
    line = ("data=half_moons", "loss=infonce", "constraints=[orthogonal]", "optimizer.lr=1e-3", "points=21")
    whole = row_of(say(*line, "time=0.1"), "orthogonal")
    half = row_of(say(*line, "data.batch_size=100", "time=0.2"), "orthogonal")
    torch.testing.assert_close(half.rank, whole.rank, rtol=1e-7, atol=0)
    torch.testing.assert_close(half.loss, whole.loss / 2, rtol=1e-7, atol=0)


def test_starts_are_feasible_and_as_near_as_they_can_be() -> None:
    shape = NetworkShape(dim=5, hidden=9, embedding=3)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    names = ("none", "frobenius", "operator_norm", "scaled", "orthogonal", "product")
    starts = {name: drawn_start(make_constraint(name), shape, generators) for name in names}
    assert [name for name, start in starts.items() if not start.same] == ["frobenius"]
    for name, start in starts.items():
        assert [w.shape for w in start.weights] == [(2, 9, 5), (2, 9, 3)]
        assert float(make_constraint(name).residual(start.weights).max()) < 1e-12
    # from those of a Frobenius run, shrunk Haar matrices, orthonormality is their polar factor: the draw itself
    saved = starts["frobenius"].weights
    again = saved_start(make_constraint("orthogonal"), shape, saved)
    assert not again.same
    for one, other in zip(again.weights, starts["orthogonal"].weights, strict=True):
        torch.testing.assert_close(one, other)
    assert saved_start(make_constraint("operator_norm"), shape, saved).same
    # a bound on the map alone: the map is cut back, by no more than that takes
    doubled = [2 * haar(9, k, generator=generators[0], dtype=torch.float64)[None] for k in (5, 3)]
    cut = saved_start(make_constraint("product"), shape, doubled).weights
    sigma = torch.linalg.svdvals(doubled[0].mT @ doubled[1])
    torch.testing.assert_close(torch.linalg.svdvals(cut[0].mT @ cut[1]), sigma.clamp_max(1.0))
    collapsed = [w * torch.tensor([1.0] + [1e-9] * (w.shape[-1] - 1), dtype=w.dtype) for w in saved]
    with pytest.raises(UserError, match="no nearest orthonormal matrix"):
        saved_start(make_constraint("orthogonal"), shape, collapsed)


@pytest.mark.parametrize(
    "extra", [[], ["optimizer.momentum=0.9"], ["scheduler=cosine"], ["scheduler=warmup"]]
)
def test_steps_and_times_are_inverse(compose_config: Callable[..., dict[str, Any]], extra: list[str]) -> None:
    experiment = Experiment(compose_config(*MOONS, "optimizer.lr=0.001", *extra))
    end = time_of_training(experiment)
    assert step_at(experiment, 0.0) == 0
    assert step_at(experiment, 1e-9) == 1
    # half a cosine comes down to nothing: its last steps are shorter than rounding of the sum
    assert step_at(experiment, end * (1 - 1e-9)) == pytest.approx(100, abs=1)
    beyond = step_at(experiment, 2 * end)
    assert beyond is None if extra == ["scheduler=cosine"] else beyond is not None and beyond >= 150
