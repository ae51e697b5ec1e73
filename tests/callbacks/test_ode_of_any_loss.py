"""The exact flow beside training on losses that have no C: first order, batches, resumes, and what it costs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sslmanifold.errors import UserError
from sslmanifold.runs import Run

BASE = ("data=gaussian", "data.dim=5", "data.n=60", "loss.reduction=mean", "trainer.precision=64-true")


def run(train: Callable[..., Run], lr: float, *overrides: str, time: float = 0.4, **options) -> Run:
    steps = f"trainer.max_steps={round(time / lr)}"
    # LeJEPA has no reduction to choose
    base = [o for o in BASE if "loss=lejepa" not in overrides or "reduction" not in o]
    return train(*base, f"optimizer.lr={lr}", steps, "trainer.log_every_n_steps=1000", *overrides, **options)


@pytest.mark.parametrize(
    "options",
    [
        (), ("constraint=none",), ("constraint=scaled", "replicas=2"), ("model=deep_linear",), ("model=head",),
        ("model=head", "constraint=operator_norm", "data.batch_size=10"),
        ("constraint=product",), ("data.batch_size=10",), ("data.resample=step",),
        ("trainer.accumulate_grad_batches=2", "data.batch_size=20"), ("replicas=3", "constraint.metric=canonical"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_deviation_halves(train: Callable[..., Run], options: tuple[str, ...]) -> None:
    runs = [run(train, lr, "loss=infonce", *options) for lr in (0.02, 0.01)]
    coarse, fine = (r.summary["ode/deviation_max"] for r in runs)
    assert runs[0].summary["ode/flow"]
    noisy = any("batch" in option or "resample" in option for option in options)
    # with more steps come other batches
    assert (1.6 if noisy else 1.9) < coarse / fine < (2.5 if noisy else 2.1)
    assert ("follows the realised batches" in runs[0].summary.get("ode/meaning", "")) == noisy


def test_a_wrong_gradient_keeps_its_distance(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslmanifold.theory import LossGradient

    right = LossGradient.gradient
    monkeypatch.setattr(LossGradient, "gradient", lambda self, m: 1.1 * right(self, m))
    coarse, fine = (run(train, lr, "loss=spectral").summary["ode/deviation_max"] for lr in (0.02, 0.01))
    assert coarse / fine < 1.5


def test_the_loss_gap_is_that_of_the_loss(train: Callable[..., Run]) -> None:
    """(L − L_ode)/|L_ode| with both by the loss itself; under scaled, of the scaled objective."""
    for constraint in ("orthogonal", "scaled"):
        done = run(train, 0.01, "loss=spectral", f"constraint={constraint}")
        ours, flows = done.summary["train/loss"], float(done.trajectory["ode_loss"][-1, 0])
        assert done.summary["ode/loss_gap"] == pytest.approx((ours - flows) / abs(flows), rel=1e-6)
        assert abs(done.summary["ode/loss_gap"]) < 0.05


@pytest.mark.parametrize(
    "options", [(), ("data.batch_size=10",), ("constraint=operator_norm",)], ids=" ".join
)
def test_resumed_is_straight(train: Callable[..., Run], tmp_path: Path, options: tuple[str, ...]) -> None:
    """The flow, its clock and what it knows of the curvature go on bit for bit."""
    line = (*BASE, "loss=infonce", "optimizer.lr=0.01", *options)
    straight = train(*line, "trainer.max_steps=30").summary
    train(*line, "trainer.max_steps=17", folder=tmp_path)
    resumed = train(*line, "trainer.max_steps=30", f"ckpt_path={tmp_path}", folder=tmp_path).summary
    for key in ("ode/deviation", "ode/deviation_max", "ode/loss_gap", "ode/time", "train/loss"):
        assert resumed[key] == straight[key]


def test_every_tenth_step(train: Callable[..., Run]) -> None:
    """The flow takes ten steps' time at once, compared where a row is written and at the end too."""
    line = ("loss=spectral", "trainer.log_every_n_steps=7")
    each = run(train, 0.01, *line, time=0.33)
    tenth = run(train, 0.01, *line, "callbacks.ode.every=10", time=0.33)
    assert tenth.summary["ode/time"] == pytest.approx(0.33)
    assert tenth.summary["ode/deviation"] == pytest.approx(each.summary["ode/deviation"], rel=0.02)
    assert 0 < tenth.summary["ode/deviation_max"] <= 1.001 * each.summary["ode/deviation_max"]
    with pytest.raises(UserError, match="callbacks.ode.every=10"):
        run(train, 0.01, *line, "callbacks.ode.every=10", "data.batch_size=10")


def test_minibatches_have_no_population(train: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="no function of the population"):
        run(train, 0.01, "loss=infonce", "data.batch_size=10", "callbacks.ode.follow=population")


def test_wide_data_under_orthogonality(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C is not formed: the frame is d×z, the flows of the other constraints hold d×d matrices."""
    from sslmanifold.callbacks import map_comparison
    from sslmanifold.training import experiment

    for module in (map_comparison, experiment):
        monkeypatch.setattr(module, "LARGEST_MOMENT", 4)
    known = run(train, 0.01)
    assert known.summary["ode/deviation_max"] < 0.05
    assert "holds matrices" in run(train, 0.01, "constraint=frobenius").summary["ode/meaning"]


def test_first_order_up_to_the_hinge(train: Callable[..., Run]) -> None:
    """VICReg has kinks at standard deviation 1: 2.00 where none is met, and the summary says where one is."""

    def runs(scale: float, time: float) -> list[Run]:
        line = (
            "loss=vicreg", "constraint=none", "data=gaussian", f"data.spectrum=[{scale},{scale / 2},{scale / 4}]",
            "data.n=60", "trainer.precision=64-true", "trainer.log_every_n_steps=1000",
        )  # fmt: skip
        return [
            train(*line, f"optimizer.lr={time / steps}", f"trainer.max_steps={steps}") for steps in (20, 40)
        ]

    coarse, fine = (done.summary for done in runs(0.05, 0.002))
    assert 1.95 < coarse["ode/deviation_max"] / fine["ode/deviation_max"] < 2.05
    assert "hinge" not in coarse.get("ode/meaning", "")
    assert "a hinge of the loss was met" in runs(2.0, 0.02)[1].summary["ode/meaning"]


def test_an_embedding_near_zero_is_said(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """NT-Xent on the unit sphere is singular at u = 0; on embeddings as they are it is smooth."""
    from sslmanifold.callbacks.driving_loss import DrivingLoss

    monkeypatch.setattr(DrivingLoss, "near_zero", 0.5)
    for normalize in ("true", "false"):
        line = ("loss=ntxent", "data=half_moons", "trainer.max_steps=5", f"loss.normalize={normalize}")
        summary = train(*line).summary
        assert ("singular at 0" in summary.get("ode/meaning", "")) == (normalize == "true")


def test_what_is_drawn_anew_is_said(train: Callable[..., Run]) -> None:
    """LeJEPA's slices: the flow has those of each step, and with fixed ones there is one loss for all steps."""
    line = ("loss=lejepa", "loss.slices=8")
    drawn = run(train, 0.01, *line, "loss.draw=step", time=0.1).summary
    assert "the loss that was drawn for each step" in drawn["ode/meaning"]
    with pytest.raises(UserError, match="callbacks.ode.every=10"):
        run(train, 0.01, *line, "loss.draw=step", "callbacks.ode.every=10", time=0.1)
    fixed = run(train, 0.01, *line, "loss.draw=fixed", "callbacks.ode.every=10", time=0.1).summary
    assert "drawn" not in fixed.get("ode/meaning", "")
    for summary in (drawn, fixed):
        assert summary["ode/deviation_max"] < 0.05


def compared(run: Run) -> list[float]:
    return [value for value in run.metrics["ode/deviation"] if not math.isnan(value)]


def test_a_flow_that_does_not_keep_up_is_given_up(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Near a singularity a flow may take thousands of gradients a step: training goes on, and the summary says it."""
    from sslmanifold.callbacks import driving_loss

    line = (*BASE, "loss=infonce", "optimizer.lr=0.01", "trainer.log_every_n_steps=1")
    whole = train(*line, "trainer.max_steps=8")
    monkeypatch.setattr(driving_loss, "_HEAD_START", 15)
    monkeypatch.setattr(driving_loss, "_PER_STEP", 1)
    given_up = train(*line, "trainer.max_steps=8")
    assert given_up.summary["status"] == "completed"
    assert "the flow was given up at step" in given_up.summary["ode/meaning"]
    ours, theirs = (compared(run) for run in (given_up, whole))
    assert 1 < len(ours) < len(theirs)
    assert ours == theirs[: len(ours)]
    train(*line, "trainer.max_steps=2", folder=tmp_path)
    resumed = train(*line, "trainer.max_steps=8", f"ckpt_path={tmp_path}", folder=tmp_path)
    assert compared(resumed) == ours
    assert resumed.summary["ode/meaning"] == given_up.summary["ode/meaning"]
