"""Empirical characteristic functions at evenly spaced nodes, with one rotation a node in place of cosine and sine."""

from typing import Any

import torch
from torch import Tensor


def characteristic(angle: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Mean over samples of cos kθ and of sin kθ, k = 1…nodes, (…, n, slices) → (nodes, …, slices) each.

    Twice differentiable. Each power of e^{iθ} is the one before it times e^{iθ}, and the gradient is a polynomial in
    e^{iθ} by Horner's rule: nothing of size n × slices × nodes is held.
    """
    return _Characteristic.apply(angle, nodes)  # type: ignore[no-any-return]


class _Characteristic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, angle: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(angle)
        ctx.nodes = nodes
        cosine, sine = angle.cos(), angle.sin()
        real, imaginary, spare = cosine.clone(), sine.clone(), torch.empty_like(angle)
        means = [(real.mean(dim=-2), imaginary.mean(dim=-2))]
        for _ in range(1, nodes):
            real, imaginary = _turned(real, imaginary, cosine, sine, spare)
            means.append((real.mean(dim=-2), imaginary.mean(dim=-2)))
        return torch.stack([real for real, _ in means]), torch.stack([imaginary for _, imaginary in means])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (angle,) = ctx.saved_tensors
        of_real, of_imaginary = (gradient.unsqueeze(-2) for gradient in upstream)  # (nodes, …, 1, slices)
        # with a graph of the gradient, nothing may be overwritten
        spare = None if torch.is_grad_enabled() else torch.empty_like(angle)
        cosine, sine = angle.cos(), angle.sin()
        real, imaginary = torch.zeros_like(angle), torch.zeros_like(angle)
        for k in range(ctx.nodes, 0, -1):
            real = torch.add(real, of_imaginary[k - 1], alpha=k, out=None if spare is None else real)
            imaginary = torch.add(
                imaginary, of_real[k - 1], alpha=k, out=None if spare is None else imaginary
            )
            real, imaginary = _turned(real, imaginary, cosine, sine, spare)
        return real / angle.shape[-2], None


def _turned(
    real: Tensor, imaginary: Tensor, cosine: Tensor, sine: Tensor, spare: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(real + i imaginary)(cosine + i sine); with a spare tensor in place, which takes a third of the time."""
    if spare is None:
        return real * cosine - imaginary * sine, imaginary * cosine + real * sine
    torch.mul(imaginary, sine, out=spare)
    imaginary.mul_(cosine).addcmul_(real, sine)
    return real.mul_(cosine).sub_(spare), imaginary
