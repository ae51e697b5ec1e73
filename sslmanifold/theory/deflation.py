"""What has arrived of a flow of the orthogonal family, taken out of its equations.

The parts of a frame Y = [q; R] arrive one after the other, and what has arrived leaves the equations exactly:

* a row of q whose eigenvalue is positive and above every other row's dies like e^{−(2+κ)(λ_k − λ)t} or faster:
  dropped;
* columns that fill the lowest rows, q V = [U; 0] with U orthogonal and R V = 0, stand still and decouple from the
  other columns, with the rows that they fill: set aside;
* once every singular value is 0 or 1 (R V = 0 on the latter), q̇ = −(2+κ)(I − qqᵀ)Λq whatever κ: Oja's flow,
  whose closed form costs nothing at any time, near ties of Λ included.

In Oja's flow itself adding a multiple of I to Λ changes nothing, so there the highest rows die whatever their sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# What counts as nothing.
_NOTHING = 1e-14
_NEARLY = 1e-10


@dataclass
class Remainder:
    """What still moves of one run: Y = [q; R] restricted to the rows that live and the columns V that move.

    Attributes:
        q: (rows, columns); r: (k, columns); lam: eigenvalues of the rows, ascending.
        rows: their indices in the whole frame; columns: V (z, columns), orthonormal.
        still: what has been set aside, (d, z).
        forced: columns, of those not set aside, whose singular value is 1 whatever the flow does.
        oja: whether this is Oja's flow of orthonormal q.
    """

    q: Array
    r: Array
    lam: Array
    rows: NDArray[np.intp]
    columns: Array
    still: Array
    forced: int
    oja: bool = False

    @classmethod
    def of(cls, frame: Array, eigvals: Array) -> Remainder:
        """All of an orthonormal frame [q; R] (d + k, z), Λ (d,)."""
        order = np.argsort(eigvals, kind="stable")
        d, z = len(eigvals), frame.shape[1]
        r = frame[d:]
        rank = int((np.linalg.eigvalsh(r.T @ r) > _NOTHING).sum()) if len(r) else 0
        return cls(
            frame[:d][order], r, eigvals[order], order, np.eye(z), np.zeros((d, z)), z - rank, oja=len(r) == 0
        )

    @property
    def speed(self) -> float:
        """The largest rate in units of which things move: ‖Λ‖₂ of the rows that live, in Oja's flow its spread."""
        if 0 in self.q.shape:
            return 0.0
        return float(self.lam[-1] - self.lam[0] if self.oja else np.abs(self.lam).max())

    def whole(self, q: Array, r: Array) -> Array:
        """The frame (d + k, z) with the moving part at q (rows, columns), r (k, columns)."""
        out = self.still.copy()
        out[self.rows] += q @ self.columns.T
        return np.concatenate([out, r @ self.columns.T])

    def simplify(self) -> None:
        """Drop the rows that are dead and set aside the columns that have arrived."""
        self._drop(np.abs(self.q).max(1, initial=0.0) == 0.0)
        while True:
            before = self.q.shape
            self._drop_highest()
            self._set_aside_lowest()
            if self.q.shape == before or 0 in self.q.shape:
                return

    def _drop(self, dead: NDArray[np.bool_]) -> None:
        self.q, self.lam, self.rows = self.q[~dead], self.lam[~dead], self.rows[~dead]

    def _drop_highest(self) -> None:
        """Rows are ascending: the dead ones that stay dead are at the end."""
        size = np.abs(self.q).max(1, initial=0.0)
        alive = (size > _NOTHING) | ((self.lam <= 0) & (not self.oja))
        last = int(np.flatnonzero(alive).max(initial=-1))
        self._drop(np.arange(len(self.lam)) > last)

    def _set_aside_lowest(self) -> None:
        """The largest j for which some j columns fill the j lowest rows and have nothing elsewhere."""
        lowest = self.q[: min(self.q.shape)]
        off = np.abs(lowest @ lowest.T - np.eye(len(lowest)))
        off = np.maximum(np.tril(off).max(1, initial=0.0), np.triu(off).max(0, initial=0.0))
        off = np.maximum.accumulate(off)  # of each leading block: filled rows are orthonormal
        for j in range(len(lowest), 0, -1):
            if off[j - 1] > _NEARLY or (self.lam[j - 1] >= 0 and j > self.forced):
                continue
            u, _, vt = np.linalg.svd(self.q[:j])  # (j, columns)
            v = vt.T
            elsewhere = np.abs(self.q[j:] @ v[:, :j]).max(initial=0.0)
            outside = np.abs(self.r @ v[:, :j]).max(initial=0.0)
            if max(elsewhere, outside) > _NOTHING:
                continue
            self.still[self.rows[:j]] += u @ vt[:j] @ self.columns.T
            self.q, self.r = self.q[j:] @ v[:, j:], self.r @ v[:, j:]
            self.lam, self.rows = self.lam[j:], self.rows[j:]
            self.columns, self.forced = self.columns @ v[:, j:], max(0, self.forced - j)
            return

    def arrived(self) -> tuple[Array, Array] | None:
        """(q V, V) of the columns with singular value 1, where all others are 0 and both stay so; else None."""
        left, s, vt = np.linalg.svd(self.q, full_matrices=False)
        count = int((s > 0.5).sum())
        kept, v = left[:, :count], vt[:count].T
        if max(np.abs(self.r @ v).max(initial=0.0), s[count:].max(initial=0.0)) > _NOTHING:
            return None
        # R V stays 0 where N is negative, and N only falls. Forced columns have no R at all.
        n = kept.T @ (self.lam[:, None] * kept)
        if count > self.forced and np.linalg.eigvalsh(n).max() >= 0:
            return None
        # The empty columns stay empty once nothing with λ < 0 is left for them.
        uncovered = 1.0 - np.square(kept[self.lam < 0]).sum(1)
        if count < self.columns.shape[1] and uncovered.max(initial=0.0) > _NOTHING:
            return None
        return kept, v
