"""The offline W&B run, read back from its file: what was logged is what was measured."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from sslmanifold.commands import sync
from sslmanifold.errors import UserError
from sslmanifold.loggers import WandB
from sslmanifold.loggers.wandb_media import log_probes
from sslmanifold.loggers.wandb_parts import wandb_id
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training


def records(run_dir: Path, part: int = 0) -> list[dict[str, Any]]:
    """The records of an offline run, as W&B's own reader prints them."""
    path = sorted((run_dir / "wandb").glob("offline-run-*"))[part]
    (file,) = path.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def of_type(lines: list[dict[str, Any]], kind: str) -> list[Any]:
    return [line.get(kind, line.get("data", line)) for line in lines if line.get("type") == kind]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Run]) -> Run:
    return train(
        "data=half_moons", "data.n=40", "trainer.max_steps=30", "logger=wandb", "logger.group=widths",
        "logger.tags=[mine]", callbacks="[spectrum,ode,figures]", folder=tmp_path_factory.mktemp("wandb"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def lines(logged: Run) -> list[dict[str, Any]]:
    return records(logged.path)


def test_identity(lines: list[dict[str, Any]], logged: Run) -> None:
    (run,) = of_type(lines, "run")
    assert run["project"] == "sslmanifold"
    assert run.get("run_group", run.get("group")) == "widths"
    assert run["job_type"] == "train"
    tags = {"mine", "data:half_moons", "constraint:orthogonal", "loss:contrastive", "model:two_layer"}
    assert set(run["tags"]) == tags
    assert run["config"]["update"]["data"]["n"] == 40
    assert run["config"]["update"]["trainer"]["max_steps"] == 30


def test_rows_are_the_rows_of_metrics_csv(lines: list[dict[str, Any]], logged: Run) -> None:
    rows = [r["item"] for r in of_type(lines, "history") if "train/loss" in r["item"]]
    metrics = logged.metrics
    assert [r["epoch"] for r in rows] == metrics["step"] == [0, 10, 20, 30]
    for key in ("train/loss", "rank/effective", "ode/time", "ode/deviation_max", "constraint/residual"):
        assert [r[key] for r in rows] == pytest.approx(metrics[key], rel=1e-12), key


def test_axes_and_extremes(lines: list[dict[str, Any]], logged: Run) -> None:
    metrics = of_type(lines, "metric")
    axis = {
        m.get("name", m.get("glob_name")): m.get("step_metric") for m in metrics
    }  # the last definition counts
    assert axis["*"] == axis["train/loss"] == "ode/time"
    last: dict[str, Any] = {}
    for update in of_type(lines, "summary"):
        last |= update["update"]
    loss = logged.metrics["train/loss"]
    assert last["train/loss"] == pytest.approx({"last": loss[-1], "min": min(loss), "max": max(loss)})
    assert last["status"] == "completed"
    assert last["ode/flow"] == "orthogonal"


def test_media(lines: list[dict[str, Any]], logged: Run) -> None:
    files = " ".join(f["path"] for r in of_type(lines, "files") for f in r["files"])
    for figure in ("loss", "effective_rank", "singular_values", "embedding"):
        assert f"media/images/figures/{figure}" in files
    for chart in ("loss_against_ode", "singular_values", "embedding"):
        assert f"media/table/charts/{chart}_table" in files
    (path,) = logged.path.glob("wandb/offline-run-*/files/media/table/charts/loss_against_ode*.json")
    table = json.loads(path.read_text())
    training = [row for row in table["data"] if "training" in row]
    assert [row[table["columns"].index("lineVal")] for row in training] == pytest.approx(
        logged.metrics["train/loss"]
    )
    flow = [row for row in table["data"] if "ODE" in row]
    expected = logged.trajectory["ode_loss"].mean(-1).tolist()
    assert [row[table["columns"].index("lineVal")] for row in flow] == pytest.approx(expected)


def test_ends_with_its_exit_code(lines: list[dict[str, Any]]) -> None:
    (end,) = of_type(lines, "exit")
    assert end.get("exit_code", 0) == 0


def test_probes_join_the_same_run_and_are_synced_together(
    logged: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(logged.path, folder)
    (folder / "probes").mkdir()
    result = {"accuracy": 0.75, "confusion": [[3, 1], [1, 3]]}
    (folder / "probes" / "knn.json").write_text(json.dumps(result))
    assert log_probes(folder)
    assert not log_probes(folder), "logged twice"
    first, second = records(folder, 0), records(folder, 1)
    assert of_type(first, "run")[0]["run_id"] == of_type(second, "run")[0]["run_id"]
    (row,) = [r["item"] for r in of_type(second, "history")]
    assert row["probe/knn/accuracy"] == 0.75
    assert row["_step"] > max(r["item"]["_step"] for r in of_type(first, "history"))
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/probe/knn/predictions*.json")
    assert json.loads(path.read_text())["data"][1] == ["0", "1", 1, False]
    assert [len(parts) for parts in sync.offline_runs([str(tmp_path)]).values()] == [2]
    assert sync.main([str(tmp_path), "dry_run=true"]) == 0
    assert capsys.readouterr().out.count("offline-run-") == 2
    for part in folder.glob("wandb/offline-run-*"):
        (file,) = part.glob("*.wandb")
        file.with_suffix(".wandb.synced").touch()
    assert sync.offline_runs([str(tmp_path)]) == {}


def test_sync_hands_wandb_the_parts_in_order(
    logged: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # two parts that began in the same second: wandb tells the folders apart by a number
    for name in ("20260102_000000-abc", "20260101_000000-abc-1", "20260101_000000-abc"):
        part = tmp_path / "wandb" / f"offline-run-{name}"
        part.mkdir(parents=True)
        (part / "run-abc.wandb").touch()
    calls: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("wandb.login", lambda **_: True)
    assert sync.main([str(tmp_path), "project=p"]) == 0
    (command,) = calls
    assert command[1:5] == ["-P", "-m", "wandb", "sync"]
    assert "--project=p" in command
    names = ["20260101_000000-abc", "20260101_000000-abc-1", "20260102_000000-abc"]
    assert [Path(c).name for c in command[-3:]] == [f"offline-run-{name}" for name in names]


def test_parts_of_one_second_belong_to_one_run(tmp_path: Path) -> None:
    assert wandb_id(tmp_path) is None
    for name in ("20260101_000000-abc", "20260101_000000-abc-1"):
        part = tmp_path / "wandb" / f"offline-run-{name}"
        part.mkdir(parents=True)
        (part / "run-abc.wandb").touch()
    assert wandb_id(tmp_path) == "abc"


def test_a_server_out_of_reach_is_one_line_and_a_summary(
    compose_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    def unreachable(**_: Any) -> None:
        raise wandb.errors.CommError("no such host\nConsider this")

    monkeypatch.setattr(wandb, "init", unreachable)
    with pytest.raises(
        UserError, match=r"did not start the run \(no such host Consider this\): set logger\.mode=off"
    ):
        run_training(compose_config("data=half_moons", "logger=wandb", "logger.mode=online"), tmp_path)
    summary = Run(tmp_path).summary
    assert summary["status"] == "failed"
    assert "no such host" in summary["reason"]


def test_sync_without_an_account_says_so_once(tmp_path: Path) -> None:
    for run_id in ("abc", "def"):
        part = tmp_path / "wandb" / f"offline-run-20260101_000000-{run_id}"
        part.mkdir(parents=True)
        (part / f"run-{run_id}.wandb").touch()
    nobody = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "sslmanifold", "sync", str(tmp_path)]
    done = subprocess.run(command, env=nobody, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("wandb:")]
    assert line.startswith("sslmanifold sync: no W&B account here: run `wandb login`, or set WANDB_API_KEY")


def test_sync_names_what_was_not_uploaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_id in ("abc", "def", "ghi"):
        part = tmp_path / "wandb" / f"offline-run-20260101_000000-{run_id}"
        part.mkdir(parents=True)
        (part / f"run-{run_id}.wandb").touch()

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int("def" in command[-1]))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("wandb.login", lambda **_: True)
    assert sync.main([str(tmp_path)]) == 1
    assert "1 of 3 runs were not uploaded: def." in capsys.readouterr().err


def test_tensorboard_holds_the_same_rows(train: Callable[..., Run], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(
        "data=half_moons", "data.n=40", "trainer.max_steps=20", "logger=tensorboard", folder=tmp_path / "tb"
    )
    events = EventAccumulator(str(tmp_path / "tb" / "tensorboard"))
    events.Reload()
    points = events.Scalars("train/loss")
    assert [p.step for p in points] == run.metrics["step"]
    assert [p.value for p in points] == pytest.approx(run.metrics["train/loss"], rel=1e-6)
    assert "summary/text_summary" in events.Tags()["tensors"]


def test_a_resumed_run_continues_the_same_wandb_run(
    train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    started: list[str | None] = []
    init = wandb.init

    def watched(*args: Any, **kwargs: Any) -> Any:
        started.append(kwargs.get("resume"))
        return init(*args, **kwargs)

    monkeypatch.setattr(wandb, "init", watched)
    line = ("data=half_moons", "data.n=40", "logger=wandb")
    train(*line, "trainer.max_steps=20", folder=tmp_path / "run")
    train(*line, "trainer.max_steps=40", f"ckpt_path={tmp_path / 'run'}", folder=tmp_path / "run")
    first, second = records(tmp_path / "run", 0), records(tmp_path / "run", 1)
    assert of_type(first, "run")[0]["run_id"] == of_type(second, "run")[0]["run_id"]
    epochs = [
        r["item"]["epoch"]
        for part in (first, second)
        for r in of_type(part, "history")
        if "epoch" in r["item"]
    ]
    assert epochs == [0, 10, 20, 30, 40]
    steps = [[r["item"]["_step"] for r in of_type(part, "history")] for part in (first, second)]
    assert steps[0][0] == 0
    assert max(steps[0]) < min(steps[1]), "an upload would put the second part over the first"
    assert started == [None, "allow"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "g" * 150}, "logger.group"),
        ({"name": "n" * 129}, "has 129 characters and W&B takes 128"),
        ({"project": "p" * 129}, "logger.project"),
        ({"project": "a/b"}, "which refuses /"),
        ({"project": ""}, "logger.project=sslmanifold"),
        ({"tags": ["t" * 65]}, "W&B takes 64"),
        ({"tags": [""]}, "empty tag"),
    ],
)
def test_what_the_server_would_refuse_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refusal:
        WandB(**options)
    assert said in str(refusal.value)
    WandB(project="p" * 128, name="n" * 128, group="g" * 128, tags=["t" * 64])


def test_what_callbacks_log_arrives_too(train: Callable[..., Run], tmp_path: Path) -> None:
    """Learning rates come before the row of their step, device statistics after it: W&B drops steps that go back."""
    theirs = "lightning.pytorch.callbacks"
    train(
        "data=half_moons", "data.n=40", "trainer.max_steps=20", "trainer.log_every_n_steps=5", "logger=wandb",
        f"+callbacks.lr._target_={theirs}.LearningRateMonitor", f"+callbacks.d._target_={theirs}.DeviceStatsMonitor",
        "+callbacks.d.cpu_stats=true", folder=tmp_path,
    )  # fmt: skip
    rows = [r["item"] for r in of_type(records(tmp_path), "history")]
    for key in ("lr-RiemannianSGD", "train/loss"):
        assert sum(key in row for row in rows) >= 4, key
    assert any(any("cpu_percent" in key for key in row) for row in rows)
