"""What a report says in words: how it ended, best and worst, collapse, predicted against seen, failures."""

from collections.abc import Callable, Iterator, Sequence

from sslmanifold.plots.groups import Group, cell, data_names, mean_and_spread
from sslmanifold.runs import ENDED
from sslmanifold.runs.keys import GAP, LARGEST_DEVIATION, LOSS, OPTIMUM, RANK, RESIDUAL, Key, key_of
from sslmanifold.runs.records import (
    Record,
    full_rank,
    is_collapsed,
    is_short_of_optimum,
    swept_keys,
    swept_value,
)

# what constraints and data sets are compared by
METRICS = (RANK, LARGEST_DEVIATION, GAP, LOSS, RESIDUAL)


def metrics_present(records: Sequence[Record]) -> dict[str, Key]:
    """Of ``METRICS`` and the accuracies of probes those that at least one run has, with what they mean."""
    probes = sorted(
        {k for r in records for k in r.summary if k.startswith("probe/") and k.endswith("/accuracy")}
    )
    return {key: key_of(key) for key in (*METRICS, *probes) if any(r.values(key) for r in records)}


def tally(records: Sequence[Record]) -> str:
    """ "50 runs: 40 completed, 10 diverged"."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.status] = counts.get(record.status, 0) + 1
    noun = "run" if len(records) == 1 else "runs"
    return f"{len(records)} {noun}: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))


def what_was_swept(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Swept key → its values, in order of appearance; nothing for a single run."""
    lines = []
    for key in swept_keys(records):
        values = list(
            dict.fromkeys(str(swept_value(r, key)) for r in records if swept_value(r, key) is not None)
        )
        shown = ", ".join(values[:12]) + (f" … ({len(values)} values)" if len(values) > 12 else "")
        lines.append((key, shown))
    return lines


def best_and_worst(groups: Sequence[Group], records: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """(data, metric heading, best group, worst group) wherever two groups can be compared.

    Groups that the spread over seeds does not tell from the best (or worst) are named with it; where it tells none
    of them apart, there is no best.
    """
    rows = []
    for data in data_names(records):
        for key, meaning in metrics_present(records).items():
            if meaning.larger is None:
                continue
            means = {}
            for group in groups:
                found = mean_and_spread(group.on(data), key)
                if found is not None:
                    means[group.label] = (abs(found[0]), found[1], cell(group.on(data), key))
            if len(means) < 2:
                continue
            order = sorted(means, key=lambda label: means[label][0], reverse=meaning.larger)
            if _alike(means[order[0]], means[order[-1]], meaning.floor):
                rows.append((data, meaning.heading, "no difference beyond the spread", ""))
                continue
            ends = []
            for end in (order[0], order[-1]):
                alike = [
                    label
                    for label in means
                    if label != end and _alike(means[label], means[end], meaning.floor)
                ]
                names = ", ".join(alike) if len(alike) <= 3 else f"{len(alike)} others"
                ends.append(f"{end}: {means[end][2]}" + (f", like {names}" if alike else ""))
            rows.append((data, meaning.heading, ends[0], ends[1]))
    return rows


def _alike(one: tuple[float, float, str], other: tuple[float, float, str], floor: float) -> bool:
    """Whether two (mean, spread, …) differ by no more than the larger spread, a thousandth, or the floor."""
    return abs(one[0] - other[0]) <= max(one[1], other[1], 1e-3 * one[0], floor)


def describe(record: Record, keys: Sequence[str]) -> str:
    """A run in words: "constraint=none, seed=0", or its folder where nothing was swept."""
    return ", ".join(f"{key}={swept_value(record, key)}" for key in keys) or record.name


def _ranged(records: Sequence[Record], key: str, factor: float = 1.0) -> str:
    """ "1.02" or "1.02 to 1.04": a summary number over runs."""
    numbers = [factor * (r.number(key) or 0.0) for r in records]
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _where(
    groups: Sequence[Group], records: Sequence[Record], condition: Callable[[Record], bool]
) -> Iterator[tuple[str, list[Record], int]]:
    """(group and data set, the runs there that meet the condition, how many runs there are) where some do."""
    for group in groups:
        for data in data_names(records):
            members = group.on(data)
            found = [r for r in members if condition(r)]
            if found:
                yield f"{group.label} on {data}", found, len(members)


def collapse_warnings(groups: Sequence[Group], records: Sequence[Record]) -> list[str]:
    """ "none on half_moons: effective rank 1.02 of 2: collapsed (5 of 5 runs)", one line a group and data set."""
    return [
        f"{name}: effective rank {_ranged(fallen, 'rank/effective')} of {full_rank(fallen[0])}: collapsed "
        f"({len(fallen)} of {count} runs)"
        for name, fallen, count in _where(groups, records, is_collapsed)
    ]


def shortfall_warnings(groups: Sequence[Group], records: Sequence[Record]) -> list[str]:
    """ "scaled on digits: 6.1 % above the optimum L* (5 of 5 runs)", one line a group and data set."""
    return [
        f"{name}: {_ranged(short, 'train/optimality_gap', 100)} % above the optimum L* ({len(short)} of {count} runs)"
        for name, short, count in _where(groups, records, is_short_of_optimum)
    ]


# the part of the way from one dimension to all of them above which every direction counts as used
WHOLE = 0.8

# what to write instead of a line that ended short of its optimum: it was still going down, or it wavered
TO_THE_OPTIMUM = (
    "a loss that still falls wants a larger trainer.max_steps; one that wavers wants scheduler=cosine or a "
    "smaller optimizer.lr"
)


def advice(record: Record) -> list[str]:
    """What a completed run's end suggests to write instead, one line each; empty where nothing does."""
    lines: list[str] = []
    if record.status != "completed":  # its reason says what to do
        return lines
    if is_collapsed(record) and record.summary.get("constraint") not in ("orthogonal", "operator_norm"):
        rank = _ranged([record], RANK)
        lines.append(
            f"effective rank {rank} of {full_rank(record)}: the embedding collapsed; constraint=orthogonal or "
            "constraint=operator_norm keeps every direction in which the loss falls"
        )
    if is_short_of_optimum(record):
        gap = _ranged([record], GAP, 100)
        lines.append(f"the loss ended {gap} % above its optimum L*: {TO_THE_OPTIMUM}")
    return lines


def rank_verdict(record: Record) -> str:
    """Whether the effective rank is good, in one sentence; empty where there is none, or nothing to collapse to."""
    rank, full = record.number(RANK), full_rank(record)
    if rank is None or full < 2:
        return ""
    if is_collapsed(record):
        judged = "collapsed: the embedding is nearly a line"
    elif rank >= 1 + WHOLE * (full - 1):
        judged = "good, no direction of the embedding has collapsed"
    else:
        judged = "partial: no collapse to a line, but some directions carry little"
    return f"effective rank {rank:.4g} of {full}: {judged}"


def failures(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Every run without a result, with the reason."""
    reasons = {
        "killed": "no summary and no sign of life: the process was killed",
        "running": "still running",
    }
    return [
        (r, str(r.summary.get("reason") or reasons.get(r.status, "no reason was left")))
        for r in records
        if r.status not in ENDED
    ]


def damaged_files(records: Sequence[Record]) -> list[str]:
    """Files of runs with a result that could not be read, as far as charts needed them."""
    return [fault for record in records if not record.damage for fault in record.faults]


def predicted_pairs(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """What → (key of the prediction, key of what was seen), for everything that some run has both of."""
    pairs = {"loss (L* against the last loss)": (OPTIMUM, LOSS)}
    for record in records:
        for key in record.summary:
            name = key.removeprefix("predicted/")
            if name != key and f"seen/{name}" in record.summary:
                pairs[name.replace("_", " ")] = (key, f"seen/{name}")
    return {
        what: (a, b)
        for what, (a, b) in pairs.items()
        if any(r.status == "completed" and r.values(a) and r.values(b) for r in records)
    }


def predicted_against_seen(groups: Sequence[Group], records: Sequence[Record]) -> list[tuple[str, ...]]:
    """(what, group, data, predicted, seen) over completed runs."""
    rows: list[tuple[str, ...]] = []
    for what, (predicted, seen) in predicted_pairs(records).items():
        for group in groups:
            for data in data_names(records):
                members = [
                    r
                    for r in group.on(data)
                    if r.status == "completed" and r.values(predicted) and r.values(seen)
                ]
                if members:
                    rows.append((what, group.label, data, cell(members, predicted), cell(members, seen)))
    return rows
