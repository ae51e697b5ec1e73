"""What every metric of this package shares: how it reads a tensor, and torchmetrics' contract."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sslmanifold.errors import UserError


def float64(u: Tensor, dimensions: str = "n, z") -> Tensor:
    """A tensor of matrices as it is computed with: detached, in float64.

    Args:
        u: ``(…, n, z)``, or of the dimensions named.
        dimensions: what the last dimensions are, for the message.

    Raises:
        UserError: fewer dimensions (one of n numbers is n embeddings of one dimension or one embedding of n), or
            complex numbers.
    """
    needed = dimensions.count(",") + 1
    if u.ndim < needed:
        ways = (
            "u[:, None] for n points of one dimension, u[None] for one point"
            if needed == 2
            else "all of them"
        )
        raise UserError(f"a tensor (…, {dimensions}) is needed, got shape {tuple(u.shape)}: write {ways}")
    if u.is_complex():
        raise UserError(
            f"these are complex numbers of shape {tuple(u.shape)}, of which the imaginary part would be dropped: "
            "write torch.view_as_real(u).flatten(-2) for an embedding of twice the dimension"
        )
    return u.detach().to(torch.float64)


def finite_or_zero(*tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(which matrices of a batch are finite in all tensors (…,), the tensors with the others set to zero).

    LAPACK raises where a number is not finite; the others of the batch are to be computed none the less.
    """
    finite = torch.isfinite(tensors[0]).flatten(-2).all(dim=-1)
    for other in tensors[1:]:
        finite = finite & torch.isfinite(other).flatten(-2).all(dim=-1)
    return finite, [torch.where(finite[..., None, None], t, 0.0) for t in tensors]


class EmbeddingMetric(Metric):
    """A ``torchmetrics.Metric`` of embeddings: streamed, merged, saved and plotted as torchmetrics' own.

    Leading dimensions (replicas) must be the same in each update; they stay in the result.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound: float | None = None
    plot_upper_bound: float | None = None
    plot_legend_name = "Replica"

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or a sequence of them, as every metric of torchmetrics does.

        Args:
            val: what ``forward`` or ``compute`` returned, or a list of that; ``compute()`` when None.
            ax: a matplotlib axis to draw on.

        Returns:
            Figure and axis.
        """
        val = self.compute() if val is None else val
        if isinstance(val, Tensor):
            return self._plot(val.flatten() if val.ndim > 1 else val, ax)
        return self._plot([v.flatten() if v.ndim > 1 else v for v in val], ax)
