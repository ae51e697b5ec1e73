"""What makes a job the same job and a sweep the same sweep, and what a resumed sweep does with it."""

import copy
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder, run_folders
from sslmanifold.runs.claim import claimed
from sslmanifold.runs.identity import config_key, sweep_line
from sslmanifold.runs.run import GROUPS
from sslmanifold.sweeps.job import JobFailed, run_job
from sslmanifold.sweeps.manifest import Manifest, latest_sweep, started_jobs
from sslmanifold.sweeps.objective import objective


def test_key_survives_the_run_folder(compose_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    config = compose_config("data=half_moons", "optimizer.lr=1e-8", "data.positive_variance=0.1")
    RunFolder(tmp_path).write_config(config)
    assert config_key(Run(tmp_path).config) == config_key(config)


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.lr=0.01", "constraint=none", "trainer.max_steps=999", "~callbacks.ode"]
)
def test_key_sees_what_changes_the_result(
    compose_config: Callable[..., dict[str, Any]], override: str
) -> None:
    assert config_key(compose_config()) != config_key(compose_config(override))


@pytest.mark.parametrize(
    "override", ["resume=true", "overwrite=true", "threads=2", "~callbacks.progress", "logger=wandb"]
)
def test_key_ignores_how_a_job_is_run(compose_config: Callable[..., dict[str, Any]], override: str) -> None:
    assert config_key(compose_config()) == config_key(compose_config(override))


def test_key_of_an_older_version_has_fewer_trainer_keys(
    compose_config: Callable[..., dict[str, Any]],
) -> None:
    config = compose_config()
    older = config | {"trainer": {key: v for key, v in config["trainer"].items() if v is not None}}
    assert len(older["trainer"]) == 6
    assert config_key(older) == config_key(config)
    assert config_key(older) != config_key(compose_config("trainer.accumulate_grad_batches=2"))


@given(
    st.permutations(
        ["constraint=none,scaled", "seed=range(5)", "data=half_moons", "resume=true", "threads=2"]
    )
)
def test_line_does_not_depend_on_the_order(overrides: list[str]) -> None:
    assert sweep_line(overrides) == ["constraint=none,scaled", "data=half_moons", "seed=range(5)"]


def test_latest_sweep_of_the_line(tmp_path: Path) -> None:
    for name, started, line in (
        ("a", "2026-01-01", ["seed=0"]),
        ("b", "2026-01-02", ["seed=0"]),
        ("c", "2026-01-03", ["seed=1"]),
    ):
        (tmp_path / name).mkdir()
        Manifest(line, started=started).write(tmp_path / name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "sweep.json").write_text("half a line")
    assert latest_sweep(tmp_path, ["seed=0"]) == tmp_path / "b"
    assert latest_sweep(tmp_path, ["seed=2"]) is None


def test_run_folders_in_natural_order_without_hydras_own(tmp_path: Path) -> None:
    for name in ("10", "9", "2_ab", "2"):
        RunFolder(tmp_path / name).write_config({"seed": 0})
        (tmp_path / name / ".hydra").mkdir()
        (tmp_path / name / ".hydra" / "config.yaml").write_text("seed: 0")
    assert [p.name for p in run_folders(tmp_path)] == ["2", "2_ab", "9", "10"]


# what a configuration must name to be a run's
NAMED: dict[str, Any] = {group: {} for group in GROUPS}


# -- one job ---------------------------------------------------------------------------------------------


def trained(options: dict[str, Any], folder: Path) -> Run:
    """Stands for a training: writes what one leaves, and counts."""
    trained.calls.append(folder.name)  # type: ignore[attr-defined]
    if options["seed"] == 13:
        raise UserError("seed 13 is unlucky")
    if options["seed"] == 14:
        raise ZeroDivisionError
    run = RunFolder(folder)
    run.write_config(options)
    run.write_summary({"status": "completed", "seed": options["seed"]})
    return Run(folder)


def job(sweep: Path, name: str, **config: Any) -> tuple[Run, bool]:
    full = {"seed": 0, "resume": False, **NAMED, **config}
    return run_job(OmegaConf.create(full), sweep / name, sweep, {"data": "digits"}, trained)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    trained.calls = []  # type: ignore[attr-defined]


def test_done_jobs_are_skipped_and_failed_ones_run(tmp_path: Path) -> None:
    job(tmp_path, "0", seed=0)
    with pytest.raises(JobFailed, match="unlucky"):
        job(tmp_path, "1", seed=13)
    assert Run(tmp_path / "1").summary["status"] == "failed"
    trained.calls.clear()  # type: ignore[attr-defined]
    assert job(tmp_path, "0", seed=0, resume=True)[1] is True
    with pytest.raises(JobFailed):
        job(tmp_path, "1", seed=13, resume=True)
    assert job(tmp_path, "2", seed=2, resume=True)[1] is False
    assert trained.calls == ["1", "2"]  # type: ignore[attr-defined]


def test_a_changed_line_keeps_what_is_done(tmp_path: Path) -> None:
    """Job numbers shift when the line changes: results are found by key, and never overwritten."""
    job(tmp_path, "0", seed=0)
    job(tmp_path, "1", seed=1)
    Manifest([], folders=started_jobs(tmp_path)).write(tmp_path)
    run, before = job(tmp_path, "0", seed=1, resume=True)
    assert before
    assert run.path.name == "1"
    run, before = job(tmp_path, "1", seed=2, resume=True)
    assert not before
    assert run.path.name.startswith("1_")
    assert Run(tmp_path / "1").config["seed"] == 1


@pytest.mark.parametrize("status", ["interrupted", "failed", None])
def test_an_unfinished_job_starts_again_in_its_folder(tmp_path: Path, status: str | None) -> None:
    folder = RunFolder(tmp_path / "0")
    folder.write_config({"seed": 0, **NAMED})
    folder.path.joinpath("metrics.csv").write_text("step\n0\n")
    if status:
        folder.write_summary({"status": status})
    run, before = job(tmp_path, "0", resume=True)
    assert not before
    assert run.path == tmp_path / "0"
    assert not folder.metrics.exists()


@pytest.mark.parametrize("text", ["", "seed: 0\ndata:\n  n: [1,"])
def test_a_job_whose_configuration_is_damaged_is_done_again(tmp_path: Path, text: str) -> None:
    job(tmp_path, "0")
    job(tmp_path, "1", seed=1)
    (tmp_path / "0" / "config.yaml").write_text(text)
    assert list(started_jobs(tmp_path).values()) == ["1"]
    run, before = job(tmp_path, "0", resume=True)
    assert not before
    assert run.path == tmp_path / "0"
    assert run.config["seed"] == 0


def test_a_failure_leaves_names_and_reason(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"data\.path is missing"):
        job(tmp_path, "0", data={"path": "???"})
    summary = Run(tmp_path / "0").summary
    assert summary["status"] == "failed"
    assert "data.path is missing" in summary["reason"]
    assert summary["data"] == "digits"
    with pytest.raises(JobFailed, match="ZeroDivisionError"):
        job(tmp_path, "1", seed=14)
    assert "ZeroDivisionError" in (tmp_path / "1" / "traceback.txt").read_text()


def test_a_finished_run_is_not_marked_failed(tmp_path: Path) -> None:
    job(tmp_path, "0")
    with pytest.raises(JobFailed):
        job(tmp_path, "0", seed=13)
    assert Run(tmp_path / "0").summary["status"] == "completed"


def _hold(folder: Path, ready: Any) -> None:
    with claimed(folder):
        ready.set()
        time.sleep(0.5)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready))
    other.start()
    ready.wait(10)
    with pytest.raises(UserError, match="another process is writing into"), claimed(tmp_path):
        pass
    started = time.monotonic()
    with claimed(tmp_path, wait=True), claimed(tmp_path):  # its holder may claim it again
        waited = time.monotonic() - started
    other.join()
    assert waited > 0.2


# -- what a search optimises -----------------------------------------------------------------------------


def test_objective() -> None:
    summary = {"status": "completed", "train/loss": -2.0, "seed": 1, "reason": "", "versions": {}}
    assert objective(summary, "train/loss") == -2.0
    assert objective(summary, ["train/loss", "seed"]) == (-2.0, 1.0)
    assert objective(summary, None) is None
    with pytest.raises(UserError, match="choose one of train/loss, seed"):
        objective(summary, "reason")
    diverged = copy.copy(summary) | {"status": "diverged"}
    assert objective(diverged, "train/loss") != objective(diverged, "train/loss")  # NaN
