"""How far along the flow one optimizer step goes: lr, or with momentum lr times the buffer's weight."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslmanifold.geometry import RiemannianSGD


class EffectiveStep:
    """Flow time of successive steps of an optimizer.

    A momentum buffer that has seen k gradients weighs w_k = μ w_{k−1} + (1 − τ), w_1 = 1, of them (μ momentum,
    τ dampening): along a gradient that changes slowly the step is lr · w_k, which tends to lr (1 − τ)/(1 − μ).
    Without momentum it is lr exactly. A gradient clipped by a factor f ≤ 1 counts f times: the step is lr · f, or
    w_k = μ w_{k−1} + (1 − τ) f_k. Adam's steps have no such time; they count as lr.

    Attributes:
        weight: w_k; a tensor (S,) where replicas are clipped by factors of their own.
    """

    def __init__(self) -> None:
        self.weight: float | Tensor = 0.0
        self.started = False

    def __call__(self, optimizer: Optimizer, lr: float, factor: float | Tensor = 1.0) -> float | Tensor:
        """The flow time of the step just taken with this lr, of a gradient times ``factor``, a number or (S,)."""
        group: dict[str, Any] = optimizer.param_groups[0]
        momentum = float(group.get("momentum", 0.0) or 0.0)
        if "betas" in group:
            return lr
        if momentum == 0:
            return lr * factor
        kept = 1.0 if not self.started else 1.0 - float(group.get("dampening", 0.0))
        self.weight, self.started = momentum * self.weight + kept * factor, True
        if group.get("nesterov", False):
            return lr * (factor + momentum * self.weight)
        return lr * self.weight


def outside_the_flow(optimizer: Optimizer, clip_value: float | None, clip_algorithm: str | None) -> list[str]:
    """What shapes the optimizer's steps without a counterpart in the flow or its clock, in words.

    Args:
        clip_value, clip_algorithm: Lightning's ``gradient_clip_val`` and ``gradient_clip_algorithm``.
    """
    group: dict[str, Any] = optimizer.param_groups[0]
    found = []
    if clip_value and (clip_algorithm == "value" or "betas" in group):
        how = "value" if clip_algorithm == "value" else "norm"
        found.append(f"gradients clipped by {how} at {clip_value:g}, which is not in the flow")
    if group.get("max_norm") is not None:
        found.append(
            f"optimizer.max_norm={group['max_norm']:g}, which clips each matrix by itself and is not in the flow"
        )
    if group.get("maximize"):
        found.append("optimizer.maximize=true, which goes up the loss and is not in the flow")
    return found


def not_gradient_steps(optimizer: Optimizer) -> str:
    """Why the steps are not those of a gradient flow, or ""."""
    if isinstance(optimizer, RiemannianSGD | torch.optim.SGD):
        return ""
    return (
        f"the flow is that of gradient steps, not of {type(optimizer).__name__} (optimizer=sgd; with "
        "callbacks.ode.approximate=true its steps count as lr)"
    )


def counted_otherwise(optimizer: Optimizer) -> list[str]:
    """What the clock counts, but not exactly, and what it leaves out, in words."""
    group: dict[str, Any] = optimizer.param_groups[0]
    found = []
    if not_gradient_steps(optimizer):
        found.append(f"the steps of {type(optimizer).__name__}, which count as lr")
    if group.get("momentum", 0):
        found.append("momentum, compared at the effective time Σ lr·w")
    if group.get("weight_decay", 0):
        found.append(f"optimizer.weight_decay={group['weight_decay']:g}")
    return found
