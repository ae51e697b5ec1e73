"""The example and the statements of docs/geometry.md."""

import re
from importlib.metadata import requires, version
from pathlib import Path

import torch

from sslmanifold.geometry import SUPPORTED_GEOOPT, feasibility_tolerance

PAGE = (Path(__file__).parents[2] / "docs" / "geometry.md").read_text()


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(code, "docs/geometry.md", "exec"), {})
    residual = float(re.search(r"tensor\(([\d.e+-]+)", capsys.readouterr().out).group(1))
    assert residual < 1e-6


def test_supported_versions_are_the_ones_stated():
    assert version("geoopt") in SUPPORTED_GEOOPT
    assert f"Supported: geoopt {SUPPORTED_GEOOPT[0]}" in PAGE
    (requirement,) = (r for r in requires("sslmanifold") or () if r.startswith("geoopt"))
    assert f">={SUPPORTED_GEOOPT[0]}" in requirement


def test_tolerances_are_the_ones_stated():
    stated = re.search(
        r"up to (\S+) in float64, (\S+) in float32, (\S+) in float16 and (\S+) in bfloat16", PAGE
    )
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    assert [float(s) for s in stated.groups()] == [feasibility_tolerance(d) for d in dtypes]
