"""Siamese networks trained on their batch by autograd, with or without predictor, stop-gradient and slow target."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from sslmanifold.reproduction.theories.training import Weights, trained
from sslmanifold.theory import direct_predictor

Predictor = Literal["linear", "none", "direct"]


def siamese_batch_loss(a: Tensor, b: Tensor, weight: Tensor, predictor: Tensor, target: Tensor) -> Tensor:
    """½ mean ‖P W x₁ − W_a x₂‖² over the four ordered pairs of two equally likely views A, B (n, d)."""
    views = torch.stack([a, b])
    online, aim = views @ (predictor @ weight).mT, views @ target.mT  # (2, n, z)
    return (online[:, None] - aim).square().sum(-1).mean() / 2


def siamese_training(
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    predictor: Tensor | None,
    lr: float,
    steps: int,
    *,
    kind: Predictor = "linear",
    stop_gradient: bool = True,
    ema_rate: float | None = None,
    predictor_rate: float = 1.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    adam: bool = False,
    orthonormal: bool = False,
) -> Iterator[Weights]:
    """Yields (W, P, W_a) before the first step and after each.

    Args:
        a, b: views (n, d).
        weight: W (z, d) at the start, of the target too.
        predictor: P (z, z) at the start; None for I.
        lr: constant.
        steps: their number.
        kind: ``linear``: P is trained; ``none``: P is I; ``direct``: P is set from W Wᵀ before each step.
        stop_gradient: whether the other branch is held in the gradient; a slow target always is.
        ema_rate: β of a slow target, None for W itself.
        predictor_rate, weight_decay: α and η; decay enters the loss as η(‖W‖² + ‖P‖²/α)/2.
        momentum, adam: of the optimizer.
        orthonormal: W back to the nearest orthonormal rows after each step; decay then reaches P alone.
    """
    eye = torch.eye(weight.shape[0], dtype=weight.dtype)
    start = eye if predictor is None or kind != "linear" else predictor
    target, fixed = weight.clone(), start.clone()

    def direct(w: Tensor) -> None:
        if kind == "direct":
            fixed.copy_(direct_predictor(w @ w.mT, epsilon=0.0))

    def loss(w: Tensor, p: Tensor) -> Tensor:
        used = p if kind == "linear" else fixed
        aim = target if ema_rate is not None else w.detach() if stop_gradient else w
        decay = 0.0 if orthonormal else w.square().sum()
        if kind == "linear":
            decay = decay + p.square().sum() / predictor_rate
        return siamese_batch_loss(a, b, w, used, aim) + weight_decay * decay / 2 + 0 * p.sum()

    def after(weights: Weights) -> None:
        w = weights[0]
        if orthonormal:
            u, _, vh = torch.linalg.svd(w, full_matrices=False)
            w.copy_(u @ vh)
        direct(w)
        if ema_rate is not None:
            target.add_(lr * ema_rate * (w - target))

    direct(weight)
    rates = (1.0, predictor_rate)
    run = trained(loss, (weight, start), lr, steps, momentum=momentum, rates=rates, adam=adam, after=after)
    for w, p in run:
        yield w, p if kind == "linear" else fixed.clone(), w if ema_rate is None else target.clone()
