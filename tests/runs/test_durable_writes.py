"""What a power cut leaves: the content of a file is on the disk before it takes its name, and then the name is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sslmanifold.runs import Run, atomic

Log = list[tuple[str, str]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """("flush", path) and ("name", path) in the order in which they reach the disk."""
    found: Log = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        found.append(("flush", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        found.append(("from", os.fspath(source)))
        found.append(("name", os.fspath(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    return found


def durable(log: Log) -> set[str]:
    """The files that were flushed under their former name, renamed, and whose folder was flushed then."""
    return {
        Path(log[i + 1][1]).name
        for i, (what, path) in enumerate(log)
        if what == "from"
        and log[i - 1] == ("flush", path)
        and log[i + 2 : i + 3] == [("flush", str(Path(path).parent))]
    }


def test_atomic(tmp_path: Path, log: Log) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert [what for what, _ in log] == ["flush", "from", "name", "flush"]
    assert durable(log) == {"a.txt"}
    log.clear()
    with atomic(tmp_path / "b.txt", durable=False) as temporary:
        temporary.write_text("whole")
    assert [what for what, _ in log] == ["from", "name"]


def test_a_disk_that_knows_no_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_every_file_of_a_run_and_what_is_made_of_it(
    train: Callable[..., Run], tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslmanifold.commands.export import export_run
    from sslmanifold.report.write import write_report

    run = train("data=half_moons", "data.n=20", "trainer.max_steps=20", folder=tmp_path / "run")
    export_run({"run": str(run.path), "formats": ["npz"]})
    write_report([run.path])
    written = {path.name for path in run.path.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "summary.json",
        "trajectory.npz",
        "metrics.csv",
        "last.ckpt",
        "best.ckpt",
    } <= written
    assert written <= durable(log)


def test_rows_while_training_are_renamed_and_not_flushed(tmp_path: Path, log: Log) -> None:
    """Their copy in the checkpoint is; the last ones are flushed themselves."""
    import torch

    from sslmanifold.runs import RunFolder
    from sslmanifold.training.recorder import Recorder

    recorder = Recorder(RunFolder(tmp_path))
    recorder.record(0, {"train/loss": torch.tensor(1.0)}, {}, [])
    assert (tmp_path / "metrics.csv").exists()
    assert "metrics.csv" not in durable(log)
    recorder.write()
    assert "metrics.csv" in durable(log)
