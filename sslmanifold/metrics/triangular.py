"""Triangular factors as streaming states: RᵀR = AᵀA for all rows of A seen so far, without squaring them."""

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat


def triangular_factor(rows: Tensor) -> Tensor:
    """R of a QR decomposition: (…, n, k) → (…, min(n, k), k), with RᵀR = AᵀA."""
    return torch.linalg.qr(rows, mode="r").R


def accumulate(state: list[Tensor], rows: Tensor) -> list[Tensor]:
    """The state after more rows (…, n, k).

    A state is a list of factors with the row dimension first, (r, …, k): torchmetrics concatenates those
    of all processes along it, which stacks their rows. Each process needs at least one update.
    """
    if state:
        rows = torch.cat([dim_zero_cat(state).movedim(0, -2), rows], dim=-2)
    return [triangular_factor(rows).movedim(-2, 0)]


def accumulated(state: list[Tensor]) -> Tensor:
    """The factor of all rows in a state, (…, r, k)."""
    return triangular_factor(dim_zero_cat(state).movedim(0, -2))
