"""Commands killed at random moments: the next one goes on, and the end is that of a command that nobody killed."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.runs import Run, RunFolder, run_folders

pytestmark = pytest.mark.slow

Partials = Callable[[Path], list[str]]

# of a command that is told to end: it ended before, it says so, or nothing of its own could answer
ANSWERS = {
    "SIGKILL": (0, -9),
    "SIGINT": (0, 130),
    "SIGTERM": (0, 130, -15),  # before the command has put its own answer in place
    "SIGINT twice": (0, 130),
    "SIGTERM twice": (0, 130, -15),  # the second may come after the answer to the first, while Python ends
}


def read_summary(folder: Path) -> dict[str, Any]:
    """What the folder's summary says; nothing where there is none."""
    summary = RunFolder(folder).summary
    return json.loads(summary.read_text()) if summary.exists() else {}


def consistent(status: int, said: str, folder: Path, before: dict[str, Any]) -> None:
    """What may be found after a death: no traceback, and an exit status that agrees with the summary.

    Args:
        before: the summary that the folder had when the command started.
    """
    assert "Traceback" not in said, said
    run, summary = RunFolder(folder), read_summary(folder)
    if status == 0:
        assert summary["status"] == "completed", (summary, said)
    elif status == 130:
        # a command that dies before it has read that nothing is left to do says so, and leaves all as it was
        assert summary.get("status", "interrupted") == "interrupted" or summary == before, (summary, said)
        assert "interrupted" in said
    if summary.get("status") == "completed":  # the summary is what says that all is there
        assert (run.figures / "loss.png").exists()
        assert run.trajectory.exists()


def same(folder: Path, whole: Path) -> None:
    """The same numbers, bit for bit, and the same files."""
    ours, theirs = Run(folder), Run(whole)
    assert ours.folder.metrics.read_bytes() == theirs.folder.metrics.read_bytes()
    for one, other in zip(ours.model.weights, theirs.model.weights, strict=True):
        assert torch.equal(one, other)
    for name, array in theirs.trajectory.items():
        np.testing.assert_array_equal(ours.trajectory[name], array, err_msg=name)
    passing = ("wall_seconds", "checkpoint/best_step", "checkpoint/best_value")
    assert {k: v for k, v in ours.summary.items() if k not in passing} == {
        k: v for k, v in theirs.summary.items() if k not in passing
    }
    files = [
        {str(p.relative_to(f)) for p in f.rglob("*") if ".hydra" not in p.parts} for f in (folder, whole)
    ]
    assert files[0] == files[1]


# -- train -------------------------------------------------------------------------------------------------

TRAIN = (
    "train", "data=half_moons", "data.n=60", "trainer.max_steps=250", "trainer.log_every_n_steps=5",
    "checkpoint.every_n_steps=10", "optimizer.momentum=0.5", "data.batch_size=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(forge: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A training that nobody killed, and how long it took."""
    cwd = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    status, said = forge.run(*TRAIN, "hydra.run.dir=run", cwd=cwd)
    assert status == 0, said
    return cwd / "run", time.monotonic() - started


@pytest.mark.parametrize("death", ANSWERS)
@pytest.mark.parametrize("chain", range(3))
def test_train(
    forge: Any,
    whole: tuple[Path, float],
    tmp_path: Path,
    partial_files: Partials,
    death: str,
    chain: int,
) -> None:
    """Chains of three: killed, resumed and killed, resumed and killed, resumed. 45 deaths in all."""
    rng = random.Random(f"{death} {chain}")
    expected, seconds = whole
    folder = tmp_path / "run a=ψ"
    line = (*TRAIN, "ckpt_path=last", "hydra.run.dir='run a=ψ'")  # to be repeated until it is done
    for _ in range(3):
        before = read_summary(folder)
        command = forge.start(*line, cwd=tmp_path)
        time.sleep(rng.uniform(0, 1.1 * seconds))
        status = command.die(death, between=rng.uniform(0, 0.3)) if command.ended() is None else 0
        assert status in ANSWERS[death], command.said()
        consistent(status, command.said(), folder, before)
    status, said = forge.run(*line, cwd=tmp_path)
    assert status == 0, said
    assert partial_files(folder) == []
    same(folder, expected)


# -- probe -------------------------------------------------------------------------------------------------

PROBE = ("bootstrap=500", "probe=[knn,linear_svm,logistic]", "baselines=[pca]")


@pytest.mark.parametrize("death", ANSWERS)
def test_probe(
    forge: Any,
    whole: tuple[Path, float],
    tmp_path: Path,
    partial_files: Partials,
    death: str,
) -> None:
    """Five deaths of each kind; nothing of the run itself is touched."""
    rng = random.Random(death)
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    started = time.monotonic()
    assert forge.run("probe", "run", *PROBE, cwd=tmp_path)[0] == 0
    seconds = time.monotonic() - started
    results = {p.name: p.read_bytes() for p in (folder / "probes").iterdir()}
    shutil.rmtree(folder / "probes")
    for _ in range(5):
        command = forge.start("probe", "run", *PROBE, cwd=tmp_path)
        time.sleep(rng.uniform(0, 1.1 * seconds))
        status = command.die(death, between=rng.uniform(0, 0.2)) if command.ended() is None else 0
        assert status in ANSWERS[death], command.said()
        assert "Traceback" not in command.said()
        for path in (folder / "probes").glob("[!.]*.json"):
            assert path.read_bytes() == results[path.name]
    for path in (folder / "probes").glob(".*"):  # as old as they are where somebody comes back to them
        os.utime(path, (0, 0))
    assert forge.run("probe", "run", *PROBE, cwd=tmp_path)[0] == 0
    assert {p.name: p.read_bytes() for p in (folder / "probes").iterdir()} == results
    assert {p: p.read_bytes() for p in before} == before
    assert partial_files(folder) == []


# -- reproduce ---------------------------------------------------------------------------------------------

REPRODUCE = (
    "reproduce",
    "figure=[lemma1,3,theorem3]",
    "quick=true",
    "jobs=1",
    "data=digits",
    "hydra.run.dir=out",
)


@pytest.fixture(scope="module")
def reproduced(forge: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    cwd = tmp_path_factory.mktemp("reproduced")
    started = time.monotonic()
    status, said = forge.run(*REPRODUCE, cwd=cwd)
    assert status == 0, said
    return cwd / "out", time.monotonic() - started


@pytest.mark.parametrize("death", ANSWERS)
def test_reproduce(
    forge: Any,
    reproduced: tuple[Path, float],
    tmp_path: Path,
    partial_files: Partials,
    death: str,
) -> None:
    """Four deaths of each kind: finished parts stay, and every figure is there in the end, as PNG and as PDF."""
    rng = random.Random(death)
    expected, seconds = reproduced
    out = tmp_path / "out"
    kept: dict[str, Any] = {}
    for _ in range(4):
        command = forge.start(*REPRODUCE, cwd=tmp_path)
        time.sleep(rng.uniform(0, 0.9 * seconds))
        status = command.die(death, between=rng.uniform(0, 0.3)) if command.ended() is None else 0
        assert status in ANSWERS[death], command.said()
        assert "Traceback" not in command.said()
        records = {p.stem: json.loads(p.read_text()) for p in (out / "parts").glob("*.json")}
        for name, record in kept.items():
            assert records[name]["claims"] == record["claims"]
            assert records[name]["seconds"] == record["seconds"]  # not computed again
        kept = records
    status, said = forge.run(*REPRODUCE, cwd=tmp_path)
    assert status == 0, said
    assert (out / "claims.json").read_bytes() == (expected / "claims.json").read_bytes()
    figures = [{p.name for p in (f / "figures").iterdir()} for f in (out, expected)]
    assert figures[0] == figures[1]
    assert [p for p in partial_files(out) if not p.startswith("runs/")] == []


# -- sweep -------------------------------------------------------------------------------------------------

SWEEP = (
    "train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "constraint=orthogonal,frobenius", "seed=0,1",
    "data=half_moons", "data.n=60", "trainer.max_steps=400", "checkpoint.every_n_steps=20", "callbacks=[spectrum,ode]",
)  # fmt: skip


@pytest.fixture(scope="module")
def swept(forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same jobs one after the other, which nobody killed."""
    cwd = tmp_path_factory.mktemp("swept")
    serial = [argument for argument in SWEEP if not argument.startswith("hydra")]
    status, said = forge.run(*serial, "hydra.sweep.dir=sweep", cwd=cwd)
    assert status == 0, said
    return cwd / "sweep"


@pytest.mark.parametrize("death", ANSWERS)
def test_a_joblib_sweep(forge: Any, swept: Path, tmp_path: Path, partial_files: Partials, death: str) -> None:
    """Four deaths of each kind: what is done is never done again."""
    rng = random.Random(death)
    sweep = tmp_path / "sweep"
    done: dict[Path, int] = {}
    for _ in range(4):
        command = forge.start(*SWEEP, "hydra.sweep.dir=sweep", "resume=true", cwd=tmp_path)
        running = time.monotonic() + 60  # the workers import first
        while command.ended() is None and time.monotonic() < running:
            if any(
                not (p / "summary.json").exists() for p in run_folders(sweep) if (p / "metrics.csv").exists()
            ):
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2.0))
        status = command.die(death, between=rng.uniform(0, 0.5)) if command.ended() is None else 0
        assert status in ANSWERS[death], command.said()
        # Ctrl-C reaches a worker's Python too, which may not have run a line of ours yet
        starting = command.said().count('Traceback (most recent call last):\n  File "<frozen runpy>"')
        assert command.said().count("Traceback") == starting, command.said()
        found = {p: Run(p).summary.get("status") for p in run_folders(sweep)} if sweep.exists() else {}
        assert set(found.values()) <= {"completed", "interrupted", None}, (found, command.said())
        for path, when in done.items():
            assert (path / "summary.json").stat().st_mtime_ns == when
        done = {p: (p / "summary.json").stat().st_mtime_ns for p, s in found.items() if s == "completed"}
    status, said = forge.run(*SWEEP, "hydra.sweep.dir=sweep", "resume=true", cwd=tmp_path)
    assert status == 0, said
    assert partial_files(sweep) == []
    for path in run_folders(swept):
        ours, theirs = Run(sweep / path.name), Run(path)
        assert ours.folder.metrics.read_bytes() == theirs.folder.metrics.read_bytes()
        for one, other in zip(ours.model.weights, theirs.model.weights, strict=True):
            assert torch.equal(one, other)
