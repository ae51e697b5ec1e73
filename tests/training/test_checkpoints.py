"""A run that is interrupted at any step and resumed is, bit for bit, the run that never stopped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold import load_run
from sslmanifold.commands.sync import offline_runs
from sslmanifold.errors import UserError
from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run
from sslmanifold.training.checkpointing import Checkpointing
from sslmanifold.training.fit import run_training
from sslmanifold.training.module import SSLModule

BASE = (
    "data=half_moons",
    "trainer.max_steps=30",
    "checkpoint.every_n_steps=7",
    "trainer.log_every_n_steps=4",
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run's own code may answer it."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """From now on training dies in the middle of this step (None: lives)."""
    original = SSLModule.training_step

    def arm(step: int | None) -> None:
        def training_step(self: SSLModule, batch: Any, batch_idx: int) -> Any:
            if self.steps_done == step:
                raise Killed
            return original(self, batch, batch_idx)

        monkeypatch.setattr(SSLModule, "training_step", training_step)

    return arm


def identical(a: Any, b: Any) -> bool:
    """The same structure, types and bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def same_run(run: Run, other: Run) -> None:
    for weight, expected in zip(run.model.weights, other.model.weights, strict=True):
        assert torch.equal(weight, expected)
    assert run.folder.metrics.read_text() == other.folder.metrics.read_text()
    assert run.trajectory.keys() == other.trajectory.keys()
    for name, array in run.trajectory.items():
        np.testing.assert_array_equal(array, other.trajectory[name], err_msg=name)
    changing = ("wall_seconds", "versions")
    assert {k: v for k, v in run.summary.items() if k not in changing} == {
        k: v for k, v in other.summary.items() if k not in changing
    }
    ours, theirs = (read_checkpoint(r.folder.checkpoint) for r in (run, other))
    for key in ("optimizer_states", "lr_schedulers", "loops", "PairDataModule"):
        assert identical(ours[key], theirs[key]), key


def config_of(compose_config: Callable[..., dict[str, Any]], *overrides: str) -> dict[str, Any]:
    return compose_config("callbacks=[spectrum,ode]", *BASE, *overrides)


def test_global_generators_go_on(
    compose_config: Callable[..., dict[str, Any]],
    kill_at: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run whose steps draw from torch's, NumPy's and Python's own generators."""
    import random

    def noise(self: SSLModule, optimizer: Any) -> None:
        for weight in self.network.weights:
            weight.grad += torch.randn_like(weight) + np.random.standard_normal() + random.random()  # noqa: NPY002

    monkeypatch.setattr(SSLModule, "on_before_optimizer_step", noise)
    config = config_of(compose_config)
    whole = run_training(config, tmp_path / "whole")
    kill_at(25)
    with pytest.raises(Killed):
        run_training(config, tmp_path / "part")
    kill_at(None)
    torch.rand(5)
    same_run(run_training(config | {"ckpt_path": str(tmp_path / "part")}, tmp_path / "part"), whole)


def test_a_longer_run_is_the_long_run(compose_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Stopped at a step that is not logged and that no refresh falls on, then extended."""
    long = run_training(config_of(compose_config, "trainer.max_steps=61"), tmp_path / "long")
    short = config_of(compose_config, "trainer.max_steps=33")
    assert run_training(short, tmp_path / "short").metrics["step"][-1] == 33
    longer = config_of(compose_config, "trainer.max_steps=61") | {"ckpt_path": str(tmp_path / "short")}
    run = run_training(longer, tmp_path / "short")
    assert 33 not in run.metrics["step"]
    for weight, expected in zip(run.model.weights, long.model.weights, strict=True):
        assert torch.equal(weight, expected)
    assert run.folder.metrics.read_text() == long.folder.metrics.read_text()


def test_killed_after_the_last_step(compose_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The checkpoint is complete, what follows it was lost."""
    config = config_of(compose_config, "trainer.max_steps=30")
    whole = run_training(config, tmp_path / "whole")
    part = tmp_path / "part"
    shutil.copytree(whole.path, part)
    (part / "summary.json").unlink()
    (part / "trajectory.npz").unlink()
    (part / "metrics.csv").write_text("step\n")
    (part / "checkpoints" / ".last.ckpt.partial").write_bytes(b"half a file")
    run = run_training(config | {"ckpt_path": str(part)}, part)
    same_run(run, whole)
    assert not list(part.rglob(".*.partial"))
    before = run.folder.checkpoint.stat().st_mtime_ns
    again = run_training(config | {"ckpt_path": str(part)}, part)  # complete now: nothing is touched
    assert again.summary["status"] == "completed"
    assert run.folder.checkpoint.stat().st_mtime_ns == before


def test_a_write_that_fails_leaves_the_former_checkpoint(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(compose_config)
    whole = run_training(config, tmp_path / "whole")
    original, written = os.replace, []

    def failing(source: Any, target: Any) -> None:
        if Path(target).name == "last.ckpt":
            written.append(Path(source).name)
            if len(written) == 4:
                os.truncate(source, 1000)
                raise Killed
        original(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(Killed):
        run_training(config, tmp_path / "part")
    assert "last.ckpt" not in written  # never written in place
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "part" / "checkpoints" / "last.ckpt")["sslmanifold"]["steps_done"] == 14
    same_run(run_training(config | {"ckpt_path": str(tmp_path / "part")}, tmp_path / "part"), whole)


def test_the_clock_refreshes_too(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    original = Checkpointing.save

    def save(self: Checkpointing, trainer: Any, module: SSLModule) -> None:
        saved.append(module.steps_done)
        original(self, trainer, module)

    monkeypatch.setattr(Checkpointing, "save", save)
    quick = ("checkpoint.every_n_steps=null", "checkpoint.every_seconds=0.001")
    run_training(config_of(compose_config, *quick), tmp_path / "clock")
    assert len(saved) > 20
    saved.clear()
    off = ("checkpoint.every_n_steps=null", "checkpoint.every_seconds=null")
    run_training(config_of(compose_config, *off), tmp_path / "off")
    assert saved == [0, 30]


def test_the_best_checkpoint_is_the_best_of_those_written(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from sslmanifold.metrics import effective_rank

    config = config_of(
        compose_config, "checkpoint.best=rank/effective", "trainer.log_every_n_steps=1", "trainer.max_steps=100",
        "constraint=frobenius", "optimizer.lr=0.02", "~callbacks.ode",
    )  # fmt: skip
    run = run_training(config, tmp_path)
    at = [i for i, step in enumerate(run.metrics["step"]) if step % 7 == 0 or step == 100]
    ranks = {int(run.metrics["step"][i]): run.metrics["rank/effective"][i] for i in at}
    best = max(ranks, key=lambda step: ranks[step])
    assert best < 100  # the embedding collapses later on
    assert run.summary["checkpoint/best_step"] == best
    loaded = load_run(tmp_path, checkpoint="best")
    points = torch.from_numpy(run.trajectory["embedding_initial"])  # any rows do: only the count matters
    assert points.shape[1] == 200
    from sslmanifold.data import HalfMoons

    rank = effective_rank(loaded.embed(HalfMoons().load(0).train_x).double())
    assert float(rank) == pytest.approx(ranks[best], abs=1e-5)


def test_auto_is_the_gap_where_there_is_an_optimum(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = run_training(config_of(compose_config), tmp_path / "gap")
    assert run.summary["checkpoint/best_key"] == "train/optimality_gap"
    run = run_training(config_of(compose_config, "model.activation=tanh"), tmp_path / "rank")
    assert run.summary["checkpoint/best_key"] == "rank/effective"
    run = run_training(config_of(compose_config, "checkpoint.best=null"), tmp_path / "none")
    assert not run.folder.best.exists()


@pytest.fixture(scope="module")
def finished_run(train: Callable[..., Run]) -> Run:
    return train(*BASE)


def test_weights_off_their_manifold_are_refused_or_projected(
    finished_run: Run, compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run.path, folder)
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["network.weights.0"] *= 1.01
    torch.save(checkpoint, path)
    # ‖W‖ scaled by 1.01: ‖WᵀW − I‖_F/√d = 1.01² − 1
    with pytest.raises(UserError, match=r"W1 is off its manifold \(orthogonal\): residual 0\.0201"):
        load_run(folder).embed([[0.0, 0.0]])
    w1 = load_run(folder, project=True).model.weights[0]
    torch.testing.assert_close(w1, finished_run.model.weights[0], rtol=0, atol=1e-6)

    longer = config_of(compose_config, "trainer.max_steps=50") | {"ckpt_path": str(folder)}
    with pytest.raises(UserError, match=r"residual 0\.0201.*checkpoint\.project=true"):
        run_training(longer, folder)
    longer["checkpoint"]["project"] = True
    assert run_training(longer, folder).summary["constraint/residual"] < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "trained with seed=0, not 1"),
        ({"ckpt_path": "last", "trainer": {"max_steps": 60, "precision": "64-true"}}, "precision"),
        ({"ckpt_path": "nowhere/last.ckpt"}, "does not exist"),
        ({"ckpt_path": "elsewhere"}, "is not a run folder"),
    ],
)
def test_another_run_cannot_be_resumed(
    finished_run: Run,
    compose_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run.path, folder)
    config = config_of(compose_config, "trainer.max_steps=60") | {"ckpt_path": str(folder)}
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        run_training(config, folder)
    assert Run(folder).summary == finished_run.summary  # untouched


def test_a_checkpoint_stays_in_its_folder(
    finished_run: Run, compose_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="goes on in its own run folder"):
        run_training(config_of(compose_config) | {"ckpt_path": str(finished_run.path)}, tmp_path)
    loose = tmp_path / "loose.ckpt"
    shutil.copy(finished_run.folder.checkpoint, loose)
    with pytest.raises(UserError, match="lies in no run folder"):
        run_training(config_of(compose_config) | {"ckpt_path": str(loose)}, tmp_path)


def test_a_diverged_run_has_nothing_to_go_on_with(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "constraint=none")
    with pytest.raises(UserError, match="diverged after step"):
        run_training(run.config | {"ckpt_path": str(run.path)}, run.path)
    assert run.summary["status"] == "diverged"


def test_tensorboard_goes_on(
    compose_config: Callable[..., dict[str, Any]], kill_at: Callable[..., None], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_of(compose_config, "logger=tensorboard")
    kill_at(25)
    with pytest.raises(Killed):
        run_training(config, tmp_path)
    kill_at(None)
    run = run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in logged] == run.metrics["step"]
    assert [value for _, value in logged] == pytest.approx(run.metrics["train/loss"], rel=1e-6)


def test_wandb_keeps_its_run(
    compose_config: Callable[..., dict[str, Any]], kill_at: Callable[..., None], tmp_path: Path
) -> None:
    config = config_of(compose_config, "logger=wandb")
    kill_at(25)
    with pytest.raises(Killed):
        run_training(config, tmp_path)
    kill_at(None)
    run_training(config | {"ckpt_path": str(tmp_path)}, tmp_path)
    (parts,) = offline_runs([str(tmp_path)]).values()
    assert len(parts) == 2
