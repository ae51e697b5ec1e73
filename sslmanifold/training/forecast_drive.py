"""What drives a flow without training beside it: the run's C, or the gradient of its loss, known in advance."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.callbacks.effective_step import counted_otherwise, outside_the_flow
from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.theory import LossGradient, SampleLoss, eigenvalues
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.gradient import Loss
from sslmanifold.theory.moment_product import LARGEST_MOMENT, Moment
from sslmanifold.training.experiment import Experiment


class Drive(NamedTuple):
    """A loss as the flows take it.

    Attributes:
        moment: C (d, d) as one step differentiates it, float64, or None.
        loss: where there is no C, the loss as a function of the map.
        eigvals: of C, ascending, or None.
        notes: what of the training is not in the forecast, one sentence each.
    """

    moment: Tensor | None
    loss: Loss | None
    eigvals: Tensor | None
    notes: list[str]

    def flow(self, constraint: Constraint, shape: NetworkShape, limit: int = 0) -> Flow:
        """The constraint's flow for it.

        Raises:
            UserError: where none closes at this depth, or it would hold matrices of too many entries.
        """
        flow = constraint.flow(self.of(shape.dim, limit), shape)
        if flow is None:
            raise UserError(f"no exact flow for {shape.layers} layers")
        if flow.holds_gram and shape.dim > LARGEST_MOMENT:
            raise UserError(f"its flow holds matrices of {shape.dim} × {shape.dim} entries: set data.pca=256")
        return flow

    def of(self, features: int, limit: int) -> Moment:
        """C, or a gradient that knows of no other flow's path and gives up after so many evaluations."""
        if self.moment is not None:
            return self.moment
        assert self.loss is not None
        return Limited(self.loss, features, limit)


class Limited(LossGradient):
    """A gradient that gives up where a flow takes far more evaluations than the training it foretells.

    On a kink, such as VICReg's hinge met for good, a flow of ever shorter steps does not end.
    """

    def __init__(self, loss: Loss, features: int, limit: int) -> None:
        super().__init__(loss, features)
        self.limit = self.left = limit

    def gradient(self, m: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise UserError(
                f"its flow is still under way after {self.limit:,} evaluations of the loss: this loss is not smooth on "
                "the path, or changes faster and faster; a shorter time=… can be forecast"
            )
        return super().gradient(m)


def drive_of(experiment: Experiment) -> Drive:
    """C as one step differentiates it, or the mean of the loss over the batches of the first pass, float64."""
    notes = _notes(experiment)
    if experiment.moment is not None:
        if not experiment.full_batch:
            notes.append(
                "minibatches scatter about this: the flow is that of their mean, C of the whole data"
            )
        moment = experiment.moment.double().cpu()
        return Drive(moment, None, eigenvalues(moment), notes)
    loss = experiment.loss
    if hasattr(loss, "at") and getattr(loss, "draw", "step") != "fixed":
        notes.append("what the loss draws anew at each step is that of the first step throughout")
        loss = loss.at(0)
    experiment.datamodule.dtype = torch.float64
    stream = experiment.datamodule.train_dataloader()
    batches = [stream.batch(step) for step in range(min(stream.steps_per_pass, max(experiment.steps, 1)))]
    if len(batches) > 1:
        notes.append("minibatches scatter about this: the flow is that of the mean over the first pass's")
    elif not experiment.full_batch:
        notes.append("triplets are those of the first draw throughout")
    parts = [SampleLoss(loss, *batch) for batch in batches]
    return Drive(None, parts[0] if len(parts) == 1 else _mean(parts), None, notes)


def _mean(parts: Sequence[Loss]) -> Loss:
    def mean(m: Tensor) -> Tensor:
        total = parts[0](m)
        for part in parts[1:]:
            total = total + part(m)
        return total / len(parts)

    return mean


def _notes(experiment: Experiment) -> list[str]:
    """Departures of the training from its flow, as ``callbacks.ode`` says them."""
    notes = []
    if not experiment.linear:
        activation = experiment.config["model"].get("activation")
        notes.append(f"this is the flow of the linear network: model.activation={activation} is not in it")
    optimizer = experiment.module.build_optimizer(experiment.module.network.weights)
    found = counted_otherwise(optimizer)
    if experiment.adaptive:  # the first of them: here gradient steps stand in, see `time_of_training`
        found[0] = f"the steps of {type(optimizer).__name__} have no time, gradient steps stand in"
    flags = experiment.flags
    found += outside_the_flow(optimizer, flags.gradient_clip_val, flags.gradient_clip_algorithm)
    if found:
        notes.append(f"approximate: {'; '.join(found)}")
    return notes
