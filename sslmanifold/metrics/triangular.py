"""Triangular factors as streaming states: RᵀR = AᵀA for all rows of A seen so far, without squaring them."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from sslmanifold.errors import UserError
from sslmanifold.metrics.base import EmbeddingMetric


def triangular_factor(rows: Tensor) -> Tensor:
    """R of a QR decomposition: (…, n, k) → (…, min(n, k), k), with RᵀR = AᵀA."""
    return torch.linalg.qr(rows, mode="r").R


class FactoredMetric(EmbeddingMetric):
    """A metric among whose states are triangular factors of the rows that it has seen.

    Such a state is a list of factors with the row dimension first, (r, …, k): torchmetrics concatenates those of all
    processes along it, which stacks their rows. Each process needs at least one update. However many batches are
    merged into it, by ``forward`` or ``merge_state``, it holds one factor.
    """

    #: Names of those states.
    factored: tuple[str, ...]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.factored:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def accumulate(self, name: str, rows: Tensor) -> None:
        """The state after more rows (…, n, k).

        Raises:
            UserError: rows of another length, or another number of replicas, than those before.
        """
        state = getattr(self, name)
        if state:
            before = dim_zero_cat(state).movedim(0, -2)
            if before.shape[:-2] != rows.shape[:-2] or before.shape[-1] != rows.shape[-1]:
                raise UserError(
                    f"rows of shape {(*rows.shape[:-2], 'n', rows.shape[-1])} after rows of shape "
                    f"{(*before.shape[:-2], 'n', before.shape[-1])}: replicas and dimensions are those of the first "
                    "update; write metric.reset() before another embedding"
                )
            rows = torch.cat([before, rows], dim=-2)
        setattr(self, name, [triangular_factor(rows).movedim(-2, 0)])

    def factor(self, name: str) -> Tensor:
        """The factor of all rows in a state, (…, r, k)."""
        return triangular_factor(dim_zero_cat(getattr(self, name)).movedim(0, -2))

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        super()._reduce_states(incoming_state)
        for name in self.factored:
            if len(getattr(self, name)) > 1:
                setattr(self, name, [self.factor(name).movedim(-2, 0)])
