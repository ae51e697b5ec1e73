"""Independent runs of one flow that advance by different times."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.moment_product import Moment


class Clocked(NamedTuple):
    """States of S runs of the same flow, each at a time of its own."""

    runs: tuple[Any, ...]

    @property
    def m(self) -> Tensor:
        """(S, d, z)."""
        return torch.stack([run.m for run in self.runs])


class OwnClocks(Flow[Any]):
    """A flow whose S runs each advance by a dt of its own: q̇_s = v(q_s) to t_s, where training steps differ in length.

    Args:
        flow: the flow of every run.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.moment)
        self.flow = flow
        self.name = flow.name

    def drive(self, moment: Moment) -> None:
        super().drive(moment)
        self.flow.drive(moment)

    def start(self, *weights: Tensor) -> Clocked:
        """States of weights (S, ·, ·) at time 0."""
        return Clocked(tuple(self.flow.start(*layers) for layers in zip(*weights, strict=True)))

    def advance(self, state: Clocked, dt: float | Tensor, moment: Moment | None = None) -> Clocked:
        """States after dt more: one number, or (S,).

        Raises:
            FlowBlowUp: when the solution of a run does not exist that long.
            UserError: for another number of times than runs.
        """
        times = torch.as_tensor(dt, dtype=torch.float64)
        if times.ndim and times.shape != (len(state.runs),):
            raise UserError(f"dt of shape {tuple(times.shape)} for {len(state.runs)} runs: give one each")
        steps = times.expand(len(state.runs)).tolist()
        pairs = zip(state.runs, steps, strict=True)
        return Clocked(tuple(self.flow.advance(run, step, moment) for run, step in pairs))

    def _step(self, state: Clocked, dt: float, moment: Moment) -> Clocked:
        return self.advance(state, dt, moment)

    def loss(self, state: Clocked) -> Tensor:
        """The objective of each run, (S,)."""
        return torch.stack([self.flow.loss(run) for run in state.runs])

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor | None:
        """That of the flow."""
        return self.flow.optimum(embedding, hidden)
