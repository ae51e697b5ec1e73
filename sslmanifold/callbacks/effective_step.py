"""How far along the flow one optimizer step goes: lr, or with momentum lr times the buffer's weight."""

from typing import Any

from torch.optim import Optimizer


class EffectiveStep:
    """Flow time of successive steps of an optimizer.

    A momentum buffer that has seen k gradients weighs w_k = μ w_{k−1} + (1 − τ), w_1 = 1, of them (μ momentum,
    τ dampening): along a gradient that changes slowly the step is lr · w_k, which tends to lr (1 − τ)/(1 − μ).
    Without momentum it is lr exactly. Adam's steps have no such time; they count as lr.
    """

    def __init__(self) -> None:
        self.weight = 0.0

    def __call__(self, optimizer: Optimizer, lr: float) -> float:
        """The flow time of the step just taken with this lr."""
        group: dict[str, Any] = optimizer.param_groups[0]
        momentum = float(group.get("momentum", 0.0) or 0.0)
        if momentum == 0:
            return lr
        first = self.weight == 0.0
        self.weight = 1.0 if first else momentum * self.weight + 1.0 - float(group.get("dampening", 0.0))
        if group.get("nesterov", False):
            return lr * (1.0 + momentum * self.weight)
        return lr * self.weight
