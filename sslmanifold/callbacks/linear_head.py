"""A linear head in anybody's module: its features, its map, and the flow that its training follows exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslmanifold.callbacks.tap import submodule
from sslmanifold.constraints import (
    Constraint,
    Frobenius,
    NetworkShape,
    OperatorNorm,
    Orthogonal,
    Unconstrained,
)
from sslmanifold.errors import UserError
from sslmanifold.geometry import FrobeniusBall, SpectralBall, Stiefel
from sslmanifold.theory import cross_moment
from sslmanifold.theory.flows.base import Flow

# how far the module's loss may be from the one it is said to be, relative: float32 and autocast pass
_SAME_LOSS = 2e-2


class LinearHead:
    """One or two linear layers without bias, u = W x or u = W2 W1 x (torch's layout), on features that do not move.

    Such a head is the linear network of the theory with the features as data: whatever comes before it, its
    training follows the flow of its constraint. What the head is given in a training step is heard through a hook
    that is gone after training; a step gives anchors, positives and, for a contrastive loss, negatives: in one call
    one below the other, or in as many calls.

    Args:
        module: the module.
        name: of the head: an ``nn.Linear`` or an ``nn.Sequential`` of one or two.
        loss: the quadratic loss that the module minimises, ``Contrastive(…)`` or ``NonContrastive(…)``.

    Raises:
        UserError: for a head, a manifold or a loss that no flow describes, naming it.
    """

    def __init__(self, module: nn.Module, name: str, loss: Any) -> None:
        part = submodule(module, name, "head")
        parts = [
            each for each in part.modules() if not list(each.children()) and not isinstance(each, nn.Identity)
        ]
        other = [each for each in parts if not isinstance(each, nn.Linear) or each.bias is not None]
        if other or len(parts) not in (1, 2):
            what = f"has {other[0]}" if other else f"has {len(parts)} layers"
            raise UserError(
                f"head={name!r} {what}: the exact dynamics are those of one or two nn.Linear(…, bias=False) and "
                "nothing between them"
            )
        if not getattr(loss, "quadratic", False):
            raise UserError(
                f"head={name!r} needs the quadratic loss that the module minimises: set loss=Contrastive(reduction="
                f"'mean') or NonContrastive(…) of sslmanifold.losses, not {loss!r}"
            )
        self.name, self.loss = name, loss
        self.parameters: list[nn.Parameter] = [each.weight for each in parts]  # type: ignore[misc]
        self.constraint = _constraint(self.parameters, name)
        self.heard: list[Tensor] = []
        self.listening = False
        self._handle = part.register_forward_pre_hook(self._hear)

    def detach(self) -> None:
        """Stop listening."""
        self._handle.remove()

    def _hear(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.listening:
            if inputs[0].requires_grad:
                raise UserError(
                    f"the features that head={self.name!r} is given move with training: freeze what comes before it "
                    "(requires_grad_(False)), or detach its output"
                )
            self.heard.append(inputs[0].detach().flatten(0, -2).clone())

    # -- as the theory writes it ------------------------------------------------------------------------

    def weights(self) -> list[Tensor]:
        """W1 (h, d) and W2 (h, z), or the one W (d, z), float64."""
        tensors = [weight.detach().double().cpu().clone() for weight in self.parameters]
        return [tensors[0], tensors[1].mT] if len(tensors) == 2 else [tensors[0].mT]

    def map(self) -> Tensor:
        """m with u = mᵀx, (1, d, z), float64."""
        weights = self.weights()
        return (weights[0].mT @ weights[1] if len(weights) == 2 else weights[0])[None]

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the network that the head is, of one layer or two."""
        weights = self.weights()
        if len(weights) == 1:
            return NetworkShape(weights[0].shape[0], None, weights[0].shape[1], layers=1)
        return NetworkShape(weights[0].shape[1], weights[0].shape[0], weights[1].shape[1])

    def flow(self, moment: Tensor) -> Flow:
        """The flow of the head's training, C as differentiated (d, d)."""
        flow = self.constraint.flow(moment, self.shape)
        assert flow is not None  # one layer or two
        return flow

    def batch(self) -> tuple[Tensor, Tensor]:
        """(features (n, d), C (d, d)) of the step just taken, float64.

        Raises:
            UserError: where the head was not given as many rows as the loss has parts.
        """
        features = torch.cat(self.heard).double().cpu() if self.heard else torch.empty(0, 0)
        parts = 3 if self.loss.contrastive else 2
        if not len(features) or len(features) % parts:
            raise UserError(
                f"head={self.name!r} was given {len(features)} rows in a step: {parts} × n are needed, anchors, "
                f"positives{', negatives' if parts == 3 else ''}, one below the other or in {parts} calls"
            )
        return features, cross_moment(*features.chunk(parts), reduction=self.loss.reduction)

    def require_same_loss(self, moment: Tensor, m: Tensor, loss: Any) -> None:
        """Compare Tr(mᵀCm) (Eq. 8) with what the module returned from its step.

        Raises:
            UserError: where the module differentiates something else.
        """
        if not isinstance(loss, Tensor):
            return
        ours, theirs = float((m * (moment @ m)).sum()), float(loss)
        scale = float(torch.linalg.matrix_norm(moment, 2)) * float(m.square().sum())
        if abs(ours - theirs) > _SAME_LOSS * max(abs(ours), 1e-3 * scale):
            raise UserError(
                f"the module's loss is {theirs:.6g}, that of its head under {self.loss!r} {ours:.6g}: the flow would "
                "be another one's; give the loss that training_step returns, with its reduction"
            )


def _constraint(parameters: list[nn.Parameter], name: str) -> Constraint:
    """The constraint that the layers are under."""
    bases = []
    for parameter in parameters:
        manifold = getattr(parameter, "manifold", None)
        bases.append(getattr(manifold, "base", manifold))  # a wide matrix stands on its transpose's manifold
    kinds = {type(base) for base in bases}
    free = all(base is None or type(base).__name__ == "Euclidean" for base in bases)
    if free:
        return Unconstrained()
    if kinds == {Stiefel}:
        kappas = {base.kappa for base in bases}  # type: ignore[union-attr]
        first = parameters[0]
        wide = first.shape[0] < first.shape[1]
        if len(kappas) == 1:
            if len(parameters) == 1:
                if not wide and first.shape[0] > first.shape[1]:
                    raise UserError(
                        f"head={name!r} has {first.shape[0]} outputs of {first.shape[1]} features: orthonormal columns "
                        "need z ≤ d for the one-layer flow"
                    )
                return Orthogonal(kappa=kappas.pop())
            kappa = kappas.pop()
            if wide and kappa != 0:
                raise UserError(
                    f"head={name!r}: orthonormal rows of W1 (h < d) have a width-free flow for κ = 0 alone, not "
                    f"κ = {kappa:g}: constrain(…, metric='grassmann')"
                )
            return Orthogonal(kappa=kappa, w1="rows" if wide else "columns")
    if kinds in ({FrobeniusBall}, {SpectralBall}):
        ball = Frobenius if kinds == {FrobeniusBall} else OperatorNorm
        return ball(c1=bases[0].radius, c2=bases[-1].radius)  # type: ignore[union-attr]
    raise UserError(
        f"head={name!r}: no flow for {' and '.join(type(base).__name__ for base in bases)} in {len(parameters)} "
        "layer(s): constrain(…, 'orthogonal'), or leave it free"
    )
