"""A verdict follows from numbers, tolerances and directions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslmanifold.reproduction.claims import Check, Claim

numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers)
def test_a_check_passes_on_its_side_alone(value: float, tolerance: float) -> None:
    assert Check("x", value, tolerance).passed == (value <= tolerance)
    assert Check("x", value, tolerance, ">=").passed == (value >= tolerance)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_passes_nothing(value: float) -> None:
    assert not Check("x", value, 1.0).passed
    assert not Check("x", value, 1.0, ">=").passed


@pytest.mark.parametrize(
    ("printed", "corrected", "verdict"),
    [
        ([True], [], "holds"),
        ([True], [False], "holds"),
        ([True, False], [], "fails"),
        ([False], [True], "holds as corrected"),
        ([False], [True, False], "fails"),
        ([], [], "fails"),
    ],
)
def test_verdicts(printed: list[bool], corrected: list[bool], verdict: str) -> None:
    def checks(passing: list[bool]) -> list[Check]:
        return [Check("x", 0.0 if good else 2.0, 1.0) for good in passing]

    claim = Claim("s", checks(printed), checks(corrected))
    assert claim.verdict == verdict


@given(st.lists(numbers, min_size=1, max_size=4))
def test_the_deciding_check_fails_where_the_claim_does(values: list[float]) -> None:
    claim = Claim("s", [Check("x", value, 1.0) for value in values])
    assert claim.deciding.passed == (claim.verdict == "holds")
    written = claim.to_dict()
    assert written["value"] == claim.deciding.value
    assert {"statement", "verdict", "value", "tolerance", "evidence", "command"} <= set(written)
