"""Training with orthonormal weights follows its own flow: the deviation halves when lr halves."""

from collections.abc import Callable

import pytest

from sslmanifold.runs import Run

METRICS = ("grassmann", "euclidean", "canonical")
DIM = 5


def deviation(train: Callable[..., Run], lr: float, *overrides: str) -> float:
    """ode/deviation_max of a run of total time 0.4 in float64."""
    run = train(
        "data=gaussian", f"data.dim={DIM}", "data.n=40", "loss.reduction=mean", "trainer.precision=64-true",
        f"optimizer.lr={lr}", f"trainer.max_steps={round(0.4 / lr)}", "trainer.log_every_n_steps=1000", *overrides,
    )  # fmt: skip
    assert run.summary["ode/time"] == pytest.approx(0.4)
    return run.summary["ode/deviation_max"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("embedding", "hidden"), [(1, 40), (2, DIM), (3, DIM + 1)])
def test_deviation_halves(train: Callable[..., Run], metric: str, embedding: int, hidden: int) -> None:
    """z = 1, 2, 3 and h from large down to h = d."""
    options = (f"constraint.metric={metric}", f"model.embedding={embedding}", f"model.hidden={hidden}")
    coarse, middle, fine = (deviation(train, lr, *options) for lr in (0.01, 0.005, 0.0025))
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1


def test_gradient_step_then_projection_follows_kappa_1(train: Callable[..., Run]) -> None:
    """Eq. 11, the paper's own experiments."""
    options = ("constraint.metric=euclidean", "constraint.retraction=project", "model.hidden=12")
    coarse, fine = (deviation(train, lr, *options) for lr in (0.01, 0.005))
    assert 1.9 < coarse / fine < 2.1


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_scaled_loss_follows_its_flow(train: Callable[..., Run], replicas: int) -> None:
    """Through the ties of a Haar start: a subgradient step would leave the tie and a ragged gap."""
    options = ("constraint=scaled", "model.hidden=12", f"replicas={replicas}")
    coarse, middle, fine = (deviation(train, lr, *options) for lr in (0.01, 0.005, 0.0025))
    assert 1.9 < coarse / middle < 2.1
    assert 1.9 < middle / fine < 2.1


@pytest.mark.parametrize(
    "optimizer", [(), ("optimizer.momentum=0.9", "optimizer.lr=5e-6"), ("optimizer=adam",)]
)
def test_the_scaled_loss_settles_at_its_optimum(
    train: Callable[..., Run], optimizer: tuple[str, ...]
) -> None:
    """With a constant step; wavering about the tie would leave it percents above."""
    run = train(
        "constraint=scaled", "model.embedding=3", "trainer.max_steps=600", "callbacks=[spectrum]", *optimizer
    )
    assert abs(run.summary["train/optimality_gap"]) < 1e-4


def test_a_wrong_flow_keeps_its_distance(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from sslmanifold.constraints.orthogonal import Orthogonal
    from sslmanifold.theory.flows.orthogonal import OrthogonalFlow

    monkeypatch.setattr(Orthogonal, "flow", lambda self, moment, shape: OrthogonalFlow(moment, 1.0))
    options = ("constraint.metric=grassmann", "model.hidden=12")
    coarse, fine = (deviation(train, lr, *options) for lr in (0.01, 0.005))
    assert coarse / fine < 1.3


@pytest.mark.parametrize("schedule", ["cosine", "warmup"])
def test_the_flow_follows_a_schedule(train: Callable[..., Run], schedule: str) -> None:
    """Time is Σ lr of the steps actually taken."""
    runs = [
        train(
            "data=gaussian", f"data.dim={DIM}", "data.n=40", "loss.reduction=mean", "trainer.precision=64-true",
            f"optimizer.lr={lr}", f"trainer.max_steps={round(0.4 / lr)}", f"scheduler={schedule}",
            *(["scheduler.steps=20"] if schedule == "warmup" and lr == 0.01 else []),
            *(["scheduler.steps=40"] if schedule == "warmup" and lr == 0.005 else []),
        )
        for lr in (0.01, 0.005)
    ]  # fmt: skip
    times = [run.summary["ode/time"] for run in runs]
    assert times[0] == pytest.approx(0.4 * (0.5 if schedule == "cosine" else 0.7375), rel=0.05)
    assert 1.8 < runs[0].summary["ode/deviation_max"] / runs[1].summary["ode/deviation_max"] < 2.2
