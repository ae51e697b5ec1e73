"""What drives the flow beside a run: C where the loss is Tr(mᵀCm), and ∂L/∂m at the flow's own map where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sslmanifold.callbacks.observer import Recorded
from sslmanifold.data import TripletBatch
from sslmanifold.theory import LossGradient, SampleLoss, cross_moment
from sslmanifold.theory.gradient import Loss
from sslmanifold.theory.moment_product import Moment

# Gradients that a flow may take: two or three a step are usual, hundreds for a while near a singularity.
_HEAD_START, _PER_STEP = 500, 50


class DrivingLoss:
    """The loss that each step of a run differentiates, as its flow takes it.

    Args:
        module: the run's module.
        follow: ``callbacks.ode.follow``.
        batch: any batch of the run, the one of every step for full batches; called where it is needed.
        order: of the flow's steps, see `LossGradient`.

    Attributes:
        moment: C as differentiated, or the gradient of the loss on the last batch.
        absent: why neither is known, or "".
        follows_batches: whether the flow is given the batches of each step.
        changes: whether what drives the flow differs from step to step.
    """

    moment: Moment
    # ‖u‖ of a sample relative to their median: closer than this to 0, a loss on the unit sphere is singular for a step
    near_zero = 0.02

    def __init__(
        self, module: Recorded, follow: str, batch: Callable[[], TripletBatch], *, order: int = 2
    ) -> None:
        self.follows_batches = follow != "population" and not module.full_batch
        self.absent = ""
        self.samples: SampleLoss | None = None
        self.smallest, self.crossed = float("inf"), False
        self._sides: Tensor | None = None
        self._granted, self._replicas = 0, module.network.replicas
        self._normalized = bool(getattr(module.loss, "normalize", False))
        self._hinges: Callable[..., Tensor] | None = getattr(module.loss, "hinges", None)
        self._at: Callable[[int], Callable[..., Tensor]] | None = getattr(module.loss, "at", None)
        if getattr(module.loss, "draw", "step") == "fixed":  # as it is called: the same at every step
            self._at = None
        if module.moment is not None:
            self.moment = module.moment.double().cpu()
            self._at = None
        elif module.full_batch or self.follows_batches:
            weight = module.network.weights[0]
            loss = module.loss if self._at is None else self._at(module.steps_done)
            self.samples = SampleLoss(loss, *batch(), dtype=weight.dtype, device=weight.device)
            self.moment = LossGradient(
                self.samples,
                module.network.shape.dim,
                order=order,
                dtype=weight.dtype,
                device=weight.device,
            )
        else:
            name = getattr(module.loss, "name", type(module.loss).__name__)
            self.absent = (
                f"the mean of loss={name} over minibatches is no function of the population's C: "
                "callbacks.ode.follow=batches gives the flow the batches themselves"
            )

    @property
    def follows_draws(self) -> bool:
        """Whether the loss itself differs from step to step, and the flow is given that of each."""
        return self._at is not None

    @property
    def changes(self) -> bool:
        return self.follows_batches or self.follows_draws

    def allow(self, steps: int) -> None:
        """Let the flow's gradients be so many times those of training up to this step, and not more."""
        if isinstance(self.moment, LossGradient):
            granted = (
                _HEAD_START + _PER_STEP * steps
            ) * self._replicas  # solved in turn where values are capped
            allowed = 0 if self.moment.allowed is None else self.moment.allowed
            self.moment.allowed, self._granted = allowed + granted - self._granted, granted

    def of_step(self, module: Recorded) -> Moment | None:
        """What the step just taken differentiated; None where it is what every step does."""
        if not self.changes:
            return None
        if not isinstance(self.moment, LossGradient):
            return _batch_moment(module)
        loss = module.loss if self._at is None else self._at(module.steps_done - 1)
        if self.follows_batches:
            place = {"dtype": self.moment.dtype, "device": self.moment.device}
            parts = [SampleLoss(loss, *batch, **place) for batch in module.batches]  # type: ignore[arg-type]
        else:
            assert self.samples is not None
            parts = [self.samples.of(loss)]
        self.moment = self.moment.on(parts[0] if len(parts) == 1 else _mean(parts))
        return self.moment

    @torch.no_grad()
    def watch(self, m: Tensor) -> None:
        """Notice where the loss has no derivative on the flow's path: a norm that is nearly 0, a hinge that is met.

        On the samples of the first batch where there are minibatches: those of later ones are not at hand.
        """
        if self.samples is None or not (self._normalized or self._hinges):
            return
        u, u_pos, u_neg = self.samples.embeddings(m.to(self.samples.rows))
        if self._normalized:
            norms = u.norm(dim=-1)  # (S, n)
            self.smallest = min(self.smallest, float((norms.amin(-1) / norms.median(-1).values).min()))
        if self._hinges is not None:
            sides = self._hinges(u, u_pos, u_neg) > 0
            self.crossed |= self._sides is not None and not torch.equal(sides, self._sides)
            self._sides = sides

    def rough(self) -> list[str]:
        """What of the path is not smooth, so that the deviation is not of first order from there on, in words."""
        found = []
        if self.smallest < self.near_zero:
            found.append(
                f"an embedding came to {self.smallest:.1g} of the median norm, and the loss on the unit sphere is "
                "singular at 0: the deviation is O(lr) away from there"
            )
        if self.crossed:
            found.append("a hinge of the loss was met: the deviation is O(lr) up to there")
        return found

    def loss(self, m: Tensor) -> Tensor:
        """L at maps (S, d, z) before the constraint scales it, (S,): of C, or of the last batch."""
        if isinstance(self.moment, LossGradient):
            return self.moment.value(m)
        return (m * (self.moment @ m)).sum((-2, -1))  # Tr(mᵀ C m), Eq. 8

    def state_dict(self) -> dict[str, Any] | None:
        if not isinstance(self.moment, LossGradient):
            return None
        path = {
            "granted": self._granted,
            "smallest": self.smallest,
            "crossed": self.crossed,
            "sides": self._sides,
        }
        return {**self.moment.state_dict(), **path}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None and isinstance(self.moment, LossGradient):
            self.moment.load_state_dict(state)
            self._granted = state.get("granted", 0)
            self.smallest, self.crossed, self._sides = state["smallest"], state["crossed"], state["sides"]


def _mean(parts: Sequence[Loss]) -> Loss:
    """The mean of the losses of accumulated batches."""
    return lambda m: torch.stack([part(m) for part in parts]).mean(0)


def _batch_moment(module: Recorded) -> Tensor:
    """C of one step as its loss was differentiated, (d, d): the mean over the batches that it averaged."""
    moments = []
    for batch in module.batches:
        tensors = [None if t is None else t.double().cpu() for t in batch]
        moments.append(
            cross_moment(tensors[0], tensors[1], tensors[2], reduction=module.loss.reduction)  # type: ignore
        )
    return moments[0] if len(moments) == 1 else torch.stack(moments).mean(0)
