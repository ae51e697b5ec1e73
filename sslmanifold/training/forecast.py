"""What the exact flows say of a training before it runs: for each constraint, from the same weights, rank and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslmanifold.callbacks import SpectrumMonitor
from sslmanifold.callbacks.collapse import collapse_threshold
from sslmanifold.constraints import Constraint
from sslmanifold.constraints.registry import available_constraints, make_constraint
from sslmanifold.errors import UserError
from sslmanifold.metrics import effective_rank
from sslmanifold.plots.style import CONSTRAINT_COLOURS
from sslmanifold.runs.keys import GAP, LOSS, OPTIMUM, RANK
from sslmanifold.theory.trajectory import Solution
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.flow_time import step_at
from sslmanifold.training.forecast_drive import Drive, drive_of
from sslmanifold.training.forecast_start import Start

COLLAPSE_TIME, COLLAPSE_STEP = "predicted/time_to_collapse", "predicted/steps_to_collapse"
# points that a stretch of time is solved at anew, where the rank crosses its threshold in it
_WITHIN = 65
# of a loss without C, for each step of the training: ten times what a smooth loss takes
_EVALUATIONS = 10
# halvings of what is left of the time to a blow-up
_HALVINGS = 12


@dataclass(frozen=True)
class Row:
    """The forecast of one constraint.

    Attributes:
        constraint: its name.
        own: whether it is the run's.
        reason: why there is no forecast; empty where there is one.
        start: how far the weights are from the common ones.
        times, rank, loss: along the flow, (T,), (T, S), (T, S).
        smallest: the smallest effective rank on the way, of the worst replica.
        collapse: when the rank falls below its threshold, Σ lr; None where it does not.
        collapse_step: the step of the training at that time.
        collapsed_before: whether it was below from the start.
        blow_up: the time at which the flow leaves every bound, or None.
        optimum: L*, or None.
        scale: ‖C‖₂, below 1e-12 of which an optimum counts as 0.
    """

    constraint: str
    own: bool = False
    reason: str = ""
    start: Start | None = None
    times: Tensor = field(default_factory=lambda: torch.zeros(0))
    rank: Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    loss: Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    smallest: float = math.nan
    collapse: float | None = None
    collapse_step: int | None = None
    collapsed_before: bool = False
    blow_up: float | None = None
    optimum: float | None = None
    scale: float = 0.0

    @property
    def gap(self) -> float | None:
        """(L − L*)/|L*| at the end, the mean over replicas."""
        if self.optimum is None or self.reason:
            return None
        return float((self.loss[-1].mean() - self.optimum) / max(abs(self.optimum), 1e-12 * self.scale))

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the keys of a run's summary; None for what there is not."""
        entries: dict[str, Any] = {"constraint": self.constraint, "own": self.own}
        if self.reason:
            return entries | {"reason": self.reason}
        assert self.start is not None
        return entries | {
            "start/same_weights": self.start.same,
            "start/distance": self.start.distance,
            "rank/initial": float(self.rank[0].mean()),
            RANK: float(self.rank[-1].mean()),
            "rank/smallest": self.smallest,
            LOSS: None if self.blow_up is not None else float(self.loss[-1].mean()),
            OPTIMUM: self.optimum,
            GAP: None if self.blow_up is not None else self.gap,
            COLLAPSE_TIME: self.collapse,
            COLLAPSE_STEP: self.collapse_step,
            "ode/blow_up_time": self.blow_up,
        }


@dataclass(frozen=True)
class Forecast:
    """All rows, and what they are of.

    Attributes:
        names: data, model, loss, constraint and seed of the run, by name.
        origin: the weights it starts from, in words.
        time: Σ lr that it goes.
        steps: how many steps of the training that is; None where a schedule never gets there.
        lr: of the training.
        fraction: of (largest rank − 1) under which an embedding has collapsed.
        embedding: z.
        rows: one for each constraint.
        notes: what of the training is not in the forecast.
    """

    names: dict[str, Any]
    origin: str
    time: float
    steps: int | None
    lr: float
    fraction: float
    embedding: int
    rows: list[Row]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "kind": "forecast",
            **self.names,
            "from": self.origin,
            "ode/time": self.time,
            "steps": self.steps,
            "optimizer/lr": self.lr,
            "collapse/fraction": self.fraction,
            "embedding": self.embedding,
            "notes": self.notes,
            "constraints": [row.to_dict() for row in self.rows],
        }


def constraints_of(experiment: Experiment, chosen: str | Sequence[str]) -> list[Constraint]:
    """The constraints to forecast: the run's own with its options, the others with their defaults.

    Raises:
        UserError: for a name that is none; the choices are listed.
    """
    own = experiment.constraint
    if chosen == "all":
        known = available_constraints()
        names = [name for name in CONSTRAINT_COLOURS if name in known]
        names += [own.name] if own.name not in names else []
    else:
        names = list(dict.fromkeys([chosen] if isinstance(chosen, str) else chosen))
    return [own if name == own.name else make_constraint(name) for name in names]


def forecast(
    experiment: Experiment,
    constraints: Sequence[Constraint],
    start: Callable[[Constraint], Start],
    times: Tensor,
    *,
    origin: str,
    largest: float = 1.0,
    progress: Callable[[str], None] = lambda name: None,
) -> Forecast:
    """Each constraint's exact flow over the times, from weights that are the same for all as far as they can be.

    Args:
        experiment: the run.
        constraints: whose flows.
        start: the weights of each.
        times: (T,), ascending from 0, Σ lr.
        origin: those weights in words.
        largest: the largest effective rank that the embedding has had before.
        progress: called with the name of each constraint as its turn comes.
    """
    drive = drive_of(experiment)
    watch = [c for c in experiment.callbacks if isinstance(c, SpectrumMonitor) and c.collapse is not None]
    fraction = watch[0].collapse if watch and watch[0].collapse is not None else 0.2
    factor = _factor(experiment.datamodule.samples.train_x)
    rows = []
    for constraint in constraints:
        progress(constraint.name)
        try:
            row = _row(experiment, constraint, start, drive, factor, times, fraction, largest)
        except UserError as error:
            row = Row(constraint.name, constraint is experiment.constraint, reason=str(error))
        rows.append(row)
    end = float(times[-1])
    notes = [
        f"{constraint.name}: its loss is the one that it divides by norms of the weights"
        for constraint in constraints
        if drive.eigvals is None and type(constraint).objective is not Constraint.objective
    ]
    return Forecast(
        names={**experiment.names, "seed": experiment.options["seed"]},
        origin=origin,
        time=end,
        steps=step_at(experiment, end),
        lr=experiment.learning_rate,
        fraction=fraction,
        embedding=experiment.module.network.shape.embedding,
        rows=rows,
        notes=[*drive.notes, *notes],
    )


def _factor(x: Tensor) -> Tensor:
    """R (≤ d, d) with RᵀR = XᵀX of centred samples: R m has the singular values of the centred embedding X m."""
    centred = x - x.mean(-2, keepdim=True)
    return centred if x.shape[0] <= x.shape[1] else torch.linalg.qr(centred, mode="r")[1]


def _row(
    experiment: Experiment,
    constraint: Constraint,
    start: Callable[[Constraint], Start],
    drive: Drive,
    factor: Tensor,
    times: Tensor,
    fraction: float,
    largest: float,
) -> Row:
    shape = experiment.module.network.shape
    begun = start(constraint)
    steps = step_at(experiment, float(times[-1])) or experiment.steps
    # replicas are solved in turn where a constraint caps singular values
    limit = _EVALUATIONS * (steps + 2 * len(times)) * experiment.options["replicas"]
    drive.flow(constraint, shape, limit)  # says so where there is none

    def solved(at: Tensor) -> tuple[Solution, Tensor]:
        solution = constraint.solve(drive.of(shape.dim, limit), shape, begun.weights, at)
        return solution, effective_rank(factor @ solution.m, centered=False)

    solution, rank = solved(times)
    when, loss = solution.times, solution.loss
    if solution.blow_up is not None:
        left = solution.blow_up - when[-1]
        closer = solution.blow_up - left * 0.5 ** torch.arange(1, _HALVINGS, dtype=torch.float64)
        tail, tail_rank = solved(torch.cat([when[-1:], closer[closer > when[-1]]]))
        when, loss = torch.cat([when, tail.times[1:]]), torch.cat([loss, tail.loss[1:]])
        rank = torch.cat([rank, tail_rank[1:]])
    worst = rank.amin(-1)  # (T, S) -> (T,)
    index = _first_below(worst, fraction, largest)
    collapse = None if index is None else float(when[index])
    if index:
        within = torch.linspace(float(when[index - 1]), float(when[index]), _WITHIN, dtype=torch.float64)
        finer, finer_rank = solved(within)
        collapse = _crossing(
            finer.times, finer_rank.amin(-1), fraction, max(largest, float(worst[:index].max()))
        )
    optimum = None if drive.eigvals is None else constraint.optimum(drive.eigvals, shape)
    return Row(
        constraint.name,
        constraint is experiment.constraint,
        start=begun,
        times=when,
        rank=rank,
        loss=loss,
        smallest=float(worst.min()),
        collapse=collapse,
        collapse_step=None if collapse is None else step_at(experiment, collapse),
        collapsed_before=index == 0,
        blow_up=solution.blow_up,
        optimum=None if optimum is None else float(optimum),
        scale=0.0 if drive.eigvals is None else float(drive.eigvals.abs().max()),
    )


def _first_below(rank: Tensor, fraction: float, largest: float) -> int | None:
    """Index of the first rank (T,) below the threshold that the largest so far sets."""
    for index, value in enumerate(rank.tolist()):
        largest = max(largest, value)
        threshold = collapse_threshold(largest, fraction)
        if threshold is not None and value < threshold:
            return index
    return None


def _crossing(times: Tensor, rank: Tensor, fraction: float, largest: float) -> float:
    """When the rank (T,) falls below its threshold, on the line between the two times about it."""
    index = _first_below(rank, fraction, largest)
    if index is None or index == 0:  # at the end of the stretch, to rounding
        return float(times[-1 if index is None else 0])
    threshold = collapse_threshold(max(largest, float(rank[: index + 1].max())), fraction)
    assert threshold is not None
    before, after = float(rank[index - 1]), float(rank[index])
    share = (before - threshold) / (before - after)
    return float(times[index - 1]) + share * float(times[index] - times[index - 1])
