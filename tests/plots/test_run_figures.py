"""The figures of one run: formats, one x axis, titles that fit."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sslmanifold.errors import UserError
from sslmanifold.plots.run_figures import FIGURES, draw_run
from sslmanifold.plots.scales import settling
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.identity import config_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose loss settles at once and whose second singular value takes a third as long again."""
    steps = np.arange(0, 1001, 10)
    run = RunFolder(tmp_path)
    run.write_config({"seed": 0})
    run.write_metrics(
        [{"step": int(s), "train/loss": float(np.exp(-s / 10)), "rank/effective": 1.9} for s in steps]
    )
    values = np.stack([np.ones(len(steps)), 1 - np.exp(-steps / 30)], -1)[:, None]  # (T, S, z)
    run.write_trajectory({"steps": steps, "singular_values": values})
    names = {"data": "a_table_with_a_long_name" * 3, "model": "two_layer", "loss": "contrastive"}
    run.write_summary(
        {"status": "completed", "steps": 1000, "embedding": 2, "constraint": "orthogonal", "seed": 0, **names}
    )
    return tmp_path


def test_every_format_that_is_asked_for(folder: Path) -> None:
    drawn = draw_run(folder, formats=["png", "pdf", "svg"])
    names = {path.name for path in drawn}
    assert names == {f"{name}.{kind}" for name in ("loss", "effective_rank", "singular_values")
                     for kind in ("png", "pdf", "svg")}  # fmt: skip
    assert {path.name for path in (folder / "figures").iterdir()} == names
    assert (folder / "figures" / "loss.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in (folder / "figures" / "loss.svg").read_bytes()
    (folder / "figures" / "loss.pdf").unlink()
    again = draw_run(folder, formats=["png", "pdf", "svg"], missing=True)
    assert [path.name for path in again] == ["loss.pdf"]


def test_all_curves_share_one_axis(folder: Path) -> None:
    axes = [FIGURES[name](Run(folder), 10).axes[0] for name in ("loss", "effective_rank", "singular_values")]
    assert {ax.get_xlim() for ax in axes} == {(0.0, 1000.0)}
    assert {ax.get_xscale() for ax in axes} == {"asinh"}
    widths = {ax.xaxis.get_transform().linear_width for ax in axes}
    assert widths == {settling(np.arange(0, 1001, 10), 1 - np.exp(-np.arange(0, 1001, 10) / 30)) / 2}
    plt.close("all")


def test_a_long_title_wraps(folder: Path) -> None:
    title = FIGURES["loss"](Run(folder), 10).axes[0].get_title(loc="left")
    assert "\n" in title
    plt.close("all")


def test_where_a_curve_settles() -> None:
    x = np.arange(5.0)
    assert settling(x, np.array([0.0, 0.5, 1.0, 1.0, 1.0])) == 1.0
    assert settling(x, np.full(5, 2.0)) == 0.0
    assert settling(x, 2 + 1e-9 * x) == 0.0  # rounding
    assert settling(x, np.array([0.0, np.nan, 1.0, np.nan, 1.0])) == 0.0


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    from sslmanifold import train

    with pytest.raises(UserError, match=r"callbacks\.figures\.formats.*png"):
        train("data=half_moons", "callbacks.figures.formats=[jpeg]", run_dir=tmp_path)


def test_the_default_format_keeps_a_job_the_same() -> None:
    def key(**figures: object) -> str:
        return config_key({"seed": 0, "callbacks": {"figures": {"points": 2000, **figures}}})

    assert key() == key(formats=["png"])
    assert key() != key(formats=["pdf"])
