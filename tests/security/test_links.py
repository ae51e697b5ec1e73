"""Links and settings in a folder that would lead what is written, or sent, somewhere else."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslmanifold import train
from sslmanifold.cli import main
from sslmanifold.commands import sync
from sslmanifold.report.write import write_report
from sslmanifold.runs import Run, run_folders
from sslmanifold.training.fit import run_training


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user's, which nothing may touch."""
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in (
        "embedding.npz",
        "table.csv",
        "ridge.json",
        "last.ckpt",
        "loss.png",
        "config.yaml",
        "overrides.yaml",
    ):
        (folder / name).write_text("mine")
    return folder


def untouched(folder: Path) -> bool:
    return len(list(folder.iterdir())) == 7 and all(path.read_text() == "mine" for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["checkpoints", "figures", "probes", "export", "wandb", "tensorboard", ".hydra"]
)
def test_nothing_is_written_through_a_folder_that_is_a_link(
    name: str, foreign: Callable[..., Path], precious: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign()
    if name == "checkpoints":  # a whole checkpoint, elsewhere
        (precious / "last.ckpt").write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
        (folder / "checkpoints").rmdir()
    (folder / name).symlink_to(precious)
    before = {path: path.read_bytes() for path in precious.iterdir()}
    lines = [
        ("export", str(folder), "formats=[npz]"),
        ("probe", str(folder), "probe=ridge", "bootstrap=100", "baselines=[pca]"),
        ("train", f"ckpt_path={folder}", "trainer.max_steps=30"),
        ("train", "data=half_moons", "trainer.max_steps=2", f"hydra.run.dir={folder}", "overwrite=true"),
        ("train", "-m", "seed=0", "data=half_moons", f"hydra.sweep.dir={folder.parent}", "resume=true"),
    ]
    for line in lines:
        if line[1] == "-m" and name != ".hydra":
            continue
        assert call(*line) == 2, line
        message = capsys.readouterr().err
        assert f"{folder / name} is a link to {precious}" in message
        assert len(message.splitlines()) == 1
    assert {path: path.read_bytes() for path in precious.iterdir()} == before


def test_nor_deeper_down(foreign: Callable[..., Path], precious: Path, capsys: Any) -> None:
    folder = foreign()
    (folder / "probes" / "finetune").mkdir(parents=True)
    (folder / "probes" / "finetune" / "100%").symlink_to(precious)
    assert call("probe", str(folder), "probe=finetune") == 2
    assert "is a link to" in capsys.readouterr().err
    assert untouched(precious)


def test_a_file_that_is_a_link_is_replaced_not_followed(foreign: Callable[..., Path], precious: Path) -> None:
    folder = foreign()
    for name, target in (
        ("metrics.csv", "table.csv"),
        ("summary.json", "ridge.json"),
        ("report.html", "loss.png"),
    ):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(precious / target)
    write_report([folder])
    config = Run(folder).config
    config["trainer"]["max_steps"] = 30
    assert run_training(config | {"ckpt_path": str(folder)}, folder).summary["steps"] == 30
    assert untouched(precious)
    assert not (folder / "summary.json").is_symlink()


def test_links_inside_a_run_and_to_whole_runs_are_fine(foreign: Callable[..., Path], tmp_path: Path) -> None:
    folder = foreign()
    (folder / "figures").mkdir()
    (folder / "figures" / "newest.png").symlink_to(folder / "figures" / "loss.png")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert train("trainer.max_steps=25", ckpt_path=linked).summary["steps"] == 25


def test_links_that_lead_back_end(foreign: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    for name in ("one", "two", "three"):
        (root / "a" / "b" / name).symlink_to(root)
        (root / name).symlink_to(root / "a")
    (root / "run").symlink_to(foreign())
    found = list(run_folders(root))
    assert found[-1] == root / "run"
    assert len(found) < 200
    os.unlink(root / "run")
    assert not list(run_folders(root))


@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_a_folder_does_not_say_where_a_key_is_sent(
    name: str, foreign: Callable[..., Path], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign()
    (folder / name).mkdir()
    (folder / name / "settings").write_text("[default]\nbase_url = https://example.org\n")
    monkeypatch.setattr(sync, "_log_in", lambda: pytest.fail("it spoke to a server"))
    for line in (("sync", str(folder)), ("train", f"ckpt_path={folder}", "trainer.max_steps=30")):
        assert call(*line) == 2
        assert "would tell W&B where to send" in capsys.readouterr().err
    monkeypatch.chdir(folder)
    assert call("sync", ".") == 2


def test_a_link_to_a_file_elsewhere_is_not_uploaded(
    foreign: Callable[..., Path], precious: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign()
    part = folder / "wandb" / "offline-run-20260101_000000-abcdefgh"
    (part / "files" / "media").mkdir(parents=True)
    (part / "run-abcdefgh.wandb").write_bytes(b"")
    (part / "files" / "media" / "x.png").symlink_to(precious / "loss.png")
    monkeypatch.setattr(sync, "_log_in", lambda: pytest.fail("it spoke to a server"))
    assert call("sync", str(folder)) == 2
    assert "which would be uploaded" in capsys.readouterr().err
