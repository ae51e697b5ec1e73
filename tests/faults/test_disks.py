"""A disk that is full, read-only, shared or gone: one line, nothing half-written, and the next command works."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sslmanifold.errors import OutputError
from sslmanifold.runs import Run, RunFolder, atomic
from sslmanifold.runs.writing import remove_partials

LINE = ("train", "data=half_moons", "data.n=40", "trainer.max_steps=60", "checkpoint.every_n_steps=10")


def one_line(said: str) -> str:
    """What was said, which is no traceback and names the trouble once."""
    assert "Traceback" not in said, said
    assert "Error executing job" not in said, said  # Hydra's, of an error that leaves a job
    lines = [line for line in said.splitlines() if line.startswith("sslmanifold ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.parametrize("largest", [400, 3_000, 20_000, 60_000])
def test_files_may_not_grow(forge: Any, tmp_path: Path, partial_files: Any, largest: int) -> None:
    """From a limit that not even config.yaml keeps to one that only figures exceed."""
    status, said = forge.run(*LINE, "hydra.run.dir=run", cwd=tmp_path, largest_file=largest)
    assert status == 1, said
    assert "File too large" in one_line(said)
    assert partial_files(tmp_path) == []
    run = RunFolder(tmp_path / "run")
    if run.summary.exists():
        summary = Run(run.path).summary
        assert summary["status"] == "interrupted"
        assert "File too large" in summary["reason"]
    status, said = forge.run(*LINE, "ckpt_path=last", "hydra.run.dir=run", cwd=tmp_path)
    assert status == 0, said
    assert Run(run.path).summary["status"] == "completed"
    assert (run.figures / "loss.png").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 5 MB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("left", [0, 8_192, 65_536, 200_000])
def test_a_full_disk(forge: Any, small_disk: Path, partial_files: Any, left: int) -> None:
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    if left:
        os.truncate(filler, filler.stat().st_size - left)
    status, said = forge.run(*LINE, "hydra.run.dir=disk/run", cwd=small_disk.parent)
    assert status == 1, said
    assert "No space left on device" in one_line(said)
    assert partial_files(small_disk) == []
    filler.unlink()
    status, said = forge.run(*LINE, "ckpt_path=last", "hydra.run.dir=disk/run", cwd=small_disk.parent)
    assert status == 0, said
    assert Run(small_disk / "run").summary["status"] == "completed"


@pytest.fixture
def read_only(small_disk: Path) -> Callable[[], None]:
    """From the call on the small disk can only be read: what root's rights do not get around."""

    def remount() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    return remount


@pytest.mark.parametrize(
    "arguments",
    [
        (*LINE, "hydra.run.dir=disk/new"),
        ("train", "ckpt_path=disk/run", "trainer.max_steps=80"),
        (*LINE, "-m", "seed=0,1", "hydra.sweep.dir=disk/sweep"),
        ("probe", "disk/run", "bootstrap=100", "baselines=[]"),
        ("export", "disk/run", "formats=[npz]"),
        ("report", "disk/run"),
        ("dynamics", "data=half_moons", "data.n=40", "hydra.run.dir=disk/new"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_can_only_be_read(
    forge: Any, small_disk: Path, read_only: Callable[[], None], arguments: tuple[str, ...]
) -> None:
    assert forge.run(*LINE, "hydra.run.dir=disk/run", cwd=small_disk.parent)[0] == 0
    read_only()
    before = {p: p.stat().st_mtime_ns for p in small_disk.rglob("*") if p.is_file()}
    status, said = forge.run(*arguments, cwd=small_disk.parent)
    assert status == 1, said
    assert "Read-only file system" in one_line(said)
    assert {p: p.stat().st_mtime_ns for p in small_disk.rglob("*") if p.is_file()} == before
    assert forge.run("runs", "disk", cwd=small_disk.parent)[0] == 0  # which only reads


def test_the_folder_is_removed_while_the_run_writes_into_it(forge: Any, tmp_path: Path) -> None:
    command = forge.start(*LINE, "trainer.max_steps=100000", "hydra.run.dir=run", cwd=tmp_path)
    folder = RunFolder(tmp_path / "run")
    end = time.monotonic() + 60
    while not folder.checkpoint.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    while folder.path.exists():
        shutil.rmtree(folder.path, ignore_errors=True)
    status, said = command.wait(), command.said()
    assert status == 1, said
    assert "was removed while" in one_line(said)
    assert not folder.path.exists()  # nothing is written into a new one in its place
    assert forge.run(*LINE, "hydra.run.dir=run", cwd=tmp_path)[0] == 0


def test_two_resumes_at_once(forge: Any, tmp_path: Path) -> None:
    assert forge.run(*LINE, "hydra.run.dir=run", cwd=tmp_path)[0] == 0
    more = ("train", "ckpt_path=run", "trainer.max_steps=1500", "checkpoint.every_n_steps=1")
    both = [forge.start(*more, cwd=tmp_path) for _ in range(2)]
    ended = sorted((command.wait(), command.said()) for command in both)
    assert [status for status, _ in ended] == [0, 2], ended
    assert "another process is writing into" in one_line(ended[1][1])
    summary = Run(tmp_path / "run").summary
    assert (summary["status"], summary["steps"]) == ("completed", 1500)


def test_two_trainings_into_one_folder_at_once(forge: Any, tmp_path: Path) -> None:
    both = [forge.start(*LINE, "hydra.run.dir=run", cwd=tmp_path) for _ in range(2)]
    ended = sorted((command.wait(), command.said()) for command in both)
    assert [status for status, _ in ended] == [0, 2], ended
    one_line(ended[1][1])


@pytest.mark.parametrize("name", ["run a=b", "größe ψ=1", "it's 50% {of} [all], +more"])
def test_a_folder_of_any_name(forge: Any, tmp_path: Path, name: str) -> None:
    quoted = "'" + name.replace("'", r"\'") + "'"
    assert forge.run(*LINE, f"hydra.run.dir={quoted}", cwd=tmp_path)[0] == 0
    for arguments in (
        ("train", f"ckpt_path={quoted}", "trainer.max_steps=80"),
        ("probe", name, "bootstrap=100", "baselines=[]"),
        ("export", name, "formats=[npz]"),
        ("report", name),
        ("runs", name),
    ):
        status, said = forge.run(*arguments, cwd=tmp_path)
        assert status == 0, (arguments, said)
    assert Run(tmp_path / name).summary["steps"] == 80
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".log")} == {name}


def test_a_working_directory_that_reads_as_an_interpolation(forge: Any, tmp_path: Path) -> None:
    work = tmp_path / "a${b}c"
    work.mkdir()
    status, said = forge.run(*LINE, "hydra.run.dir=run", cwd=work)
    assert status == 2, said
    assert "takes for an interpolation" in one_line(said)
    assert not (work / "run").exists()


# -- partial files -----------------------------------------------------------------------------------------


def test_only_partial_files_are_removed(tmp_path: Path) -> None:
    ours = [
        ".config.yaml.ab12_cde.yaml",
        ".loss.png.zzzzzzzz.png",
        ".last.ckpt.partial",
        ".x.tar.gz.abcdefgh.gz",
    ]
    theirs = [
        ".bashrc",
        ".config.yaml",
        ".bashrc.original",
        ".env.local",
        ".a.png.abcdefgh.jpg",
        "x.yaml.abcdefgh.yaml",
    ]
    for name in (*ours, *theirs):
        (tmp_path / name).touch()
    remove_partials(tmp_path, older_than=60)
    assert len(list(tmp_path.iterdir())) == len(ours) + len(theirs)
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(theirs)


def test_a_write_that_fails_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("former")
    with (
        pytest.raises(OutputError, match=r"x\.json cannot be written: No space left on device; make room"),
        atomic(path),
    ):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "former"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
