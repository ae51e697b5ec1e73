"""Every loss of conf/ trains by its name: downhill, in batches, under every constraint; a resumed run is exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold import train
from sslmanifold.config.location import config_dir
from sslmanifold.errors import UserError
from sslmanifold.training.experiment import Experiment

NAMES = sorted({path.stem for path in (config_dir() / "loss").glob("*.yaml")} - {"own"})
BATCH_LOSSES = ("ntxent", "infonce_distance", "vicreg", "barlow", "barlow_linear", "align_uniform", "lejepa")
CONSTRAINTS = ("none", "frobenius", "operator_norm", "scaled", "product", "orthogonal")
SMALL = ("data=half_moons", "data.n=60", "trainer.max_steps=20", "trainer.log_every_n_steps=1")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_trains_by_its_name(name: str, tmp_path: Path) -> None:
    run = train(f"loss={name}", *SMALL, "callbacks=[spectrum,ode,optimum]", run_dir=tmp_path / "run")
    assert (run.summary["status"], run.summary["loss"]) == ("completed", name)
    loss = run.metrics["train/loss"].to_numpy()
    assert loss[-1] < loss[0]
    if name != "lejepa":  # whose slices differ from step to step
        assert (np.diff(loss) <= 1e-6 * np.abs(loss[1:])).all()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_under_every_constraint_and_in_batches(
    name: str, constraint: str, compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from sslmanifold.training.fit import run_training

    lines = (f"loss={name}", f"constraint={constraint}", *SMALL, "data.batch_size=25", "callbacks=[]")
    config = compose_config(*lines, "data.positives=2", "replicas=2")
    summary = run_training(config, tmp_path / "run").summary
    assert summary["status"] == "completed"
    assert np.isfinite(summary["train/loss"])
    assert summary["constraint/residual"] < 1e-5 if "constraint/residual" in summary else True


def test_fixed_slices_go_downhill_at_each_step(tmp_path: Path) -> None:
    run = train("loss=lejepa", "loss.draw=fixed", *SMALL, "callbacks=[spectrum]", run_dir=tmp_path / "run")
    loss = run.metrics["train/loss"].to_numpy()
    assert (np.diff(loss) <= 1e-6 * np.abs(loss[1:])).all()


@pytest.mark.parametrize("batches", ["data.batch_size=null", "data.batch_size=25"])
def test_a_resumed_run_draws_the_slices_of_its_steps(batches: str, tmp_path: Path) -> None:
    lines = ("loss=lejepa", *SMALL[:2], batches, "callbacks=[spectrum]")
    whole = train(*lines, "trainer.max_steps=14", run_dir=tmp_path / "whole")
    train(*lines, "trainer.max_steps=9", run_dir=tmp_path / "parts")
    parts = train(ckpt_path=str(tmp_path / "parts"), trainer={"max_steps": 14})
    for one, other in zip(whole.model.weights, parts.model.weights, strict=True):
        assert torch.equal(one, other)
    assert whole.summary["train/loss"] == parts.summary["train/loss"]


def test_replica_zero_is_the_run_alone(tmp_path: Path) -> None:
    for name in BATCH_LOSSES:
        lines = (
            f"loss={name}",
            *SMALL[:2],
            "trainer.max_steps=5",
            "trainer.precision=64-true",
            "callbacks=[]",
        )
        alone = train(*lines, run_dir=tmp_path / name / "1").model.weights
        beside = train(*lines, "replicas=3", run_dir=tmp_path / name / "3").model.weights
        for one, three in zip(alone, beside, strict=True):
            torch.testing.assert_close(three[:1], one, rtol=1e-9, atol=1e-11)


def test_a_batch_of_one_anchor_is_refused_before_training(
    compose_config: Callable[..., dict[str, Any]],
) -> None:
    lines = ("loss=vicreg", *SMALL[:2], "data.batch_size=59")
    with pytest.raises(UserError, match=r"data\.batch_size=null, or one that leaves no single anchor"):
        Experiment(compose_config(*lines))
    Experiment(compose_config(*lines, "trainer.limit_train_batches=1"))  # the single anchor is never seen
    Experiment(compose_config("loss=ntxent", *lines[1:]))


def test_no_negatives_are_drawn_for_losses_of_a_batch(compose_config: Callable[..., dict[str, Any]]) -> None:
    for name in BATCH_LOSSES:
        data = Experiment(compose_config(f"loss={name}", *SMALL[:2])).datamodule
        assert data.triplets.full(0, torch.float64).negatives is None


def test_a_head_learns_step_by_step(tmp_path: Path) -> None:
    """loss=barlow_linear, one free layer: the run's own flow and the map of `solve_stepwise` from its own start."""
    from sslmanifold.theory import pair_correlation, solve_stepwise

    lines = (
        "data=gaussian", "data.spectrum=[3,1,0.3]", "data.n=80", "model=head", "constraint=none", "loss=barlow_linear",
        "trainer.precision=64-true", "callbacks=[ode]",
    )  # fmt: skip
    gaps, deviations = [], []
    for halving in (1, 2):
        run = train(
            *lines, f"optimizer.lr={0.002 / halving}", f"trainer.max_steps={200 * halving}",
            run_dir=tmp_path / str(halving),
        )  # fmt: skip
        batch = Experiment(run.config).datamodule.train_dataloader().batch(0)
        (m,) = (weight[0].double() for weight in run.model.weights)
        start = torch.from_numpy(run.trajectory["ode_m"][0, 0])
        exact = solve_stepwise(pair_correlation(batch.x, batch.positives), start, [0.4])
        gaps.append(float(torch.linalg.matrix_norm(m - exact.m[0])))
        deviations.append(run.summary["ode/deviation_max"])
    assert 1.9 < gaps[0] / gaps[1] < 2.1
    assert 1.9 < deviations[0] / deviations[1] < 2.1
