"""Runs that differ in nothing but the seed, together: the rows and cells of a report's tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslmanifold.plots.style import constraint_colour
from sslmanifold.runs.records import Record, swept_value


@dataclass
class Group:
    """Runs of one choice of everything but the data set and the seed; of its swept options too.

    Attributes:
        label: the choice, e.g. "orthogonal, model.hidden=256"; a key that the group's data set lacks is left out.
        colour: of its constraint, lightened where several groups share one.
    """

    label: str
    colour: str
    records: list[Record]

    def on(self, data: str) -> list[Record]:
        """The group's runs on one data set."""
        return [r for r in self.records if data_name(r) == data]


def data_name(record: Record) -> str:
    """The name of a run's data set."""
    return str(record.summary.get("data") or "?")


def grouped(records: Sequence[Record], keys: Sequence[str]) -> list[Group]:
    """The groups in the order in which their first runs come.

    Args:
        keys: what tells the runs apart, as :func:`~sslmanifold.runs.records.telling_keys` gives it.
    """
    others = [key for key in keys if key not in ("constraint", "data", "seed")]
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        choice = (record.summary.get("constraint"), *(swept_value(record, key) for key in others))
        found.setdefault(choice, []).append(record)
    sharing: dict[Any, int] = {}
    for choice in found:
        sharing[choice[0]] = sharing.get(choice[0], 0) + 1
    groups, seen = [], dict.fromkeys(sharing, 0)
    for choice, members in found.items():
        named = [f"{k}={v}" for k, v in zip(others, choice[1:], strict=True) if v is not None]
        label = ", ".join([str(choice[0]), *named])
        colour = lighter(constraint_colour(str(choice[0])), seen[choice[0]], sharing[choice[0]])
        seen[choice[0]] += 1
        groups.append(Group(label, colour, members))
    return groups


def lighter(colour: str, index: int, count: int) -> str:
    """The index-th of ``count`` shades of a colour, from itself to a pale one."""
    if count < 2 or index == 0:
        return colour
    mix = 0.45 * index / (count - 1)
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(c + (255 - c) * mix):02x}" for c in channels)


def data_names(records: Sequence[Record]) -> list[str]:
    """The data sets, in the order in which their first runs come."""
    return list(dict.fromkeys(map(data_name, records)))


def mean_and_spread(records: Sequence[Record], key: str) -> tuple[float, float, int] | None:
    """Mean, sample standard deviation (0 for one value) and count over seeds and replicas; None without values."""
    values = [v for r in records for v in r.values(key)]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0
    return statistics.fmean(values), spread, len(values)


def cell(records: Sequence[Record], key: str) -> str:
    """A table cell: "1.868 ± 0.002 (5)", the count of values in brackets."""
    found = mean_and_spread(records, key)
    if found is None:
        return ""
    mean, spread, count = found
    return f"{mean:.4g}" if count == 1 else f"{mean:.4g} ± {spread:.2g} ({count})"
