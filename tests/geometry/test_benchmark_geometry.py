"""The benchmark script runs, and its table and figure hold what was timed."""

import importlib.util
import json
from pathlib import Path

import pytest

from sslmanifold.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_geometry.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_geometry", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_quick_mode(script, tmp_path, capsys):
    timings = script.main(["quick=true", f"out={tmp_path}"])
    assert {t.kind for t in timings} == {"step", "iteration"}
    assert all(0 < t.low <= t.seconds <= t.high and t.calls >= 1 for t in timings)
    methods = {t.method for t in timings}
    assert {"grassmann", "project", "geoopt canonical", "SVD projection", "plain SGD"} <= methods
    assert "torch orthogonal, Householder" in methods
    saved = json.loads((tmp_path / "geometry_benchmark.json").read_text())
    assert len(saved) == len(timings)
    assert (tmp_path / "geometry_benchmark.png").stat().st_size > 10_000
    assert "| plain SGD |" in (tmp_path / "geometry_benchmark.md").read_text()
    assert "plain SGD" in capsys.readouterr().out


def test_bounds_are_read_off_the_timings(script):
    shapes = {(b.kind, b.shape) for b in script.BOUNDS}
    assert shapes <= {
        (kind.removesuffix("s"), script.name_of(s)) for kind, all_ in script.FULL.items() for s in all_
    }
    bound = script.Bound("step", "512×64", "canonical", "geoopt canonical", 10)
    timings = [
        script.Timing("step", "512×64", "canonical", 1.0, 3, 0.9, 1.1),
        script.Timing("step", "512×64", "geoopt canonical", 12.0, 3, 11.0, 13.0),
    ]
    assert (bound, 12.0, True) in script.check(timings)
    timings[1].seconds = 9.0
    assert (bound, 9.0, False) in script.check(timings)


def test_unknown_option(script):
    with pytest.raises(UserError, match="quick=true"):
        script.main(["fast=yes"])
