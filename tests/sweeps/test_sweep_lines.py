"""Whole sweeps through the command line: one line in, one table out, whatever fails on the way."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sslmanifold.cli import main
from sslmanifold.report.write import write_report
from sslmanifold.runs import Run, run_folders
from sslmanifold.sweeps.manifest import Manifest

SMALL = ("data=half_moons", "data.n=20", "trainer.max_steps=20", "callbacks=[spectrum,ode]")


def call(*arguments: str) -> int:
    """``sslmanifold <arguments>`` in this process: its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the process's own arguments and environment afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("HYDRA_FULL_ERROR", "SSLMANIFOLD_RUN_ID", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def only_sweep(root: Path) -> Path:
    (sweep,) = (root / "multirun" / "train").iterdir()
    return sweep


def statuses(sweep: Path) -> dict[str, str]:
    return {p.name: Run(p).summary.get("status", "") for p in run_folders(sweep)}


def test_broken_jobs_are_named_and_the_good_ones_complete(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("train", "-m", *SMALL, "model.hidden=1,8", "seed=0,1")
    assert call(*line) == 1
    sweep = only_sweep(scratch)
    assert statuses(sweep) == {"0": "failed", "1": "failed", "2": "completed", "3": "completed"}
    summary = Run(sweep / "0").summary
    assert "h=1" in summary["reason"]
    assert summary["constraint"] == "orthogonal"
    out, err = capsys.readouterr()
    assert "job 0 (model.hidden=1 seed=0) failed: " in out
    assert "job 1 (model.hidden=1 seed=1) failed: " in out
    assert "4 jobs: 2 completed, 2 failed" in out
    assert "2 failed: run the same line with resume=true" in err
    # once more: what is done is not done again, what failed is tried again; the order of the overrides is free
    before = {p: p.stat().st_mtime_ns for p in sweep.glob("*/summary.json")}
    assert call("train", "-m", "resume=true", "seed=0,1", "model.hidden=1,8", *SMALL) == 1
    after = {p: p.stat().st_mtime_ns for p in sweep.glob("*/summary.json")}
    assert {p.parent.name for p in before if after[p] != before[p]} == {"0", "1"}
    assert only_sweep(scratch) == sweep
    assert statuses(sweep) == {"0": "failed", "1": "failed", "2": "completed", "3": "completed"}


def test_a_choice_that_does_not_exist_stops_the_grid_before_any_job(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", "-m", *SMALL, "constraint=orthogonal,nonsense") == 2
    assert "nonsense" in capsys.readouterr().err
    assert not list(scratch.rglob("summary.json"))


def test_resume_without_an_earlier_sweep_starts_one(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", "-m", *SMALL, "seed=0,1", "resume=true") == 0
    assert "no sweep of this line" in capsys.readouterr().err
    assert set(statuses(only_sweep(scratch)).values()) == {"completed"}


def test_an_explicit_folder_takes_a_longer_line(scratch: Path) -> None:
    assert call("train", "-m", *SMALL, "seed=0,1", "hydra.sweep.dir=grid") == 0
    kept = (scratch / "grid" / "1" / "summary.json").stat().st_mtime_ns
    assert call("train", "-m", *SMALL, "seed=2,0,1", "hydra.sweep.dir=grid", "resume=true") == 0
    seeds = sorted(Run(p).config["seed"] for p in run_folders(scratch / "grid"))
    assert seeds == [0, 1, 2]
    assert (scratch / "grid" / "1" / "summary.json").stat().st_mtime_ns == kept


def test_two_sweeps_of_one_second_do_not_meet(scratch: Path) -> None:
    names = set()
    for _ in range(3):
        assert call("train", "-m", "data=half_moons", "model.hidden=1", "seed=0") == 1
        names = {p.name for p in (scratch / "multirun" / "train").iterdir()}
    assert len(names) == 3


def test_rays_usage_statistics_are_off_unless_asked(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train", "-m", "seed=0", *SMALL) == 0
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert call("train", "-m", "seed=0", *SMALL) == 0
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"


def test_a_preset_sweeps_without_minus_m(scratch: Path) -> None:
    assert call("train", "sweep=seeds", *SMALL, "hydra.sweeper.params.seed='0,1'") == 0
    assert len(statuses(only_sweep(scratch))) == 2


def test_one_thread_a_job(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS and OpenMP pools have ``threads`` threads while a job trains, whatever they had before."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from sslmanifold.training import fit

    seen: list[int] = []
    train = fit.run_training

    def watched(config: dict[str, Any], folder: Path, **options: Any) -> Run:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return train(config, folder, **options)

    monkeypatch.setattr(fit, "run_training", watched)
    with threadpool_limits(2):
        assert call("train", "-m", *SMALL, "seed=0") == 0
    assert seen
    assert set(seen) == {1}


def test_optuna_minimises_a_summary_key(scratch: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="sslmanifold[optuna] is not installed")
    import yaml

    line = (
        "train",
        "sweep=search",
        *SMALL,
        "hydra.sweeper.n_trials=4",
        "optimized_metric=train/optimality_gap",
    )
    assert call(*line) == 0
    sweep = only_sweep(scratch)
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    gaps = [Run(p).summary["train/optimality_gap"] for p in run_folders(sweep)]
    assert len(gaps) == 4
    assert best["best_value"] == pytest.approx(min(gaps))


@pytest.mark.slow
def test_joblib_killed_in_the_middle_and_resumed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table as a sweep that nobody stopped."""
    line = [
        "train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "constraint=none,orthogonal", "seed=0,1",
        "data=half_moons", "data.n=50", "trainer.max_steps=300", "callbacks=[spectrum,ode]",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "sslmanifold", *line], start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not list(scratch.rglob("summary.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    sweep = only_sweep(scratch)
    manifest = Manifest.read(sweep)
    assert manifest is not None
    assert manifest.jobs == 4
    finished = {p: p.stat().st_mtime_ns for p in sweep.rglob("summary.json")}
    assert 0 < len(finished) <= 4
    serial = [a for a in line if not a.startswith("hydra")]
    assert call(*serial, "resume=true") == 0  # another launcher, the same line
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert call(*serial, "hydra.sweep.dir=whole") == 0

    def table(folder: Path) -> list[dict[str, str]]:
        (_, _, path), _ = write_report([folder], out=scratch / "report")
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
        return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in rows]

    assert table(sweep) == table(scratch / "whole")


@pytest.mark.slow
def test_submitits_local_executor(scratch: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="sslmanifold[submitit] is not installed"
    )
    assert (
        call("train", "-m", *SMALL, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "seed=0")
        == 0
    )
    assert statuses(only_sweep(scratch))["0"] == "completed"


def test_no_network_unless_asked(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep logged to W&B, a report and a table, where any connection but to this machine is an error."""
    connect = socket.socket.connect
    tried: list[Any] = []

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            tried.append(address)
            raise OSError(f"the network is blocked: {address}")
        connect(self, address)

    def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        if host not in (None, "", "127.0.0.1", "::1", "localhost"):
            tried.append(host)
            raise socket.gaierror(f"the network is blocked: {host}")
        return getaddrinfo(host, *rest, **options)

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert call("train", "-m", *SMALL, "seed=0,1", "logger=wandb") == 0
    sweep = only_sweep(scratch)
    assert call("report", str(sweep)) == 0
    assert call("runs", str(sweep)) == 0
    assert tried == []
    assert len(list(sweep.glob("*/wandb/offline-run-*"))) == 2
    groups = {Run(p).config["logger"]["group"] for p in run_folders(sweep)}
    assert groups == {sweep.name}


def test_summary_is_json_without_nan(scratch: Path) -> None:
    assert call("train", "-m", *SMALL, "constraint=none", "trainer.max_steps=200", "seed=0") == 0
    text = (only_sweep(scratch) / "0" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["status"] == "diverged"
