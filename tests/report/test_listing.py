"""``sslmanifold runs``: sorting, filtering, progress."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from sslmanifold.commands.runs import main
from sslmanifold.errors import UserError
from sslmanifold.report.listing import all_ended, listing
from sslmanifold.report.terminal import COLUMNS, fitting
from sslmanifold.runs import RunFolder
from sslmanifold.runs.records import collect, swept_keys, telling_keys
from sslmanifold.sweeps.manifest import Manifest


def shown(*args: object, **kwargs: str) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(listing(*args, **kwargs))  # type: ignore[arg-type]
    return console.export_text()


def order(text: str) -> list[str]:
    return [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]


def test_sorted_by_heading_key_and_direction(sweep: Path) -> None:
    up = order(shown([sweep], sort="rank"))
    assert up[-1] == "12"  # a run without the value comes last
    assert up[0] in ("0", "3")
    down = order(shown([sweep], sort="-rank/effective"))
    assert down[0] in ("8", "11")
    assert down[-1] == "12"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("status=failed", ["12"]),
        ("constraint=frobenius,data=digits", ["3", "4", "5"]),
        ("rank/effective<1.025", ["0", "3"]),
        ("seed>=2,status!=failed", ["2", "5", "8", "11"]),
        ("model.hidden=10", ["12"]),
    ],
)
def test_filtered(sweep: Path, condition: str, expected: list[str]) -> None:
    assert order(shown([sweep], filter=condition)) == expected


def test_columns_and_collapse_mark(sweep: Path) -> None:
    text = shown([sweep], columns="train/loss,train/optimum")
    assert "train/optimum" in text
    assert "-100" in text
    assert "collapsed" in shown([sweep])


def test_unlike_runs_show_what_tells_them_apart_and_fits(
    tmp_path: Path, write_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in range(4):
        folder = write_run(tmp_path / str(job), seed=0, hidden=100 + job, rows=10 + job)
        config = yaml.safe_load(folder.config.read_text())
        # varies with the width, as max_steps does: one of them tells all apart
        config["data"]["n"] = 10 * job
        config["model"] |= {"activation": ("tanh", "relu")[job % 2], "embedding": 2 + job % 2}
        folder.write_config(config)
    records = collect([tmp_path])
    assert {"data.n", "model.hidden", "model.activation", "trainer.max_steps"} <= set(swept_keys(records))
    (key,) = telling_keys(records)
    assert key in ("data.n", "model.hidden", "trainer.max_steps")
    assert key in shown([tmp_path])
    kept, left_out = fitting(records, [key], COLUMNS, width=60)
    assert (kept, left_out) == ([], [key])
    monkeypatch.setattr("sslmanifold.report.listing.wide_console", lambda: Console(width=60))
    assert f"no room for {key}: columns=KEY,… shows them" in shown([tmp_path])
    assert "102" in shown([tmp_path], columns="model.hidden")


def test_telling_keys_of_a_sweep_are_all_of_it(
    sweep: Path, tmp_path: Path, write_run: Callable[..., RunFolder]
) -> None:
    records = collect([sweep])
    assert telling_keys(records) == swept_keys(records)
    for job in range(3):  # a random search: one key would tell its runs apart
        write_run(tmp_path / str(job), hidden=100 + job, rows=10 + job)
    assert telling_keys(collect([tmp_path])) == ["model.hidden", "trainer.max_steps"]


def test_no_match_says_so(sweep: Path) -> None:
    assert shown([sweep], filter="seed=77").strip() == "no run matches filter=seed=77"


@pytest.mark.parametrize(
    "options", [{"sort": "rnak"}, {"filter": "nothing=1"}, {"filter": "seed"}, {"columns": "x"}]
)
def test_unknown_keys_list_the_choices(sweep: Path, options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="rank/effective|is not a condition"):
        shown([sweep], **options)


def test_running_killed_and_missing_jobs(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    Manifest(["seed=0,1,2"], jobs=4).write(tmp_path)
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", status=None, seed=1, rows=43)
    old = write_run(tmp_path / "2", status=None, seed=2)
    past = time.time() - 3600
    for path in (old.config, old.metrics):
        os.utime(path, (past, past))
    text = shown([tmp_path])
    assert "1: step 420 of 420" in text
    assert "3 runs: 1 completed, 1 killed, 1 running; 1 not started, 4 in all" in text
    assert not all_ended([tmp_path])
    write_run(tmp_path / "1", seed=1)
    write_run(tmp_path / "3", seed=3)
    assert all_ended([tmp_path])


def test_command(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={sweep}", "filter=status=failed"]) == 0
    assert main([str(sweep), "watch=true"]) == 0
    assert "13 runs: 12 completed, 1 failed" in capsys.readouterr().out
    assert main([str(sweep), "sort=nonsense"]) == 2
    assert main([str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err
