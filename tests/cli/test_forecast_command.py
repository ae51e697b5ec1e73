"""``sslmanifold forecast`` as it is typed: what is printed and written, and every mistake in one line."""

import json
import sys
from pathlib import Path

import pytest

from sslmanifold import train
from sslmanifold.cli import main

SMALL = ["data=half_moons", "trainer.max_steps=30"]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("HYDRA_FULL_ERROR", "SSLMANIFOLD_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_line_is_forecast_and_leaves_nothing(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("forecast", *SMALL, "constraint=frobenius") == 0
    out = capsys.readouterr().out
    assert "forecast of data=half_moons" in out
    for words in (
        "frobenius (this run)",
        "orthogonal",
        "diverges",
        "projected",
        "not in this run",
        "seed=0 draws",
    ):
        assert words in out
    assert not list(scratch.iterdir())
    assert call("forecast", *SMALL, "constraints=[none,orthogonal]", "out=here/file.json") == 0
    written = json.loads((scratch / "here" / "file.json").read_text(encoding="utf-8"))
    assert [row["constraint"] for row in written["constraints"]] == ["none", "orthogonal"]
    assert written["constraints"][1]["predicted/time_to_collapse"] is None
    assert "written: here/file.json" in capsys.readouterr().out


def test_a_run_folder(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(*SMALL, "callbacks=[spectrum]", run_dir=scratch / "a run, x=1").path
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert call("forecast", str(run), "constraints=[frobenius,orthogonal]") == 0
    assert "after 30 steps" in capsys.readouterr().out
    assert json.loads((run / "forecast.json").read_text(encoding="utf-8"))["steps"] == 30
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["constrain=none"], ["unknown key constrain", "did you mean constraint"]),
        (["nowhere"], ["nowhere is not a folder"]),
        (["."], ["is not a run folder: it has no config.yaml"]),
        ([".", "data=digits"], ["data=digits: the run folder says what was trained", "start, constraints"]),
        (["start=best"], ["start=best is a checkpoint of a run", "forecast DIR"]),
        (["start=now"], ["start=now is not valid", "'initial'"]),
        (["time=-1"], ["time=-1 is not valid", "greater than 0"]),
        (["points=1"], ["points=1 is not valid"]),
        ([*SMALL, "constraints=[orthogonl]"], ["unknown constraint 'orthogonl'", "operator_norm"]),
        (["model.hidden=10"], ["needs h ≥ d, got h=10, d=64", "model.hidden=64"]),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: list[str], scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("forecast", *arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert len(message.splitlines()) == 1
    assert not list(scratch.iterdir())
