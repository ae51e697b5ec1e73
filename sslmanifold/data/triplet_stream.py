"""The batches of a training run, one after the other, resumable at any step."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from sslmanifold.data.triplets import TripletBatch, Triplets

_PASSES = 3  # stream of random numbers for the order of anchors


class TripletStream:
    """Yields exactly ``steps`` batches: a whole run is one Lightning epoch.

    The batch of step s is a function of s alone, so a stream that starts at any step continues exactly. With
    batches of b anchors one pass over the n anchors takes ⌈n/b⌉ steps in an order drawn for that pass,
    the last batch being smaller where b does not divide n; a full batch is a pass. Lightning saves and
    restores ``state_dict`` with its checkpoints.

    Args:
        triplets: the source of the batches.
        steps: number of batches.
        batch_size: anchors per batch, None for all.
        resample: never | epoch | step, see :class:`~sslmanifold.data.pair_data.PairData`.
        dtype: of the batches.
        start_step: first step to yield.
        without_samples: yield batches of no anchors, for steps that need C alone.
        per_pass: use the first so many batches of each pass; None for all of them.
    """

    def __init__(
        self,
        triplets: Triplets,
        steps: int,
        *,
        batch_size: int | None = None,
        resample: Literal["never", "epoch", "step"] = "never",
        dtype: torch.dtype = torch.float64,
        start_step: int = 0,
        without_samples: bool = False,
        per_pass: int | None = None,
    ) -> None:
        self.per_pass = per_pass
        self.triplets, self.steps, self.resample, self.dtype = triplets, steps, resample, dtype
        self.batch_size = None if batch_size is None or batch_size >= triplets.n else batch_size
        self.without_samples = without_samples
        self.next_step = self.start_step = start_step
        self._full: tuple[int, TripletBatch] | None = None
        self._order: tuple[int, torch.Tensor] | None = None

    @property
    def steps_per_pass(self) -> int:
        """Batches of one pass over the anchors."""
        whole = 1 if self.batch_size is None else -(-self.triplets.n // self.batch_size)
        return whole if self.per_pass is None else min(whole, self.per_pass)

    def draw(self, step: int) -> int:
        """Which draw of triplets ``step`` uses."""
        return {"never": 0, "epoch": step // self.steps_per_pass, "step": step}[self.resample]

    def batch(self, step: int) -> TripletBatch:
        """The batch of ``step``, whatever was asked before."""
        if self.without_samples:
            return self.triplets.batch(torch.empty(0, dtype=torch.int64), self.draw(step), self.dtype)
        if self.batch_size is not None:
            return self.triplets.batch(self.anchors(step), self.draw(step), self.dtype)
        draw = self.draw(step)
        if self._full is None or self._full[0] != draw:
            self._full = None  # frees the last draw before the next is built
            self._full = draw, self.triplets.full(draw, self.dtype)
        return self._full[1]

    def anchors(self, step: int) -> torch.Tensor:
        """The anchors of ``step``, (b,)."""
        if self.batch_size is None:
            return torch.arange(self.triplets.n)
        turn, place = divmod(step, self.steps_per_pass)
        if self._order is None or self._order[0] != turn:
            generator = np.random.default_rng([self.triplets.seed, _PASSES, turn])
            self._order = turn, torch.from_numpy(generator.permutation(self.triplets.n))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[TripletBatch]:
        # The start is used up by the first iteration: a later one, in the same process, is a run from step 0.
        start, self.start_step = self.start_step, 0
        for step in range(start, self.steps):
            batch = self.batch(step)
            self.next_step = step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_step = self.start_step = int(state["next_step"])
