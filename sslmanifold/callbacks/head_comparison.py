"""The exact flow of a linear head beside the training of anybody's module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslmanifold.callbacks.linear_head import LinearHead
from sslmanifold.callbacks.tap import submodule
from sslmanifold.errors import UserError
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.metrics import subspace_distance
from sslmanifold.theory.flows.base import Flow, FlowBlowUp, pack, unpack

_TINY = torch.finfo(torch.float64).tiny


class HeadComparison:
    """What :class:`~sslmanifold.callbacks.ode.ODEComparison` does where it is given a ``head``.

    The flow starts from the head's own initial weights and is given, step by step, the C of the very features that
    training was given and the learning rate of the head's parameter group, so that the deviation is O(lr) with
    minibatches too. Embeddings are compared on the features of the step.

    Raises:
        UserError: for what no flow describes: features that move, another loss, another optimizer than plain SGD,
            clipping, gradient accumulation.
    """

    def __init__(self, head: str, features: str | None, loss: Any) -> None:
        self.head, self.features, self.loss = head, features, loss
        self.linear: LinearHead | None = None
        self.flow: Flow | None = None
        self.state: Any = None
        self.time = 0.0
        self.largest: Tensor | None = None
        self.blow_up_time: float | None = None
        self._lr: float | None = None
        self._before: Tensor | None = None
        self._weights: list[Tensor] = []
        self._resumed: dict[str, Any] | None = None

    def begin(self, trainer: Any, module: Any) -> None:
        """Listen to the head; what can be refused before the first step is refused here."""
        if self.features is not None:
            moving = [
                n
                for n, p in submodule(module, self.features, "features").named_parameters()
                if p.requires_grad
            ]
            if moving:
                raise UserError(
                    f"features={self.features!r} is trained ({moving[0]}, …), and the flow is that of a head on fixed "
                    f"features: module.{self.features}.requires_grad_(False), and .eval() for its normalisation"
                )
        for key, value in (
            ("gradient_clip_val", trainer.gradient_clip_val),
            ("accumulate_grad_batches", trainer.accumulate_grad_batches != 1),
        ):
            if value:
                raise UserError(f"head={self.head!r}: {key} is not in the flow: leave it out of the Trainer")
        self.linear = LinearHead(module, self.head, self.loss)
        self._weights = self.linear.weights()

    def open_batch(self) -> None:
        """A training step begins."""
        assert self.linear is not None
        self.linear.heard, self.linear.listening = [], True
        self._before, self._lr = self.linear.map(), None

    def before_step(self, optimizer: Any) -> None:
        """The learning rate of the head's weights; the flow is that of plain gradient steps."""
        assert self.linear is not None
        for group in optimizer.param_groups:
            if any(parameter is self.linear.parameters[0] for parameter in group["params"]):
                break
        else:
            return  # another optimizer of the module
        if not isinstance(optimizer, RiemannianSGD | torch.optim.SGD):
            raise UserError(
                f"head={self.head!r}: the flow is that of gradient steps, not of {type(optimizer).__name__}: give the "
                "head RiemannianSGD"
            )
        for key in ("momentum", "weight_decay"):
            if group.get(key, 0):
                raise UserError(
                    f"head={self.head!r}: {key}={group[key]:g} is not in the flow: set {key}=0 for it"
                )
        self._lr = float(group["lr"])

    def close_batch(self, outputs: Any) -> dict[str, Tensor]:
        """The keys of ``ode/…`` after this step, (1,) each."""
        assert self.linear is not None
        assert self._before is not None
        self.linear.listening = False
        if self._lr is None or self.blow_up_time is not None:
            return {}
        features, moment = self.linear.batch()
        returned = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self.linear.require_same_loss(moment, self._before, returned)
        if self.flow is None:
            self.flow = self.linear.flow(moment)
            start = self.flow.start(*(weight[None] for weight in self._weights))
            self.state = start if self._resumed is None else unpack(self._resumed["state"], start)
        self.time += self._lr
        try:
            self.state = self.flow.advance(self.state, self._lr, moment)
        except FlowBlowUp as blow_up:
            self.blow_up_time = float(blow_up.time)
            return {}
        m, exact = self.linear.map(), self.state.m
        gap = torch.linalg.matrix_norm(features @ (m - exact))
        deviation = gap / torch.linalg.matrix_norm(features @ exact).clamp_min(_TINY)
        self.largest = deviation if self.largest is None else torch.maximum(self.largest, deviation)
        ours, flows = ((each * (moment @ each)).sum((-2, -1)) for each in (m, exact))  # Tr(mᵀ C m), Eq. 8
        return {
            "ode/time": torch.tensor([self.time], dtype=torch.float64),
            "ode/deviation": deviation,
            "ode/deviation_max": self.largest,
            "ode/subspace_distance": subspace_distance(m, exact),
            "ode/loss_gap": (ours - flows) / flows.abs().clamp_min(_TINY),
        }

    def end(self) -> None:
        """Stop listening."""
        if self.linear is not None:
            self.linear.detach()

    def state_dict(self) -> dict[str, Any]:
        state = None if self.state is None else pack(self.state)
        return {"state": state, "time": self.time, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["state"] is not None:
            self._resumed, self.time, self.largest = state, state["time"], state["largest"]
