"""CIFAR-10, CIFAR-100 and STL-10 through torchvision, which checks their files against known checksums."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sslmanifold.data.idx_images import data_root
from sslmanifold.data.images import Images, ImageSet
from sslmanifold.errors import UserError


@dataclass(kw_only=True)
class Photographs(ImageSet):
    """A data set that torchvision knows, in its layout below ``root``.

    Args:
        root: folder of data sets; None for the environment variable SSLMANIFOLD_DATA, else ``data/``.
        download: fetch missing files.

    Raises (on ``load`` and ``images``):
        UserError: missing or damaged files, a failed download; one line each.
    """

    dataset: ClassVar[str]  # torchvision's class
    folder: ClassVar[str]  # where its files lie below root
    archive: ClassVar[str]

    root: str | None = None
    download: bool = False

    def _split(self, train: bool) -> dict[str, Any]:
        """Torchvision's arguments for a split."""
        return {"train": train}

    def whole(self, seed: int) -> Images:
        train_x, train_y, classes = self._read(True)
        test_x, test_y, _ = self._read(False)
        return Images(train_x, train_y, test_x, test_y, self.name, classes)

    def _read(self, train: bool) -> tuple[Tensor, Tensor, list[str]]:
        from torchvision import datasets

        root = data_root(self.root)
        where = f"unpack {self.archive} into {root} (it makes {self.folder}/)"
        try:
            found = getattr(datasets, self.dataset)(root, download=self.download, **self._split(train))
        except (OSError, RuntimeError, EOFError) as error:
            reason = " ".join(str(error).split())
            if self.download:
                raise UserError(
                    f"data={self.name}: the download failed ({reason[:160]}): {where} by hand"
                ) from None
            present = (root / self.folder).is_dir()
            fault = f"the files in {root / self.folder} are not those of {self.dataset}" if present else ""
            raise UserError(
                f"data={self.name}: {fault or f'no {self.folder} in {root}'}: {where}, or set data.root (or "
                "SSLMANIFOLD_DATA) to the folder that holds it, or data.download=true"
            ) from None
        pixels = np.asarray(found.data)
        images = pixels if pixels.shape[1] == 3 else pixels.transpose(0, 3, 1, 2)
        labels = found.targets if hasattr(found, "targets") else found.labels
        return (
            torch.from_numpy(np.ascontiguousarray(images)),
            torch.as_tensor(np.asarray(labels), dtype=torch.int64),
            [str(name) for name in found.classes],
        )


@dataclass(kw_only=True)
class CIFAR10(Photographs):
    """CIFAR-10: 50,000 + 10,000 photographs, 32×32, ten classes (Krizhevsky, 2009). See :class:`Photographs`."""

    name: ClassVar[str] = "cifar10"
    dataset: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"
    archive: ClassVar[str] = "cifar-10-python.tar.gz"


@dataclass(kw_only=True)
class CIFAR100(Photographs):
    """CIFAR-100: the same in a hundred classes (Krizhevsky, 2009). See :class:`Photographs`."""

    name: ClassVar[str] = "cifar100"
    dataset: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"
    archive: ClassVar[str] = "cifar-100-python.tar.gz"


@dataclass(kw_only=True)
class STL10(Photographs):
    """STL-10: the 5,000 + 8,000 labelled photographs, 96×96, ten classes (Coates, Ng and Lee, 2011).

    See :class:`Photographs`. Its 100,000 unlabelled images are not read.
    """

    name: ClassVar[str] = "stl10"
    dataset: ClassVar[str] = "STL10"
    folder: ClassVar[str] = "stl10_binary"
    archive: ClassVar[str] = "stl10_binary.tar.gz"

    def _split(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}
