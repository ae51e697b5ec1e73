"""docs/upstream.md: each program prints what the page says it prints."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from sslmanifold.geometry import SUPPORTED_GEOOPT
from sslmanifold.geometry._geoopt import geoopt

PAGE = Path(__file__).parents[2] / "docs" / "upstream.md"
BEGINNING, *PROGRAMS = re.findall(
    r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE.read_text("utf-8"), re.S
)


def test_there_are_nine() -> None:
    assert len(PROGRAMS) == 9


@pytest.mark.skipif(geoopt.__version__ not in SUPPORTED_GEOOPT, reason="written against 0.5.1")
@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=[str(i) for i in range(1, len(PROGRAMS) + 1)])
def test_it_prints_that(program: str, printed: str) -> None:
    before, state = torch.get_default_dtype(), torch.get_rng_state()
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            exec(BEGINNING[0] + program, {})
    finally:
        torch.set_default_dtype(before)
        torch.set_rng_state(state)
    assert output.getvalue() == printed
