"""The gradient flow of InfoNCE on squared distances through one or several free layers, from the contrast matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sslmanifold.theory import contrast_matrix


def product(weights: Sequence[Tensor]) -> Tensor:
    """The map m (d, z): the one weight itself, or W1ᵀ W2 W3 … of W1 (h, d), W2 … (h, h) and the last (h, z)."""
    m = weights[0].mT if len(weights) > 1 else weights[0]
    for w in weights[1:]:
        m = m @ w
    return m


def contrast_flow(a: Tensor, b: Tensor, weights: Sequence[Tensor], times: np.ndarray) -> Tensor:
    """The map along ṁ = S m of one layer, or Ẇ_l = (W1ᵀ … W_{l−1})ᵀ S m (W_{l+1} …)ᵀ of several: (T, d, z), by DOP853.

    Args:
        a, b: views (n, d).
        weights: as `product` takes them.
        times: (T,), Σ lr, ascending from 0.
    """
    shapes = [w.shape for w in weights]

    def unpacked(flat: np.ndarray) -> list[Tensor]:
        parts = torch.from_numpy(flat).split([shape.numel() for shape in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        layers = unpacked(flat)
        m = product(layers)
        drive = contrast_matrix(a, b, m) @ m
        if len(layers) == 1:
            return np.asarray(drive.flatten().numpy())
        factors = [layers[0].mT, *layers[1:]]
        found = []
        for index in range(len(factors)):
            rate = drive
            for before in factors[:index]:
                rate = before.mT @ rate
            for after in reversed(factors[index + 1 :]):
                rate = rate @ after.mT
            found.append(rate.mT if index == 0 else rate)
        return np.concatenate([rate.flatten().numpy() for rate in found])

    start = torch.cat([w.flatten() for w in weights]).numpy()
    solved = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-10, atol=1e-13)
    return torch.stack([product(unpacked(np.ascontiguousarray(state))) for state in solved.y.T])
