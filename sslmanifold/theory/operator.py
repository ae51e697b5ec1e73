"""C without forming it: C·Q as products with the data, for d in the 100,000s or n in the millions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.moments import REDUCTIONS, Reduction, pair_contrast

Triplets = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]

# Rows of a chunk times features: float64 working copies of 4 MiB stay in cache and are reused by the allocator,
# where larger ones are mapped and page-faulted anew each time.
_CHUNK_ELEMENTS = 524_288


class MomentOperator:
    """C of Eq. 7 known by its products, C Q = ½ Σ_i [x_i (D_iᵀQ) + D_i (x_iᵀQ)], D_i = α Σ_j x⁻_ij − β Σ_j x⁺_ij.

    Data stay in their own dtype; products are formed in float64, chunk by chunk, in O(n d z) time and O(d z)
    memory beyond one chunk. The d×d matrix is never formed. One data set (no leading batch dimensions); Q may
    have them.

    Args:
        x, positives, negatives: as for `cross_moment`, (n, d) and (n, d) or (n, p, d).
        reduction: as for `cross_moment`.

    Raises:
        UserError: unknown reduction, shapes that do not match, no data.

    `from_batches` takes a function that yields (x, positives, negatives) batches anew at each product, for
    data that do not fit in memory.
    """

    def __init__(
        self, x: Tensor, positives: Tensor, negatives: Tensor | None = None, *, reduction: Reduction = "sum"
    ) -> None:
        if x.ndim != 2 or x.numel() == 0:
            raise UserError(f"anchors of shape {tuple(x.shape)}: give (n, d) with n ≥ 1 and d ≥ 1")
        n = x.shape[0]
        for name, pairs in (("positives", positives), ("negatives", negatives)):
            if pairs is not None and (pairs.shape[0] != n or pairs.shape[-1] != x.shape[1]):
                raise UserError(f"{name} of shape {tuple(pairs.shape)} do not match anchors {tuple(x.shape)}")
        rows = max(1, _CHUNK_ELEMENTS // x.shape[1])

        def batches() -> Iterator[Triplets]:
            for i in range(0, n, rows):
                part = slice(i, i + rows)
                yield x[part], positives[part], None if negatives is None else negatives[part]

        self._setup(batches, reduction, x.shape[1], n, x.device)

    @classmethod
    def from_batches(
        cls, batches: Callable[[], Iterable[Triplets]], *, reduction: Reduction = "sum"
    ) -> MomentOperator:
        """An operator over ``batches()``: called at every product, it must yield the same triplets each time."""
        self = cls.__new__(cls)
        count, features, device = 0, 0, torch.device("cpu")
        for batch in batches():
            count += batch[0].shape[0]
            features, device = batch[0].shape[1], batch[0].device
        if count == 0:
            raise UserError("batches() yields no data: it must start anew each time it is called")
        self._setup(batches, reduction, features, count, device)
        return self

    def _setup(
        self,
        batches: Callable[[], Iterable[Triplets]],
        reduction: Reduction,
        features: int,
        count: int,
        device: Any,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise UserError(f"unknown reduction {reduction!r}: use one of {', '.join(REDUCTIONS)}")
        self._batches, self.reduction, self.features, self.count = batches, reduction, features, count
        self.device = device
        self._norm: float | None = None

    def __matmul__(self, q: Tensor) -> Tensor:
        """C Q: (…, d, z) or (d,) -> the same shape, float64; one pass over the data."""
        if q.shape[-1 if q.ndim == 1 else -2] != self.features:
            raise UserError(f"Q of shape {tuple(q.shape)} does not have d={self.features} rows")
        block = q.to(torch.float64)
        block = block[:, None] if q.ndim == 1 else block
        # Rows, not columns: BLAS multiplies a few rows by a tall matrix several times faster than a few columns.
        rows = block.mT.reshape(-1, self.features).contiguous()  # (…, d, z) -> (…·z, d)
        out = torch.zeros_like(rows)
        for batch in self._batches():
            x, positives, negatives = batch if len(batch) == 3 else (*batch, None)
            contrast = pair_contrast(x, positives, negatives, pair_mean=self.reduction != "sum")
            x = x.to(torch.float64)
            out.addmm_(rows @ contrast.mT, x, alpha=0.5)
            out.addmm_(rows @ x.mT, contrast, alpha=0.5)
        if self.reduction == "mean":
            out /= self.count
        result = out.reshape(*block.shape[:-2], block.shape[-1], self.features).mT
        return result[:, 0] if q.ndim == 1 else result

    def linear_operator(self) -> LinearOperator:
        """The same operator for SciPy: (d, d), float64, matvec and matmat."""

        def product(v: np.ndarray) -> np.ndarray:
            return (self @ torch.from_numpy(np.ascontiguousarray(v)).to(self.device)).cpu().numpy()

        return LinearOperator(
            (self.features, self.features), matvec=product, matmat=product, rmatvec=product, dtype=np.float64
        )

    def eigenpairs(
        self, count: int, *, largest: bool = False, tolerance: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The ``count`` smallest (or largest) eigenvalues, ascending, (count,) and eigenvectors (d, count).

        SciPy's Lanczos (`eigsh`); dense below d = 64 or for count ≥ d − 1. Raises UserError for count outside
        1..d.
        """
        d = self.features
        if not 1 <= count <= d:
            raise UserError(f"count={count} eigenpairs of a {d}×{d} moment: ask for 1 to {d}")
        if d < 64 or count >= d - 1:
            values, vectors = torch.linalg.eigh(self @ torch.eye(d, dtype=torch.float64, device=self.device))
            return (values[-count:], vectors[:, -count:]) if largest else (values[:count], vectors[:, :count])
        start = np.cos(np.arange(d) ** 2 + 0.5)  # fixed, so that the same data give the same digits
        values, vectors = eigsh(
            self.linear_operator(), k=count, which="LA" if largest else "SA", tol=tolerance, v0=start,
            ncv=min(d, max(2 * count + 1, 20)),
        )  # fmt: skip
        order = np.argsort(values)
        return torch.from_numpy(values[order]), torch.from_numpy(np.ascontiguousarray(vectors[:, order]))

    def norm(self) -> float:
        """‖C‖₂ to 1e-3, cached."""
        if self._norm is None:
            d = self.features
            if d < 64:
                self._norm = float(self.eigenpairs(d)[0].abs().max())
            else:
                start = np.cos(np.arange(d) ** 2 + 0.5)
                top = eigsh(
                    self.linear_operator(), k=1, which="LM", tol=1e-3, v0=start, return_eigenvectors=False
                )
                self._norm = float(abs(top[0]))
        return self._norm
