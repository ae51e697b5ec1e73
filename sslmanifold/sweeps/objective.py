"""What a job hands to the sweeper: the number that a search such as Optuna's minimises or maximises."""

import math
from typing import Any

from sslmanifold.errors import UserError


def objective(summary: dict[str, Any], metric: str | list[str] | None) -> float | tuple[float, ...] | None:
    """The summary's value under ``optimized_metric``; several keys give a tuple, none gives None.

    A run that diverged has no value: NaN, which Optuna records as a failed trial.

    Raises:
        UserError: for a key that the summary does not have, or that is no number; the choices are listed.
    """
    if metric is None:
        return None
    if not isinstance(metric, str):
        return tuple(_value(summary, key) for key in metric)
    return _value(summary, metric)


def _value(summary: dict[str, Any], key: str) -> float:
    if summary.get("status") == "diverged":
        return math.nan
    value = summary.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        numbers = [k for k, v in summary.items() if isinstance(v, (int, float)) and not isinstance(v, bool)]
        raise UserError(
            f"optimized_metric={key} is no number in the summary: choose one of {', '.join(numbers)}"
        )
    return float(value)
