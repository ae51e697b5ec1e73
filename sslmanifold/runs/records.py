"""Run folders as rows: found under any folder, read once, with what was varied between them."""

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sslmanifold.config.targets import RENAMED, Opened, locate
from sslmanifold.errors import UserError
from sslmanifold.runs import UNREADABLE, Run, run_folders
from sslmanifold.runs.folder import read_json
from sslmanifold.runs.identity import NOT_IDENTITY
from sslmanifold.runs.keys import GAP, RANK

NAMED_GROUPS = ("data", "model", "loss", "constraint")

# as many keys, beside constraint, data and seed, as a label can name
FEW_KEYS = 4

# a run without a summary that has written nothing for so many seconds is taken to be dead
SILENCE = 300.0


@dataclass
class Record:
    """One run folder as a row.

    Attributes:
        name: its path below the folder that was asked for.
        run: the folder, read on demand.
        faults: damaged files of a run that is a row all the same, as far as they were read.
    """

    name: str
    run: Run
    faults: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.run.path

    @cached_property
    def damage(self) -> str:
        """Why the configuration cannot be read; empty where it can."""
        try:
            _ = self.run.config
        except UserError as error:
            return str(error)
        return ""

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        """The run's logged rows, none where they cannot be read."""
        try:
            return self.run.metrics
        except UserError as error:
            self.faults.append(str(error))
            return {}

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration, empty where it cannot be read."""
        return {} if self.damage else self.run.config

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's summary; the names of a run that failed early, or still runs, come from its config."""
        summary = dict(self.run.summary)
        for group in NAMED_GROUPS:
            options = self.config.get(group)
            target = options.get("_target_") if isinstance(options, dict) else None
            if not summary.get(group) and target:
                summary[group] = _option(str(target), group)
            elif summary.get(group) is not None:
                summary[group] = str(summary[group])
        summary.setdefault("seed", self.config.get("seed"))
        if self.damage:
            summary |= {"status": UNREADABLE, "reason": self.damage}
        for path in sorted(self.run.folder.probes.glob("*.json")):
            try:
                accuracy = read_json(path).get("accuracy")
            except (ValueError, AttributeError):
                continue  # a probe that was killed while writing; the run itself is whole
            if accuracy is not None:
                summary[f"probe/{path.stem}/accuracy"] = accuracy
        return summary

    @cached_property
    def status(self) -> str:
        """One of STATUSES, or unreadable; without a summary running, after a silence killed."""
        if self.damage:
            return UNREADABLE
        if "status" in self.run.summary:
            return str(self.run.summary["status"])
        newest = max(
            (p.stat().st_mtime for p in (self.run.folder.config, self.run.folder.metrics) if p.exists()),
            default=0.0,
        )
        return "running" if time.time() - newest < SILENCE else "killed"

    @cached_property
    def flat(self) -> dict[str, Any]:
        """Dotted key → value of the configuration, without what does not change the result."""
        config = {k: v for k, v in self.config.items() if k not in NOT_IDENTITY}
        return {k: v for k, v in _flatten(config) if not k.startswith("callbacks.progress.")}

    def values(self, key: str) -> list[float]:
        """The summary's numbers under a key: one, or one a replica."""
        replicas = [v for k, v in self.summary.items() if re.fullmatch(re.escape(key) + r"_r\d+", k)]
        found = replicas or [self.summary.get(key)]
        return [float(v) for v in found if isinstance(v, (int, float)) and math.isfinite(v)]

    def number(self, key: str) -> float | None:
        """The summary's number under a key, or None."""
        value = self.summary.get(key)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _option(target: str, group: str) -> str:
    """The name by which a class is chosen: its own ``name``, as finished runs record it.

    A class that is not this package's is named as its folder names it, and not imported.
    """
    try:
        name = getattr(locate(target, group, Opened(Path())), "name", None)
    except UserError:
        name = None
    return name if isinstance(name, str) else _snake(target.rpartition(".")[2])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        if prefix.endswith("_target_"):
            value = RENAMED.get(str(value), str(value))
        yield prefix, str(value) if isinstance(value, list) else value


def collect(folders: Sequence[str | Path]) -> list[Record]:
    """Every run at or below the folders, in natural order, each once.

    Raises:
        UserError: where a folder does not exist, or there is no run in any of them.
    """
    records: dict[Path, Record] = {}
    for given in folders:
        root = Path(given)
        if not root.is_dir():
            raise UserError(f"{root} is not a folder: pass a run folder, a sweep folder or a folder of them")
        for path in run_folders(root):
            relative = path.relative_to(root) if len(folders) == 1 else path
            name = str(relative) if str(relative) != "." else path.resolve().name
            records.setdefault(path.resolve(), Record(name, Run(path)))
    if not records:
        raise UserError(
            f"no runs in {', '.join(map(str, folders))}: a run folder has a config.yaml; "
            "train one with `sslmanifold train`"
        )
    return list(records.values())


def swept_keys(records: Sequence[Record]) -> list[str]:
    """What differs between the runs, groups by name first: ["constraint", "data", "model.hidden", "seed"].

    A key inside a group counts only where it differs between runs that chose the same option of the group.
    """
    targets: dict[str, set[Any]] = defaultdict(set)
    values: dict[tuple[str, Any], set[Any]] = defaultdict(set)
    for record in records:
        for key, value in record.flat.items():
            group, _, leaf = key.partition(".")
            if leaf == "_target_":
                targets[group].add(value)
            else:
                values[key, record.flat.get(f"{group}._target_")].add(value)
    groups = sorted(group for group, seen in targets.items() if len(seen) > 1)
    leaves = sorted({key for (key, _), seen in values.items() if len(seen) > 1})
    order = [*[g for g in ("constraint", "data") if g in groups], *groups, *leaves]
    return [k for k in dict.fromkeys(order) if k != "seed"] + (["seed"] if "seed" in leaves else [])


def telling_keys(records: Sequence[Record]) -> list[str]:
    """Of many swept keys those that tell the runs apart: constraint, data, seed, and as few others as do.

    In a folder of unlike runs most keys vary together: a label or a table that names them all is unreadable. Of a
    grid, and of up to ``FEW_KEYS`` others (a random search, say), these are all its keys.
    """
    keys = swept_keys(records)
    always = [key for key in keys if key in ("constraint", "data", "seed")]
    others = [key for key in keys if key not in always]
    if len(others) <= FEW_KEYS:
        return keys
    columns = {key: [str(swept_value(record, key)) for record in records] for key in keys}
    constraints = columns.get("constraint", [""] * len(records))
    labels = list(constraints)
    chosen: list[str] = []

    def joined(key: str) -> list[str]:
        return [f"{label}\0{value}" for label, value in zip(labels, columns[key], strict=True)]

    whole = len(set(zip(labels, *(columns[key] for key in others), strict=True)))
    while len(set(labels)) < whole:
        best = max((key for key in others if key not in chosen), key=lambda key: len(set(joined(key))))
        labels = joined(best)
        chosen.append(best)
    # a later choice may have made an earlier one superfluous
    for key in list(chosen):
        rest = [k for k in chosen if k != key]
        if len(set(zip(constraints, *(columns[k] for k in rest), strict=True))) == whole:
            chosen = rest
    return [key for key in keys if key in always or key in chosen]


def swept_value(record: Record, key: str) -> Any:
    """The value of a swept key for one run; a group's is its option's name."""
    if "." not in key and f"{key}._target_" in record.flat:
        if key in NAMED_GROUPS:
            return record.summary.get(key)
        return _snake(str(record.flat[f"{key}._target_"]).rpartition(".")[2])
    return record.flat.get(key)


def is_collapsed(record: Record) -> bool:
    """Whether the embedding has collapsed: less than a tenth of the way from one dimension to all of them.

    The effective rank lies between 1 and min(z, d); collapsed means ≤ 1 + 0.1 (min(z, d) − 1).
    """
    rank, full = record.number(RANK), full_rank(record)
    return rank is not None and full > 1 and rank <= 1 + 0.1 * (full - 1)


def is_short_of_optimum(record: Record) -> bool:
    """Whether a completed run ended more than 1 % of |L*| above the theory's optimum L*."""
    gap = record.number(GAP)
    return record.status == "completed" and gap is not None and gap > 0.01


def full_rank(record: Record) -> int:
    """min(z, d): the largest effective rank the embedding can have; 0 where unknown."""
    return int(min(record.number("embedding") or 0, record.number("dim") or math.inf))
