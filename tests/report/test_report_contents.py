"""What a report says: means, spreads, warnings, failures, one row a job."""

import csv
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslmanifold.commands.report import main
from sslmanifold.errors import UserError
from sslmanifold.plots.groups import cell, grouped, lighter, mean_and_spread
from sslmanifold.plots.style import CONSTRAINT_COLOURS
from sslmanifold.report.charts import charts, thinned
from sslmanifold.report.findings import (
    advice,
    best_and_worst,
    collapse_warnings,
    failures,
    predicted_against_seen,
    shortfall_warnings,
)
from sslmanifold.report.write import write_report
from sslmanifold.runs import RunFolder
from sslmanifold.runs.records import collect, is_collapsed, swept_keys, swept_value


def test_what_was_swept(sweep: Path) -> None:
    records = collect([sweep])
    assert swept_keys(records) == ["constraint", "data", "model.hidden", "seed"]
    assert [r.name for r in records] == [str(i) for i in range(13)]
    assert swept_value(records[0], "constraint") == "frobenius"
    assert swept_value(records[-1], "model.hidden") == 10


def test_means_against_statistics(sweep: Path) -> None:
    records = [r for r in collect([sweep]) if r.status == "completed"]
    group = next(g for g in grouped(records, swept_keys(records)) if g.label == "orthogonal")
    ranks = [1.8, 1.9, 2.0]
    assert mean_and_spread(group.on("digits"), "rank/effective") == pytest.approx(
        (statistics.fmean(ranks), statistics.stdev(ranks), 3)
    )
    assert cell(group.on("digits"), "rank/effective") == "1.9 ± 0.1 (3)"
    assert group.colour == CONSTRAINT_COLOURS["orthogonal"]


def test_replicas_count_one_by_one(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    write_run(
        tmp_path / "0", **{"rank/effective_r0": 1.0, "rank/effective_r1": 2.0, "rank/effective_std": 0.7}
    )
    records = collect([tmp_path])
    assert mean_and_spread(records, "rank/effective") == pytest.approx((1.5, statistics.stdev([1.0, 2.0]), 2))


def test_collapse_is_named(sweep: Path) -> None:
    records = collect([sweep])
    lines = collapse_warnings(grouped(records, swept_keys(records)), records)
    assert lines[0].startswith(
        "frobenius, model.hidden=128 on half_moons: effective rank 1.02 to 1.04 of 2: collapsed"
    )
    assert len(lines) == 2


def test_runs_short_of_their_optimum_are_named(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    gaps = (0.061, 0.02, 0.009, -1e-8)
    for seed, gap in enumerate(gaps):
        write_run(tmp_path / str(seed), seed=seed, **{"train/optimality_gap": gap})
    write_run(tmp_path / "4", seed=4, status="diverged", **{"train/optimality_gap": 0.5})
    records = collect([tmp_path])
    (line,) = shortfall_warnings(grouped(records, swept_keys(records)), records)
    assert line == "orthogonal on half_moons: 2 to 6.1 % above the optimum L* (2 of 5 runs)"
    said = [advice(record) for record in records]
    assert [len(lines) for lines in said] == [1, 1, 0, 0, 0]
    assert "6.1 % above its optimum" in said[0][0]
    assert "scheduler=cosine" in said[0][0]
    write_report([tmp_path], tmp_path)
    for name in ("report.html", "report.md"):
        assert "2 to 6.1 % above the optimum" in (tmp_path / name).read_text(encoding="utf-8")


def test_a_collapsed_run_is_told_which_constraint_helps(
    tmp_path: Path, write_run: Callable[..., RunFolder]
) -> None:
    write_run(tmp_path / "0", constraint="frobenius.Frobenius", rank=1.02, **{"train/optimality_gap": 0.0})
    write_run(tmp_path / "1", constraint="orthogonal.Orthogonal", rank=1.02, **{"train/optimality_gap": 0.0})
    frobenius, orthogonal = (advice(record) for record in collect([tmp_path]))
    assert "effective rank 1.02 of 2" in frobenius[0]
    assert "constraint=orthogonal" in frobenius[0]
    assert orthogonal == []  # C has too few negative eigenvalues: no other constraint would help


@pytest.mark.parametrize(
    ("rank", "embedding", "dim", "collapsed"),
    [
        (1.02, 2, 64, True),
        (1.11, 2, 64, False),
        (1.8, 10, 64, True),
        (2.0, 10, 64, False),
        (1.0, 1, 64, False),
    ],
)
def test_where_collapse_begins(
    tmp_path: Path,
    write_run: Callable[..., RunFolder],
    rank: float,
    embedding: int,
    dim: int,
    collapsed: bool,
) -> None:
    write_run(tmp_path / "0", rank=rank, embedding=embedding, dim=dim)
    assert is_collapsed(collect([tmp_path])[0]) is collapsed


def test_what_the_spread_does_not_tell_apart_is_not_ranked(
    tmp_path: Path, write_run: Callable[..., RunFolder]
) -> None:
    ranks = {
        "orthogonal.Orthogonal": (1.90, 1.94),
        "scaled.Scaled": (1.91, 1.92),
        "none.Unconstrained": (1.0, 1.1),
    }
    for constraint, values in ranks.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / f"{constraint}{seed}", constraint, seed=seed, rank=value)
    records = collect([tmp_path])
    rows = {row[1]: row for row in best_and_worst(grouped(records, swept_keys(records)), records)}
    _, _, best, worst = rows["Effective rank"]
    assert best == "orthogonal: 1.92 ± 0.028 (2), like scaled"
    assert worst == "none: 1.05 ± 0.071 (2)"
    # write_run gives every run the same deviation
    assert rows["Largest deviation from the ODE"][2:] == ("no difference beyond the spread", "")


def test_a_diverged_groups_embedding_is_shown(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    write_run(tmp_path / "0", "none.Unconstrained", status="diverged")
    records = collect([tmp_path])
    sections = {s.heading: s.charts for s in charts(grouped(records, swept_keys(records)), records)}
    (chart,) = next(found for heading, found in sections.items() if heading.startswith("Embeddings"))
    assert chart["layout"]["title"]["text"].endswith("(diverged)")


def test_best_worst_failures_and_predictions(sweep: Path) -> None:
    records = collect([sweep])
    groups = grouped(records, swept_keys(records))
    rank = next(row for row in best_and_worst(groups, records) if row[1].startswith("Effective"))
    assert rank[2].startswith("orthogonal, model.hidden=128")
    assert rank[3].startswith("frobenius")
    ((failed, why),) = failures(records)
    assert failed.name == "12"
    assert "h ≥ d" in why
    assert (
        failed.summary["constraint"] == "orthogonal"
    )  # from its configuration: it left no summary of its own
    rows = predicted_against_seen(groups, records)
    assert (
        "steps to tolerance",
        "orthogonal, model.hidden=128",
        "digits",
        "401 ± 1 (3)",
        "403 ± 1 (3)",
    ) in rows


def test_files(sweep: Path, tmp_path: Path) -> None:
    (_, markdown, table), _ = write_report([sweep], out=tmp_path)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 13
    assert rows[0]["rank/effective"] == "1.02"
    assert rows[0]["versions.torch"] == "2"
    assert rows[12]["status"] == "failed"
    text = markdown.read_text(encoding="utf-8")
    assert "effective rank 1.02 to 1.04 of 2: collapsed" in text
    assert "## Without a result" in text
    for line in text.splitlines():
        if line.startswith("| [0]"):
            target = line.split("](<")[1].split(">)")[0]
            assert (tmp_path / target).resolve() == (sweep / "0").resolve()
            break
    else:
        raise AssertionError("no row links to run 0")


def test_a_single_run_and_several_folders(sweep: Path, tmp_path: Path) -> None:
    paths, records = write_report([sweep / "0"], out=tmp_path / "one")
    assert len(records) == 1
    assert all(path.parent == tmp_path / "one" for path in paths)
    _, records = write_report([sweep / "0", sweep / "3", sweep / "0"], out=tmp_path / "two")
    assert len(records) == 2


def test_command_takes_folders_both_ways(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), f"out={tmp_path / 'a'}"]) == 0
    assert main([f"run={sweep}", f"out={tmp_path / 'b'}"]) == 0
    assert (tmp_path / "a" / "table.csv").read_bytes() == (tmp_path / "b" / "table.csv").read_bytes()
    assert "13 runs: 12 completed, 1 failed" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert main([str(sweep), "outt=x"]) == 2
    assert "did you mean out?" in capsys.readouterr().err


def test_no_runs_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs in"):
        collect([tmp_path])


def test_every_chart_is_there_and_thin(sweep: Path) -> None:
    records = collect([sweep])
    sections = {s.heading: s.charts for s in charts(grouped(records, swept_keys(records)), records)}
    assert len(sections) == 7
    for found in sections.values():
        for chart in found:
            for trace in chart["data"]:
                assert len(trace.get("x", trace["y"])) <= 3 * 81 + 300
    curve = sections["Effective rank"][0]["data"][-1]
    assert curve["line"]["color"] == CONSTRAINT_COLOURS["orthogonal"]


def test_thinning_keeps_the_ends_and_values() -> None:
    steps = np.arange(5000)
    few, values = thinned(steps, steps**2, 80)
    assert len(few) <= 80
    assert (few[0], few[-1]) == (0, 4999)
    assert np.array_equal(values, few**2)


def test_shades_of_one_colour() -> None:
    assert lighter("#000000", 0, 3) == "#000000"
    assert lighter("#000000", 1, 3) == "#393939"
    assert lighter("#0072B2", 0, 1) == "#0072B2"


def test_forecasts_are_shown(tmp_path: Path, write_run: Callable[..., RunFolder]) -> None:
    """Of forecast.json in a run folder, as text; of anything else under that name nothing."""
    import json

    folder = write_run(tmp_path / "a")
    rows = [
        {"constraint": "none", "own": True, "rank/effective": 1.0, "rank/smallest": 1.0, "ode/blow_up_time": 0.1,
         "predicted/steps_to_collapse": 13, "train/loss": None, "train/optimum": None},
        {"constraint": "orthogonal", "own": False, "rank/effective": 1.999, "rank/smallest": 1.8, "train/loss": -3.25,
         "train/optimum": -3.5, "predicted/steps_to_collapse": None, "ode/blow_up_time": None},
        {"constraint": "<b>deep</b>", "reason": "no exact flow"},
        "no row",
    ]  # fmt: skip
    folder.forecast.write_text(json.dumps({"kind": "forecast", "constraints": rows}))
    for number, text in enumerate(("[1]", "{", '{"constraints": 3}')):
        write_run(tmp_path / f"b{number}").forecast.write_text(text)
    write_report([tmp_path])
    markdown = (tmp_path / "report.md").read_text()
    assert "| a | none (this run) | 1 | 1 | step 13 | diverges |  |" in markdown
    assert "| a | orthogonal | 1.999 | 1.8 | not in this time | -3.25 | -3.5 |" in markdown
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Forecast</h2>" in page
    assert "&lt;b&gt;deep&lt;/b&gt;" in page
    assert "<b>deep" not in page
