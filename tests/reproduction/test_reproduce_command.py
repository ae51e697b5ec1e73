"""``sslmanifold reproduce``: what it writes, what it keeps, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sslmanifold.config.check import validated
from sslmanifold.config.compose import composed, plain
from sslmanifold.errors import UserError
from sslmanifold.reproduction.options import reproduce_options, settings_of
from sslmanifold.reproduction.part import Settings
from sslmanifold.reproduction.parts import PARTS
from sslmanifold.reproduction.reproduce import chosen_parts, read_claims


def line(folder: Path, *overrides: str) -> list[str]:
    quick = ["quick=true", f"hydra.run.dir={folder}/out"]
    return [sys.executable, "-m", "sslmanifold", "reproduce", *quick, *overrides]


def call(folder: Path, *overrides: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SSLMANIFOLD_DATA": str(data or folder / "nothing")}
    return subprocess.run(
        line(folder, *overrides),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def living(group: int) -> dict[int, str]:
    """The processes of a group that still run: pid → command line."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [row.split(maxsplit=3) for row in listed.stdout.splitlines()]
    return {int(row[0]): row[3] for row in rows if row[1] == str(group) and not row[2].startswith("Z")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    finished = call(folder, "figure=[naive,5,theorem3]", f"gallery={folder}/gallery", "jobs=2")
    assert finished.returncode == 0, finished.stderr
    return folder


def test_figures_claims_and_readme(written: Path) -> None:
    out = written / "out"
    claims = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert len(claims) == 6
    for claim in claims:
        assert {"statement", "verdict", "value", "tolerance", "evidence", "command"} <= set(claim)
        assert claim["verdict"] in ("holds", "holds as corrected", "fails")
    readme = (out / "README.md").read_text(encoding="utf-8")
    for name in ("naive", "fig5"):
        assert f"(figures/{name}.png)" in readme
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(out / "figures" / f"{name}.png") as image:
            assert image.width > 1200
            assert "Seed 0" in image.info["Description"]
            assert "sslmanifold reproduce figure=" in image.info["Description"]
            assert "alf moons" in image.info["Description"]


@pytest.mark.slow
def test_the_number_of_processes_changes_no_number(written: Path, tmp_path: Path) -> None:
    assert call(tmp_path, "figure=[naive,5,theorem3]", "jobs=1").returncode == 0
    alone, together = read_claims(tmp_path / "out"), read_claims(written / "out")
    assert together == alone


def test_the_command_of_a_claim_runs(written: Path, tmp_path: Path) -> None:
    settings = Settings(tmp_path, data="digits")
    for part in PARTS.values():
        words = settings.command(part.name).split()
        assert words[:2] == ["sslmanifold", "reproduce"]
        options = reproduce_options(
            **validated(reproduce_options, plain(composed("reproduce", words[2:])), "")
        )
        assert chosen_parts(options["figure"]) == [part]
    command = read_claims(written / "out")[0]["command"].split()
    again = call(written, *command[2:])
    assert again.returncode == 0, again.stderr


def test_the_gallery_is_small_and_says_where_it_comes_from(written: Path) -> None:
    for name in ("naive", "fig5"):
        with (
            Image.open(written / "out" / "figures" / f"{name}.png") as full,
            Image.open(written / "gallery" / f"{name}.png") as small,
        ):
            assert small.width == min(1300, full.width)
            assert small.info["Description"] == full.info["Description"]
            assert abs(small.width / small.height - full.width / full.height) < 0.01


def test_the_readme_gallery_was_made_by_the_full_command() -> None:
    root = Path(__file__).parents[2]
    shown = re.findall(r"\((docs/gallery/\w+\.png)\)", (root / "README.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"docs/gallery/{path.name}" for path in (root / "docs/gallery").iterdir())
    drawn = [name for name, part in PARTS.items() if part.draw is not None]
    assert sorted(drawn) == sorted(Path(path).stem for path in shown)
    for path in shown:
        assert (root / path).stat().st_size < 200_000
        with Image.open(root / path) as image:
            command = image.info["Description"].rsplit("sslmanifold reproduce figure=", 1)[1]
            assert "seed=0" in command
            assert "quick" not in command


@pytest.mark.slow
def test_a_finished_part_is_kept_unless_forced_or_asked_with_another_seed(written: Path) -> None:
    part = written / "out" / "parts" / "theorem3.json"
    before = part.stat().st_mtime_ns
    first = read_claims(written / "out")
    assert call(written, "figure=theorem3").returncode == 0
    assert part.stat().st_mtime_ns == before
    assert call(written, "figure=theorem3", "force=true").returncode == 0
    assert part.stat().st_mtime_ns > before
    assert read_claims(written / "out") == first
    assert call(written, "figure=theorem3", "seed=1").returncode == 0
    other = read_claims(written / "out")
    theorem3 = [c for c in first if c["statement"].startswith("Theorem 3")]
    assert [c["verdict"] for c in other] == [c["verdict"] for c in theorem3]
    assert [c["value"] for c in other] != [c["value"] for c in theorem3]


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="figure=7 is no part of the paper: choose all, 1 to 6, lemma1"):
        chosen_parts(7)
    options = {"seed": 0, "quick": True, "data": "mnist", "root": str(tmp_path)}
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        settings_of(options, tmp_path)
    assert settings_of(options | {"data": "auto"}, tmp_path).data == "digits"
    absent = call(tmp_path, "figure=4", "data=mnist")
    assert absent.returncode == 2
    assert "train-images-idx3-ubyte" in absent.stderr
    failed = call(tmp_path, "figur=3")
    assert failed.returncode == 2
    assert "figure" in failed.stderr


def test_parts_are_chosen_by_number_name_and_list() -> None:
    assert [p.name for p in chosen_parts("all")] == list(PARTS)
    assert [p.name for p in chosen_parts(3)] == ["fig3"]
    assert [p.name for p in chosen_parts(["theorem2", 1])] == ["fig1", "theorem2"]


def test_a_killed_worker_is_a_message(tmp_path: Path) -> None:
    command = line(tmp_path, "figure=[lemma1,6,3]", "jobs=2")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out" / "runs").glob("*/config.yaml")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = [pid for pid, args in living(process.pid).items() if "spawn_main" in args]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "was killed, for its memory perhaps: set jobs=1" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_part_is_not_kept(tmp_path: Path, jobs: int) -> None:
    command = line(tmp_path, "figure=[lemma1,6,3]", f"jobs={jobs}")
    trained = tmp_path / "out" / "runs"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        # in the middle of a training: its folder is there, its summary is not
        while not any(not (run / "summary.json").exists() for run in trained.glob("*/")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: every process of the terminal
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    kept = {path.stem for path in (tmp_path / "out" / "parts").glob("*.json")}
    assert kept <= {"lemma1"}
    while living(process.pid):  # multiprocessing's own bookkeeper ends a moment after the program
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.1)
