"""A run resumed again and again is, flow included and bit for bit, the run that never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training

BASE = ("callbacks=[spectrum,ode,optimum]", "data=half_moons", "trainer.log_every_n_steps=4")
APPROXIMATE = "callbacks.ode.approximate=true"
CASES = {
    "orthogonal": (),
    "cayley": ("constraint.retraction=cayley", "constraint.metric=euclidean"),
    "canonical": ("constraint.metric=canonical", "trainer.precision=64-true"),
    "momentum": ("optimizer.momentum=0.9", APPROXIMATE),
    "adam": ("optimizer=adam", "optimizer.lr=1e-3", APPROXIMATE),
    "minibatches": ("data.batch_size=30", "data.resample=epoch", "loss.reduction=mean", APPROXIMATE),
    "realised": ("data.batch_size=30", "loss.reduction=mean", "callbacks.ode.follow=batches"),
    "accumulated": (
        "data.batch_size=30",
        "data.resample=step",
        "loss.reduction=mean",
        "trainer.accumulate_grad_batches=3",
    ),
    "clipped": ("trainer.gradient_clip_val=0.5", "replicas=2", "optimizer.momentum=0.5"),
    "resampled": ("data.resample=step", "scheduler=warmup", "scheduler.steps=20", APPROXIMATE),
    "replicas": ("replicas=3", "constraint=operator_norm"),
    "scaled": ("constraint=scaled", "trainer.precision=64-true"),
    "frobenius": ("constraint=frobenius", "data.batch_size=50", "constraint.c1=2", APPROXIMATE),
    "operator_norm": ("constraint=operator_norm",),
    "product": ("constraint=product",),
    "tanh": ("model.activation=tanh",),
    "none": ("constraint=none", "loss=noncontrastive", "optimizer.lr=1e-5"),
    "deep": ("model=deep_linear",),
    "head": ("model=head", "constraint.metric=canonical", "model.embedding=1", "replicas=2"),
    "head, frobenius": ("model=head", "constraint=frobenius", "loss=spectral"),
    "head, scaled": ("model=head", "constraint=scaled", "trainer.precision=64-true"),
    "head, operator_norm": ("model=head", "constraint=operator_norm", "model.embedding=3"),
    "optimum": ("callbacks.optimum.tolerance=0.3",),
    "online_probe": ("callbacks=[spectrum,online_probe]", "callbacks.online_probe.every_n_epochs=5"),
}


def identical(a: Any, b: Any) -> bool:
    """The same structure, types and bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def same_run(run: Run, whole: Run) -> None:
    """Every number of the two folders, what the next resume starts from included."""
    assert run.folder.metrics.read_text() == whole.folder.metrics.read_text()
    for name, array in whole.trajectory.items():
        np.testing.assert_array_equal(run.trajectory[name], array, err_msg=name)
    passing = (
        "wall_seconds",
        "versions",
        "checkpoint/best_step",
        "checkpoint/best_key",
        "checkpoint/best_value",
    )
    ours, theirs = ({k: v for k, v in r.summary.items() if k not in passing} for r in (run, whole))
    assert ours == theirs
    saved, expected = (read_checkpoint(r.folder.checkpoint) for r in (run, whole))
    for kept in (saved, expected):  # seconds, and which refreshes there were, belong to the parts
        kept["callbacks"] = {k: v for k, v in kept["callbacks"].items() if "Checkpointing" not in k}
        # what the monitor foresees is within the steps that a part was to have
        kept["callbacks"].get("SpectrumMonitor", {}).get("rank/effective", {}).pop("foreseen", None)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"):
        assert identical(saved[key], expected[key]), key


@pytest.mark.parametrize("case", CASES)
def test_killed_and_extended_is_the_straight_run(
    case: str,
    compose_config: Callable[..., dict[str, Any]],
    die_at: Callable[[int | None], type[BaseException]],
    tmp_path: Path,
) -> None:
    def config(steps: int) -> dict[str, Any]:
        lines = (*BASE, *CASES[case], f"trainer.max_steps={steps}", "checkpoint.every_n_steps=7")
        return compose_config(*lines)

    whole = run_training(config(34), tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(die_at(3)):  # before the first refresh
        run_training(config(11), part)
    die_at(None)
    run_training(config(11) | {"ckpt_path": str(part)}, part)  # ends at a step that is not logged
    with pytest.raises(die_at(20)):
        run_training(config(34) | {"ckpt_path": str(part)}, part)
    die_at(None)
    run = run_training(config(34) | {"ckpt_path": str(part)}, part)
    assert run.summary["status"] == "completed"
    same_run(run, whole)


def test_the_largest_deviation_fell_between_the_checkpoint_and_the_kill(
    compose_config: Callable[..., dict[str, Any]],
    die_at: Callable[[int | None], type[BaseException]],
    tmp_path: Path,
) -> None:
    base = ("optimizer.momentum=0.9", APPROXIMATE, "trainer.max_steps=60", "trainer.log_every_n_steps=1")
    whole = run_training(compose_config(*BASE, *base), tmp_path / "whole")
    peak = int(np.argmax(whole.metrics["ode/deviation"]))
    assert peak > 2
    config = compose_config(*BASE, *base, f"checkpoint.every_n_steps={peak - 1}")
    part = tmp_path / "part"
    for _ in range(2):
        with pytest.raises(die_at(peak)):
            run_training(config | ({"ckpt_path": str(part)} if part.exists() else {}), part)
    die_at(None)
    run = run_training(config | {"ckpt_path": str(part)}, part)
    assert run.summary["ode/deviation_max"] == whole.summary["ode/deviation_max"]
    same_run(run, whole)


def test_killed_after_its_last_step_and_then_extended(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Lightning has nothing to do where the checkpoint is complete, and the flow is still the run's."""

    def config(steps: int) -> dict[str, Any]:
        return compose_config(*BASE, f"trainer.max_steps={steps}")

    whole = run_training(config(34), tmp_path / "whole")
    part = tmp_path / "part"
    for steps in (11, 24):
        run = run_training(config(steps) | ({"ckpt_path": str(part)} if part.exists() else {}), part)
        run.folder.summary.unlink()
        assert run_training(config(steps) | {"ckpt_path": str(part)}, part).summary["status"] == "completed"
    same_run(run_training(config(34) | {"ckpt_path": str(part)}, part), whole)


def test_a_schedule_over_all_steps_is_not_stretched(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Half a cosine over 11 steps and then over 34 is neither run."""
    config = compose_config(*BASE, "scheduler=cosine", "trainer.max_steps=11")
    before = run_training(config, tmp_path).folder.summary.read_bytes()
    longer = compose_config(*BASE, "scheduler=cosine", "trainer.max_steps=34") | {"ckpt_path": str(tmp_path)}
    with pytest.raises(UserError, match=r"scheduler=cosine spans trainer\.max_steps=11"):
        run_training(longer, tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before
