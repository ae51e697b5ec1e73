"""Objective of many replicas, a few of them at a time: a batch too large for the caches is slower than its parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sslmanifold.data import TripletBatch
from sslmanifold.models import ConstrainedNetwork

# numbers in one layer of activations, replicas × anchors × width, that one chunk may have: above it, memory
# traffic costs more than a batched product saves (measured on CPUs; see docs/reproduction.md)
CHUNK_ELEMENTS = 200_000


def chunk_size(network: ConstrainedNetwork, batch: TripletBatch) -> int:
    """How many replicas to evaluate at once: all of them on an accelerator, else as many as fit."""
    if batch.x.device.type != "cpu":
        return network.replicas
    per_replica = max(1, batch.x.shape[0] * (network.shape.hidden or network.shape.embedding))
    return min(network.replicas, max(1, CHUNK_ELEMENTS // per_replica))


class ChunkedObjective(torch.autograd.Function):
    """(S,) objectives whose gradients are computed chunk by chunk on the way forward.

    Replicas do not interact, so the gradient of replica s is that of its own objective: each chunk is
    differentiated as soon as it is evaluated, and its activations are gone before the next begins. Differentiable
    once.
    """

    @staticmethod
    def forward(
        ctx: Any, evaluate: Callable[[Sequence[Tensor]], Tensor], size: int, *weights: Tensor
    ) -> Tensor:
        """``evaluate`` takes the weights (s, ·, ·) of a chunk and gives its objectives (s,)."""
        values: list[Tensor] = []
        gradients: list[tuple[Tensor, ...]] = []
        for start in range(0, weights[0].shape[0], size):
            part = [weight.detach()[start : start + size].requires_grad_(True) for weight in weights]
            with torch.enable_grad():
                value = evaluate(part)
                gradients.append(torch.autograd.grad(value.sum(), part))
            values.append(value.detach())
        ctx.save_for_backward(*(torch.cat(layer) for layer in zip(*gradients, strict=True)))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream[0][:, None, None]  # (S,) → (S, 1, 1)
        return None, None, *(factor * gradient for gradient in ctx.saved_tensors)
