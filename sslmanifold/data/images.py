"""Labelled images as bytes, and what every set of them has in common."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.data.class_selection import select_classes
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError


@dataclass
class Images:
    """Train and test images of one data set, uint8.

    Shapes: ``train_x`` (n, c, H, W) and ``test_x`` (n_test, c, H, W), c = 1 or 3, n_test may be 0; ``train_y`` (n,)
    and ``test_y`` (n_test,) int64, positions in ``classes``, or None without labels. ``read`` says in one line what
    was read, ``left_out`` what of it was not taken.
    """

    train_x: Tensor
    train_y: Tensor | None
    test_x: Tensor
    test_y: Tensor | None
    name: str
    classes: list[Any] | None = None
    read: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of training images."""
        return self.train_x.shape[0]

    @property
    def channels(self) -> int:
        """c."""
        return self.train_x.shape[1]

    @property
    def described(self) -> str:
        """What was read, and what was left out of it, in one line; empty for data that come from no file."""
        return "; ".join([self.read, *self.left_out]) if self.read else ""

    def channel_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, (c,) float32, of values in [0, 1]."""
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in self.train_x.unbind(1)])
        values = torch.arange(256, dtype=torch.float64) / 255
        share = counts.double() / counts.sum(1, keepdim=True)  # (c, 256)
        mean = share @ values
        std = (share @ values.square() - mean.square()).clamp_min(0).sqrt()
        return mean.float(), torch.where(std > 1e-6, std, 1.0).float()


def images_of(samples: Samples) -> Images:
    """The images that rows of numbers fold back into, their range as 0 … 255.

    Raises:
        UserError: where rows are no images.
    """
    shape = samples.image_shape
    if shape is None:
        raise UserError(
            f"data={samples.name} holds no images, which model=encoder takes: set data=image_folder data.root=DIR, "
            "cifar10, mnist or digits (without data.pca), or model=two_layer"
        )
    height, width = shape[-2:]
    low, high = samples.train_x.amin(), samples.train_x.amax()
    span = (high - low).clamp_min(torch.finfo(torch.float64).tiny)

    def folded(x: Tensor) -> Tensor:
        scaled = (x - low).div(span).clamp(0, 1).mul(255).round().to(torch.uint8)
        return scaled.reshape(len(x), -1, height, width)  # (n, d) -> (n, c, H, W)

    return Images(
        folded(samples.train_x),
        samples.train_y,
        folded(samples.test_x),
        samples.test_y,
        samples.name,
        samples.classes,
        samples.read,
        samples.left_out,
    )


def read_images(data: PairData, seed: int) -> Images:
    """The images of a data set: its own, or those that its rows fold back into.

    Raises:
        UserError: where it has none.
    """
    return data.images(seed) if isinstance(data, ImageSet) else images_of(data.read(seed))


@dataclass(kw_only=True)
class ImageSet(PairData):
    """A data set of images: bytes for an encoder (:meth:`images`), rows of numbers in [0, 1] for all other models.

    Args:
        classes: classes to keep, None for all.
        per_class: training images of each class (the first so many), None for all; the test split stays whole.
        batch_size: images per step; None for all of them, and for 256 under an encoder.
    """

    classes: list[Any] | None = None
    per_class: Annotated[int, Field(gt=0)] | None = None

    @abstractmethod
    def whole(self, seed: int) -> Images:
        """All the images; ``classes`` and ``per_class`` are applied to them afterwards."""

    def images(self, seed: int = 0) -> Images:
        """The images that are asked for.

        Raises:
            UserError: a missing or damaged file, an unknown class; one line each.
        """
        found = self.whole(seed)
        if found.train_y is None or (self.classes is None and self.per_class is None):
            return found
        known = np.array(found.classes)
        rows, train_y, chosen = select_classes(
            known[found.train_y.numpy()], self.classes, self.per_class, name=self.name
        )
        test_rows, test_y = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        if found.test_y is not None and len(found.test_y):
            test_rows, test_y, _ = select_classes(
                known[found.test_y.numpy()], chosen, name=f"the test split of {self.name}"
            )
        return Images(
            found.train_x[rows],
            torch.from_numpy(train_y),
            found.test_x[test_rows],
            torch.from_numpy(test_y),
            found.name,
            chosen,
            found.read,
            found.left_out,
        )

    def read(self, seed: int) -> Samples:
        found = self.images(seed)
        samples = Samples.from_arrays(
            found.train_x.double() / 255,
            found.train_y,
            found.test_x.double() / 255,
            found.test_y,
            name=found.name,
            image_shape=tuple(found.train_x.shape[1:]),
            classes=found.classes,
        )
        samples.read, samples.left_out = found.read, found.left_out
        return samples
