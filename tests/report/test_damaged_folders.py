"""Reports over folders that a killed machine left behind: damage is a row with a reason, never a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sslmanifold.errors import UserError
from sslmanifold.report.listing import listing
from sslmanifold.report.write import write_report
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.records import collect


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", '{"status": "comp'),
        ("summary.json", "[1, 2]"),
        ("config.yaml", "data: [1, 2"),
        ("config.yaml", "- 1\n- 2\n"),
    ],
)
def test_a_damaged_file_is_a_row_with_a_reason(
    tmp_path: Path, write_run: Callable[..., RunFolder], name: str, text: str
) -> None:
    write_run(tmp_path / "0", seed=0)
    write_run(tmp_path / "1", seed=1)
    (tmp_path / "1" / name).write_text(text)
    good, bad = collect([tmp_path])
    assert (good.status, bad.status) == ("completed", "unreadable")
    assert name in bad.summary["reason"]
    listing([tmp_path])
    write_report([tmp_path])
    assert name in (tmp_path / "report.md").read_text()


def test_a_damaged_trajectory_leaves_its_charts_out(
    tmp_path: Path, write_run: Callable[..., RunFolder]
) -> None:
    write_run(tmp_path / "0")
    (tmp_path / "0" / "trajectory.npz").write_bytes(b"PK\x03\x04 cut short")
    write_report([tmp_path])
    with pytest.raises(UserError, match=r"trajectory\.npz cannot be read"):
        _ = Run(tmp_path / "0").trajectory


def test_a_run_without_a_summary_has_its_options_names(
    tmp_path: Path, write_run: Callable[..., RunFolder]
) -> None:
    folder = write_run(tmp_path / "0")
    folder.summary.unlink()
    options = yaml.safe_load(folder.config.read_text())
    targets = {
        "constraint": "sslmanifold.constraints.none.Unconstrained",
        "loss": "sslmanifold.losses.InfoNCE",
    }
    for group, target in targets.items():
        options[group] = {"_target_": target}
    folder.write_config(options)
    (record,) = collect([tmp_path])
    assert (record.summary["constraint"], record.summary["loss"]) == ("none", "infonce")
