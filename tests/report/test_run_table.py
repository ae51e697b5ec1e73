"""What a run ends with in the terminal: its table, whether the rank is good, and what to open next."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from sslmanifold.report.findings import rank_verdict
from sslmanifold.report.terminal import print_run
from sslmanifold.runs import Run
from sslmanifold.runs.records import Record

ENDED_WELL = {"steps": 990, "train/optimality_gap": 0.0}


def test_the_pictures_and_the_report_are_named(
    tmp_path: Path, write_run: Callable[..., object], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    write_run(folder, **ENDED_WELL)
    print_run(Run(folder))
    printed = capfd.readouterr().out
    assert "open: " not in printed  # nothing was drawn
    (line,) = (line for line in printed.splitlines() if line.startswith("report: "))
    assert shlex.split(line)[1:] == ["sslmanifold", "report", str(folder)]
    (folder / "figures").mkdir()
    for name in ("loss.png", "embedding.pdf"):
        (folder / "figures" / name).touch()
    print_run(Run(folder))
    assert f"open: {folder / 'figures' / 'embedding.pdf'} (" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("rank", "embedding", "said"),
    [
        (1.95, 2, "good"),
        (1.5, 2, "partial"),
        (1.05, 2, "collapsed"),
        (30.0, 64, "partial"),
        (60.0, 64, "good"),
    ],
)
def test_the_effective_rank_is_judged_once(
    tmp_path: Path,
    write_run: Callable[..., object],
    capfd: pytest.CaptureFixture[str],
    rank: float,
    embedding: int,
    said: str,
) -> None:
    write_run(tmp_path, constraint="none.Unconstrained", rank=rank, embedding=embedding, dim=64, **ENDED_WELL)
    verdict = rank_verdict(Record("run", Run(tmp_path)))
    assert verdict.startswith(f"effective rank {rank:.4g} of {embedding}: {said}")
    print_run(Run(tmp_path))
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("effective rank")]
    assert len(lines) == 1
    assert said in lines[0]


def test_one_dimension_has_nothing_to_collapse_to(tmp_path: Path, write_run: Callable[..., object]) -> None:
    write_run(tmp_path, rank=1.0, embedding=1)
    assert rank_verdict(Record("run", Run(tmp_path))) == ""


def test_accuracies_of_probes_are_rows(
    tmp_path: Path, write_run: Callable[..., object], capfd: pytest.CaptureFixture[str]
) -> None:
    accuracies = {"probe/knn/accuracy": 0.91, "probe/knn/accuracy_std": 0.02, "probe/linear/accuracy": 0.875}
    write_run(tmp_path, **accuracies, **ENDED_WELL)
    print_run(Run(tmp_path))
    rows = [line for line in capfd.readouterr().out.splitlines() if "accuracy" in line]
    assert [line.strip("│ ").split() for line in rows] == [
        ["knn", "accuracy", "│", "0.91", "±", "0.02"],
        ["linear", "accuracy", "│", "0.875"],
    ]
