"""When does an embedding begin to collapse? Effective rank against the largest it has had, and where it is going."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import Any


class CollapseWarning(UserWarning):
    """The effective rank fell under its threshold, or will before training ends if it goes on as it does."""


def collapse_threshold(largest: float, fraction: float) -> float | None:
    """r* = 1 + fraction (r_max − 1), r_max the largest effective rank so far; None where there was nothing to lose.

    An embedding of rank below 1.05 has had one direction from the start.
    """
    spread = largest - 1
    return None if spread < 0.05 else 1 + fraction * spread


class CollapseWatch:
    """Says once when collapse begins.

    The threshold is r* = 1 + ``fraction`` (r_max − 1), r_max the largest effective rank seen. Collapse has begun
    where r < r*; it is foreseen where r has lost a quarter of r_max − 1, fell at each of the last three
    measurements, and the line through the last two crosses r* before the last step.

    Args:
        fraction: of r_max − 1, between 0 and 1.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.largest = -math.inf
        self.begun: int | None = None
        self.foreseen: int | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=4)

    def see(self, step: int, rank: float, last_step: float) -> str:
        """What to say of the rank at this step: "" for nothing, and nothing after collapse has begun."""
        if not math.isfinite(rank):
            return ""
        self.largest = max(self.largest, rank)
        self._recent.append((step, rank))
        spread = self.largest - 1
        threshold = collapse_threshold(self.largest, self.fraction)
        if self.begun is not None or threshold is None:
            return ""
        if rank < threshold:
            self.begun = step
            return (
                f"the embedding collapses: effective rank {rank:.3g} at step {step}, it was {self.largest:.3g}; "
                "what stops it: constrain(model, 'orthogonal', …), or constraint=orthogonal on the command line"
            )
        ranks = [value for _, value in self._recent]
        falling = len(ranks) == 4 and all(b < a for a, b in pairwise(ranks))
        if self.foreseen is not None or not falling or rank > self.largest - 0.25 * spread:
            return ""
        (before, higher), (now, lower) = self._recent[-2], self._recent[-1]
        crossing = now + (lower - threshold) * (now - before) / (higher - lower)
        if crossing > last_step:
            return ""
        self.foreseen = step
        return (
            f"the embedding is about to collapse: effective rank {rank:.3g} at step {step}, it was "
            f"{self.largest:.3g}, and at this rate falls under {threshold:.3g} at step {math.ceil(crossing)}"
        )

    def summary(self) -> dict[str, Any]:
        """``collapse/step``, where it began, if it did."""
        return {} if self.begun is None else {"collapse/step": self.begun}

    def state_dict(self) -> dict[str, Any]:
        recent = [list(pair) for pair in self._recent]
        return {"largest": self.largest, "begun": self.begun, "foreseen": self.foreseen, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.largest, self.begun, self.foreseen = state["largest"], state["begun"], state["foreseen"]
        self._recent = deque(((int(s), float(r)) for s, r in state["recent"]), maxlen=4)
