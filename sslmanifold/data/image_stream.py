"""The batches of images of a training run, one after the other, resumable at any step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor

from sslmanifold.data.augmentation import Augmentation
from sslmanifold.data.images import Images
from sslmanifold.errors import UserError

_PASSES = 3  # stream of random numbers for the order of images, as for triplets


class ImageBatch(NamedTuple):
    """Images (b, c, H, W) uint8, their rows in the data set (b,), and the draws (V, b, 16) of their views."""

    images: Tensor
    rows: Tensor
    draws: Tensor


class ImageStream:
    """Yields exactly ``steps`` batches: a whole run is one Lightning epoch.

    The batch of a step is a function of (seed, step) alone, the draws of an image of (seed, epoch, view, image), so a
    stream that starts at any step goes on exactly. A pass reads ⌊n/b⌋ batches in an order drawn for it: the images
    that are over are left out of this pass, since losses and batch statistics compare equal batches.

    Args:
        images: the training images.
        augmentation: what the views are drawn by.
        seed: of order and draws.
        batch_size: b.
        steps: number of batches.
        per_pass: use the first so many batches of each pass; None for all of them.
    """

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        steps: int,
        per_pass: int | None = None,
    ) -> None:
        self.images, self.augmentation, self.seed = images, augmentation, seed
        self.batch_size, self.steps, self.per_pass = batch_size, steps, per_pass
        self.next_step = self.start_step = 0
        self._pass: tuple[int, Tensor, Tensor] | None = None

    @property
    def steps_per_pass(self) -> int:
        """Batches of one pass over the images."""
        whole = self.images.n // self.batch_size
        return whole if self.per_pass is None else min(whole, self.per_pass)

    def batch(self, step: int) -> ImageBatch:
        """The batch of ``step``, whatever was asked before."""
        turn, place = divmod(step, self.steps_per_pass)
        order, draws = self._of_pass(turn)
        rows = order[place * self.batch_size : (place + 1) * self.batch_size]
        return ImageBatch(self.images.train_x[rows], rows, draws[:, rows])

    def _of_pass(self, turn: int) -> tuple[Tensor, Tensor]:
        if self._pass is None or self._pass[0] != turn:
            n = self.images.n
            order = np.random.default_rng([self.seed, _PASSES, turn]).permutation(n)
            draws = [
                self.augmentation.draws(n, seed=self.seed, epoch=turn, view=view)
                for view in range(self.augmentation.views)
            ]
            self._pass = turn, torch.from_numpy(order), torch.stack(draws)
        return self._pass[1], self._pass[2]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[ImageBatch]:
        start, self.start_step = self.start_step, 0
        for step in range(start, self.steps):
            batch = self.batch(step)
            self.next_step = step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_step = self.start_step = int(state["next_step"])


class ImageDataModule(lightning.LightningDataModule):
    """Images of a run, the stream of their batches and the identity that a resume checks.

    Attributes:
        samples: the images, under the name that probes read labelled points by.
    """

    def __init__(
        self, images: Images, augmentation: Augmentation, *, seed: int, batch_size: int, steps: int = 0
    ) -> None:
        super().__init__()
        self.samples, self.augmentation, self.seed = images, augmentation, seed
        self.batch_size, self.steps = batch_size, steps
        self.batches_per_pass: int | None = None
        self._start_step = 0
        self._stream: ImageStream | None = None

    def train_dataloader(self) -> ImageStream:
        """The run's batches."""
        self._stream = ImageStream(
            self.samples,
            self.augmentation,
            seed=self.seed,
            batch_size=self.batch_size,
            steps=self.steps,
            per_pass=self.batches_per_pass,
        )
        self._stream.load_state_dict({"next_step": self._start_step})
        return self._stream

    def _identity(self) -> dict[str, Any]:
        x = self.samples.train_x
        return {
            "data": self.samples.name,
            "n": self.samples.n,
            "shape": list(x.shape[1:]),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "checksum": int(x.sum(dtype=torch.int64)),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the next step, and the identity of the data, checked on loading."""
        return {**self._identity(), "next_step": self._stream.next_step if self._stream else self._start_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the saved step.

        Raises:
            UserError: the checkpoint was made with other images, another seed or other batches.
        """
        for key, now in self._identity().items():
            saved = state_dict.get(key, now)
            if saved != now:
                raise UserError(
                    f"the checkpoint was trained with {key}={saved!r}, this run has {now!r}: resume with the images "
                    "and the seed of its config.yaml"
                )
        self._start_step = int(state_dict["next_step"])
        if self._stream is not None:
            self._stream.load_state_dict({"next_step": self._start_step})
