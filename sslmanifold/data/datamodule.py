"""The Lightning data module: draws the triplets, owns the pair moment C, feeds the run."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from sslmanifold.data.pair_data import PairData
from sslmanifold.data.preparation import remarks, require_range
from sslmanifold.data.samples import Samples
from sslmanifold.data.triplet_stream import TripletStream
from sslmanifold.data.triplets import TripletBatch, Triplets
from sslmanifold.errors import UserError
from sslmanifold.theory.moments import MomentAccumulator, Reduction

_LIMITED = 4  # stream of random numbers for the part of the data that is used


@rank_zero_only
def _say(line: str, level: int) -> None:
    logging.getLogger("sslmanifold.data").log(level, line)


class PairDataModule(lightning.LightningDataModule):
    """Triplets of a data set, their pair moment C (Eq. 7) and the batches of a run.

    Args:
        data: the data set and how pairs are drawn from it.
        seed: of synthetic data, triplets and the order of minibatches.
        steps: optimizer steps of the run; the training loader yields so many batches as one epoch.
        contrastive: whether there are negatives (Eq. 1) or none (Eq. 2).
        reduction: ``sum`` | ``mean`` | ``pair_mean``, that of the loss, so that C is its C.
        dtype: of the batches; None for torch's default dtype when the loader is made. C is float64 always.
        start_step: first step of the loader, to resume in the middle.
        without_samples: the steps need C alone, so batches hold no anchors.

    Attributes:
        limit: how many of n training samples are used, a random part of them; set before :meth:`setup`.
        batches_per_pass: use the first so many batches of each pass; None for all of them.

    With minibatches of b anchors and ``sum``, the loss of a step is a sum over b anchors: on average b/n
    of the C of :meth:`moment`. With the means it is that C on average.
    """

    def __init__(
        self,
        data: PairData,
        seed: int,
        steps: int,
        contrastive: bool = True,
        reduction: Reduction = "sum",
        *,
        dtype: torch.dtype | None = None,
        start_step: int = 0,
        without_samples: bool = False,
    ) -> None:
        super().__init__()
        self.data, self.seed, self.steps = data, seed, steps
        self.contrastive, self.reduction = contrastive, reduction
        self.dtype, self.start_step, self.without_samples = dtype, start_step, without_samples
        self.limit: Callable[[int], int] = lambda n: n
        self.batches_per_pass: int | None = None
        self._samples: Samples | None = None
        self._triplets: Triplets | None = None
        self._stream: TripletStream | None = None
        self._moment: tuple[int, Tensor] | None = None
        self._on_device: tuple[TripletBatch, TripletBatch] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Loads the samples once; called by Lightning, or by hand before anything else here.

        What was read from the user's files is logged in one line (``sslmanifold.data``), as a warning where
        something of them was left out.

        Raises:
            UserError: as :meth:`PairData.load`, and for values whose products leave the range of ``dtype``.
        """
        if self._samples is not None:
            return
        samples = self._limited(self.data.load(self.seed))
        dtype = self.dtype or torch.get_default_dtype()
        if samples.read:
            _say(
                f"data={samples.name}: {samples.described}",
                logging.WARNING if samples.left_out else logging.INFO,
            )
        require_range(samples, dtype)
        for remark in remarks(samples, self.data.positive_variance, dtype):
            _say(f"data={samples.name}: {remark}", logging.WARNING)
        self._samples = samples
        self._triplets = Triplets(
            self._samples.train_x,
            seed=self.seed,
            positive_variance=self.data.positive_variance,
            positives=self.data.positives,
            negatives=self.data.negatives if self.contrastive else 0,
            # Full batches are kept in the run's own dtype by the stream, so noise is worth keeping for
            # minibatches alone, and only where a draw is read more than once.
            keep_noise=self.data.batch_size is not None and self.data.resample != "step",
        )

    def _limited(self, samples: Samples) -> Samples:
        used = self.limit(samples.n)
        if used >= samples.n:
            return samples
        generator = np.random.default_rng([self.seed, _LIMITED])
        rows = torch.from_numpy(np.sort(generator.permutation(samples.n)[:used]))
        labels = None if samples.train_y is None else samples.train_y[rows]
        return replace(samples, train_x=samples.train_x[rows], train_y=labels)

    @property
    def samples(self) -> Samples:
        """The loaded samples."""
        self.setup()
        assert self._samples is not None
        return self._samples

    @property
    def triplets(self) -> Triplets:
        """The triplets drawn from the training split."""
        self.setup()
        assert self._triplets is not None
        return self._triplets

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self.samples.dim

    @property
    def n(self) -> int:
        """Number of training samples (anchors)."""
        return self.samples.n

    def moment(self, draw: int = 0) -> Tensor:
        """C of Eq. 7 over all triplets of one draw, (d, d) float64, scaled as ``reduction`` says.

        One streaming pass; the C of the last draw asked for is kept.
        """
        if self._moment is None or self._moment[0] != draw:
            self._moment = draw, self._stream_moment(draw)
        return self._moment[1]

    def _stream_moment(self, draw: int) -> Tensor:
        accumulator = MomentAccumulator(self.reduction)
        for x, positives, negatives in self.triplets.chunks(draw):
            accumulator.update(x, positives, negatives)
        return accumulator.compute()

    def train_dataloader(self) -> TripletStream:
        """The run's batches, each a :class:`~sslmanifold.data.triplets.TripletBatch`."""
        self._stream = TripletStream(
            self.triplets,
            self.steps,
            batch_size=self.data.batch_size,
            resample=self.data.resample,
            dtype=self.dtype or torch.get_default_dtype(),
            start_step=self.start_step,
            without_samples=self.without_samples,
            per_pass=self.batches_per_pass,
        )
        return self._stream

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch; the full batch, the same object at each step, is copied to an accelerator once."""
        if device.type == "cpu" or not isinstance(batch, TripletBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if self._on_device is None or self._on_device[0] is not batch:
            self._on_device = (
                batch,
                TripletBatch(
                    batch.x.to(device),
                    batch.positives.to(device),
                    None if batch.negatives is None else batch.negatives.to(device),
                ),
            )
        return self._on_device[1]

    def _identity(self) -> dict[str, Any]:
        return {
            "data": self.samples.name,
            "n": self.n,
            "dim": self.dim,
            "seed": self.seed,
            "batch_size": self.data.batch_size,
            "resample": self.data.resample,
            # Exact for the same data on the same machine: it is a sum in a fixed order.
            "checksum": float(self.samples.train_x.sum()),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the next step, and the identity of the data, checked on loading."""
        return {**self._identity(), "next_step": self._stream.next_step if self._stream else self.start_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the saved step.

        Raises:
            UserError: the checkpoint was made with other data, another seed or other batches.
        """
        for key, now in self._identity().items():
            saved = state_dict.get(key, now)
            same = abs(saved - now) <= 1e-9 * (1 + abs(now)) if key == "checksum" else saved == now
            if not same:
                raise UserError(
                    f"the checkpoint was trained with {key}={saved!r}, this run has {now!r}: "
                    "resume with the data and the seed of its config.yaml"
                )
        self.start_step = int(state_dict["next_step"])
        if self._stream is not None:
            self._stream.load_state_dict({"next_step": self.start_step})
