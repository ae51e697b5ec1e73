"""A statement of the paper as numbers against tolerances, and the verdict that follows from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "holds as corrected", "fails"]


@dataclass(frozen=True)
class Check:
    """One number of this run against its tolerance.

    Attributes:
        quantity: what the number is, in words or symbols.
        value: computed in this run; NaN passes nothing.
        tolerance: the bound.
        direction: "<=" or ">=": on which side of the bound the check passes.
    """

    quantity: str
    value: float
    tolerance: float
    direction: Literal["<=", ">="] = "<="

    @property
    def passed(self) -> bool:
        """Whether the value is on its side of the tolerance."""
        if not math.isfinite(self.value) or not math.isfinite(self.tolerance):
            return False
        return self.value <= self.tolerance if self.direction == "<=" else self.value >= self.tolerance

    @property
    def margin(self) -> float:
        """How far inside its tolerance the value is, as a share of it; negative where the check fails."""
        if not math.isfinite(self.value):
            return -math.inf
        scale = max(abs(self.tolerance), 1e-300)
        signed = self.tolerance - self.value if self.direction == "<=" else self.value - self.tolerance
        return signed / scale

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "quantity": self.quantity,
            "value": self.value,
            "direction": self.direction,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Claim:
    """One statement, checked.

    The verdict is "holds" where every check of the statement as the paper prints it passes; else "holds as
    corrected" where there is a corrected form and every check of that passes; else "fails".

    Attributes:
        statement: as the paper prints it, in short.
        printed: checks of the statement as printed.
        corrected: checks of the corrected form; empty where no correction is known.
        correction: what the corrected form says.
        evidence: the figure or the computation that the numbers come from.
        command: reproduces them.
    """

    statement: str
    printed: Sequence[Check]
    corrected: Sequence[Check] = field(default_factory=tuple)
    correction: str = ""
    evidence: str = ""
    command: str = ""

    @property
    def verdict(self) -> Verdict:
        """What follows from the checks."""
        if self.printed and all(check.passed for check in self.printed):
            return "holds"
        if self.corrected and all(check.passed for check in self.corrected):
            return "holds as corrected"
        return "fails"

    @property
    def deciding(self) -> Check:
        """The check that the verdict hangs on: the one with the least margin of the checks that decide."""
        checks = self.corrected if self.verdict == "holds as corrected" else self.printed
        return min(checks, key=lambda check: check.margin)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for ``claims.json``."""
        deciding = self.deciding
        return {
            "statement": self.statement,
            "verdict": self.verdict,
            "quantity": deciding.quantity,
            "value": deciding.value,
            "direction": deciding.direction,
            "tolerance": deciding.tolerance,
            "correction": self.correction,
            "evidence": self.evidence,
            "command": self.command,
            "printed": [check.to_dict() for check in self.printed],
            "corrected": [check.to_dict() for check in self.corrected],
        }
