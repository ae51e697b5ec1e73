"""Triplets (x, x⁺, x⁻): drawn from a counter-based generator, so that none need be held in memory."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_NEGATIVES, _NOISE = 1, 2  # streams of random numbers
_BLOCK_VALUES = 8192  # normals drawn in one go: seeding is then 1 % of the work
_KEPT_BYTES = 64 * 2**20  # noise up to this size is kept for the current draw


class TripletBatch(NamedTuple):
    """Anchors (b, d), positives (b, d) or (b, p, d), negatives (b, d) or (b, q, d) or None."""

    x: Tensor
    positives: Tensor
    negatives: Tensor | None


class Triplets:
    """Positives x⁺ = x + N(0, σ² I) and negatives x⁻ uniform from the data, as in Eqs. 1–2.

    Triplets are a function of (seed, draw, anchor) alone: negatives are stored as indices, the noise of
    an anchor is regenerated from a Philox counter. Whichever way they are read, in chunks of any size or
    in minibatches, an anchor has the same pairs; so the C of a frozen draw is exactly what its batches
    train on.

    Args:
        x: data, (n, d), float64.
        seed: not negative.
        positive_variance: σ².
        positives: p ≥ 1.
        negatives: q ≥ 0 (0: no negatives, Eq. 2).
        keep_noise: keep the noise of one draw in memory where it fits in 64 MiB; turn it off where each draw
            is read once.

    Leading batch dimensions are not supported: triplets are shared by replicas.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        seed: int,
        positive_variance: float = 0.1,
        positives: int = 1,
        negatives: int = 1,
        keep_noise: bool = True,
    ) -> None:
        self.x = x.to(torch.float64)
        self.n, self.dim = x.shape
        self.seed, self.positives, self.negatives = seed, positives, negatives
        self.scale = float(positive_variance) ** 0.5
        self._rows = max(1, _BLOCK_VALUES // (positives * self.dim))  # anchors to a block of noise
        self._keep = keep_noise and self.n * positives * self.dim * 8 <= _KEPT_BYTES
        self._noise: tuple[int, Tensor] | None = None
        self._indices: tuple[int, Tensor] | None = None

    def negative_indices(self, draw: int = 0) -> Tensor:
        """Rows of x that serve as negatives, (n, q)."""
        if self._indices is None or self._indices[0] != draw:
            generator = np.random.Generator(np.random.Philox(key=self._key(_NEGATIVES, draw)))
            indices = generator.integers(self.n, size=(self.n, self.negatives))
            self._indices = draw, torch.from_numpy(indices)
        return self._indices[1]

    def batch(self, indices: Tensor, draw: int = 0, dtype: torch.dtype = torch.float64) -> TripletBatch:
        """The triplets of the anchors ``indices`` (b,), in their order."""
        x = self.x[indices]
        positives = self._noise_of(indices, draw).mul_(self.scale).add_(x.unsqueeze(1))  # (b, p, d)
        if self.positives == 1:
            positives = positives.squeeze(1)
        negatives = None
        if self.negatives:
            negatives = self.x[self.negative_indices(draw)[indices]]  # (b, q, d)
            negatives = (negatives.squeeze(1) if self.negatives == 1 else negatives).to(dtype)
        return TripletBatch(x.to(dtype), positives.to(dtype), negatives)

    def chunks(
        self, draw: int = 0, size: int | None = None, dtype: torch.dtype = torch.float64
    ) -> Iterator[TripletBatch]:
        """All triplets in order, ``size`` anchors at a time (by default about 16 MiB of them)."""
        if size is None:
            size = max(1, 2**21 // (self.dim * (1 + self.positives + self.negatives)))
        for start in range(0, self.n, size):
            yield self.batch(torch.arange(start, min(start + size, self.n)), draw, dtype)

    def full(self, draw: int = 0, dtype: torch.dtype = torch.float64) -> TripletBatch:
        """All triplets at once; built chunk by chunk, so the peak is the result itself."""
        whole: list[Tensor] = []
        start = 0
        for chunk in self.chunks(draw, dtype=dtype):
            parts = [part for part in chunk if part is not None]
            whole = whole or [part.new_empty(self.n, *part.shape[1:]) for part in parts]
            for target, part in zip(whole, parts, strict=True):
                target[start : start + len(part)] = part
            start += len(parts[0])
        return TripletBatch(whole[0], whole[1], whole[2] if self.negatives else None)

    def _key(self, stream: int, draw: int) -> np.ndarray:
        return np.random.SeedSequence([self.seed, stream, draw]).generate_state(2, np.uint64)

    def _noise_of(self, indices: Tensor, draw: int) -> Tensor:
        """Standard normal noise of the anchors ``indices``, (b, p, d), a new tensor."""
        if not self._keep:
            return self._blocks(indices, draw)
        if self._noise is None or self._noise[0] != draw:
            self._noise = draw, self._blocks(torch.arange(self.n), draw)
        return self._noise[1][indices]

    def _blocks(self, indices: Tensor, draw: int) -> Tensor:
        key = self._key(_NOISE, draw)
        block_of, row_of = np.divmod(indices.numpy(), self._rows)
        out = np.empty((len(block_of), self.positives, self.dim))
        for block in np.unique(block_of):
            here = block_of == block
            # One counter range per block: word 3 of the counter is never reached by counting up.
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, int(block)]))
            out[here] = generator.standard_normal((self._rows, self.positives, self.dim))[row_of[here]]
        return torch.from_numpy(out)
