"""``sslmanifold compare`` and ``sslmanifold.plots.compare``: a figure of many runs, from their folders alone."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.colors import to_hex

from sslmanifold.cli import main
from sslmanifold.config.arguments import dashed_options
from sslmanifold.errors import UserError
from sslmanifold.plots import compare
from sslmanifold.plots.comparison import mean_band
from sslmanifold.plots.style import CONSTRAINT_COLOURS
from sslmanifold.runs import Run, RunFolder

STEPS = np.arange(0, 100, 10)


def folder(
    path: Path,
    constraint: str = "orthogonal.Orthogonal",
    seed: int = 0,
    status: str = "completed",
    **columns: object,
) -> RunFolder:
    """A run of ten rows over half moons; columns beyond step and ode/time as given."""
    run = RunFolder(path)
    run.write_config(
        {
            "seed": seed,
            "data": {"_target_": "sslmanifold.data.HalfMoons"},
            "model": {"_target_": "sslmanifold.models.TwoLayer", "hidden": 10},
            "loss": {"_target_": "sslmanifold.losses.Contrastive"},
            "constraint": {"_target_": f"sslmanifold.constraints.{constraint}"},
            **{group: {} for group in ("optimizer", "scheduler", "trainer", "logger")},
        }
    )
    rows = [{"step": int(step), "ode/time": step / 1000} for step in STEPS]
    for key, values in columns.items():
        for row, value in zip(rows, np.broadcast_to(values, len(rows)), strict=True):
            row[key] = float(value)
    run.write_metrics(rows)
    run.write_summary(
        {"status": status, "constraint": constraint.split(".")[0], "data": "half_moons", "seed": seed}
    )
    return run


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Two constraints, three seeds: effective rank 1.8, 1.9 and 2.0, and 1.1, 1.2 and 1.3."""
    for seed in range(3):
        folder(tmp_path / f"o{seed}", seed=seed, **{"rank/effective": 1.8 + 0.1 * seed})
        folder(tmp_path / f"f{seed}", "frobenius.Frobenius", seed, **{"rank/effective": 1.1 + 0.1 * seed})
    return tmp_path


def test_mean_and_band_over_seeds(seeds: Path) -> None:
    (axes,) = compare(seeds).axes
    lines = {to_hex(line.get_color()): line for line in axes.lines}
    assert set(lines) == {CONSTRAINT_COLOURS[name].lower() for name in ("orthogonal", "frobenius")}
    orthogonal = lines[CONSTRAINT_COLOURS["orthogonal"].lower()]
    np.testing.assert_allclose(orthogonal.get_xdata(), STEPS / 1000)
    np.testing.assert_allclose(orthogonal.get_ydata(), 1.9)
    heights = np.sort([c.get_paths()[0].get_extents().height for c in axes.collections])
    np.testing.assert_allclose(heights, 0.2)  # ± the sample standard deviation of 1.8, 1.9, 2.0
    assert axes.get_xlabel() == "time t = Σ lr"
    assert not compare(seeds, band=False).axes[0].collections


@pytest.mark.parametrize(("size", "width"), [("single", 3.25), ("double", 6.75)])
def test_sizes_and_panels(seeds: Path, size: str, width: float) -> None:
    figure = compare([seeds / "o0", Run(seeds / "o1")], x="step", y=["rank/effective", "ode/time"], size=size)
    assert figure.get_size_inches()[0] == width
    assert [axes.get_ylabel() for axes in figure.axes] == ["Effective rank", "ode/time"]
    assert figure.axes[0].get_xlabel() == "optimizer step"


def test_a_mean_goes_to_where_the_shortest_run_ends() -> None:
    long, short = np.linspace(0, 10, 21), np.linspace(0, 4, 5)
    found = mean_band([(long, long), (short, 3 * short)], "range", geometric=False)
    assert found is not None
    assert (found.x[0], found.x[-1], found.count) == (0, 4, 2)
    np.testing.assert_allclose([found.low, found.mean, found.high], [found.x, 2 * found.x, 3 * found.x])


def test_a_geometric_band_never_crosses_zero() -> None:
    x = np.arange(3.0)
    found = mean_band([(x, np.full(3, 1e-4)), (x, np.ones(3))], "std", geometric=True)
    assert found is not None
    np.testing.assert_allclose(found.mean, 1e-2)
    np.testing.assert_allclose(
        found.low, 10 ** (-2 - np.sqrt(8))
    )  # logarithms −4 and 0: mean −2, deviation √8
    below = mean_band([(x, np.array([1.0, -1e-9, 1e-9]))], "std", geometric=True, floor=1e-5)
    assert below is not None
    np.testing.assert_allclose(below.mean, [1, 1e-5, 1e-5])


def test_replicas_count_as_seeds(tmp_path: Path) -> None:
    columns = {
        "rank/effective": 1.5,
        "rank/effective_std": 0.7,
        "rank/effective_r0": 1.0,
        "rank/effective_r1": 2.0,
    }
    folder(tmp_path, **columns)
    (axes,) = compare(tmp_path, band="range").axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 1.5)
    np.testing.assert_allclose(axes.collections[0].get_paths()[0].get_extents().height, 1.0)


def test_a_diverging_loss_does_not_flatten_the_others(tmp_path: Path) -> None:
    folder(tmp_path / "a", **{"train/loss": np.linspace(-1, -200, 10)})
    folder(
        tmp_path / "b",
        "none.Unconstrained",
        status="diverged",
        **{"train/loss": -(10.0 ** np.arange(0, 40, 4))},
    )
    (axes,) = compare(tmp_path, y="train/loss").axes
    bottom, top = axes.get_ylim()
    assert -250 < bottom < -200
    assert -1 < top < 50
    (alone,) = compare(tmp_path / "b", y="train/loss").axes
    assert alone.get_yscale() == "symlog"
    assert len(alone.get_yticks()) <= 6


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_files_with_embedded_fonts(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", str(seeds), "--x", "time", "--y", "rank/effective", "--band") == 0
    named = [seeds / f"compare_rank-effective.{suffix}" for suffix in ("pdf", "png", "svg")]
    assert capsys.readouterr().out.split() == [str(path) for path in named]
    pdf = named[0].read_bytes()
    assert b"/FontFile2" in pdf  # TrueType: type 42
    assert b"/Type3" not in pdf
    assert named[1].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in named[2].read_text(encoding="utf-8")
    again = run(
        "compare", str(seeds), "x=time", "y=rank/effective", "band=true", f"out={seeds / 'again.pdf'}"
    )
    assert again == 0
    assert (seeds / "again.pdf").read_bytes() == pdf
    assert not (seeds / "again.png").exists()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--band DIR", "band=true DIR"),
        ("--band range --x=step DIR", "band=range x=step DIR"),
        ("DIR --y rank/stable --band", "DIR y=rank/stable band=true"),
        ("x=time DIR", "x=time DIR"),
    ],
)
def test_flags_mean_the_same_as_overrides(typed: str, meant: str) -> None:
    keys = dict.fromkeys(("x", "y", "band"), "")
    assert dashed_options(typed.split(), keys, {"band": ("true", "range")}) == meant.split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["y=rank/efective"], r"y=rank/efective is logged by no run: there are rank/effective$"),
        (["--x", "epoch"], r"x=epoch is logged by no run: there are time, step, rank/effective$"),
        (["band=maybe"], r"band=maybe is none of: true, false, std, range, none$"),
        (["size=huge"], r"size=huge is none of: single, double$"),
        (["yscale=cube"], r"yscale=cube is none of: auto, linear, log, symlog$"),
        (["--colour", "red"], r"unknown key colour: .*band"),
        (["--y"], r"--y wants a value: --y VALUE, or y=VALUE$"),
        (["formats=gif"], r"formats=gif is none of: png, pdf, svg$"),
        (["out=."], r"out=\. is a folder: name a file in it"),
        (["missing"], r"missing is not a folder"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", str(seeds), *arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(said, printed.strip())


def test_runs_without_an_end_are_left_out_by_name(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (seeds / "o1" / "metrics.csv").write_text("step,rank/effective\n0\n")
    folder(seeds / "o3", seed=3, status="failed", **{"rank/effective": 9.0})
    (axes,) = compare(seeds, x="step").axes
    means = {to_hex(line.get_color()): line.get_ydata()[0] for line in axes.lines}
    np.testing.assert_allclose(means[CONSTRAINT_COLOURS["orthogonal"].lower()], 1.9)  # of 1.8 and 2.0
    said = capsys.readouterr().err
    assert "o3 is left out: failed" in said
    assert "metrics.csv cannot be read" in said
    with pytest.raises(UserError, match=r"none of the 1 runs has an end \(failed\)"):
        compare(seeds / "o3")


def test_values_of_a_folder_stay_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No mathematics is typeset from a name, none steers a terminal, no class of it is imported."""
    for index, name in enumerate(("$\\frac{1", "_hidden\x1b[31m")):
        path = tmp_path / str(index)
        folder(path, **{"rank/effective": 1.5})
        options = yaml.safe_load((path / "config.yaml").read_text())
        options["constraint"] = {"_target_": f"os.{name}"}
        options["loss"] = {"_target_": "sslmanifold.losses.Contrastive", "note": name}
        (path / "config.yaml").write_text(yaml.safe_dump(options))
        RunFolder(path).write_summary({"status": "completed", "constraint": name, "data": name})
    assert run("compare", str(tmp_path), "formats=svg") == 0
    (legend,) = compare(tmp_path).legends
    labels = [text.get_text().strip() for text in legend.get_texts()]
    assert any("$\\frac{1" in label for label in labels)
    assert any("_hidden\\x1b[31m" in label for label in labels)
    assert "\x1b" not in capsys.readouterr().err
