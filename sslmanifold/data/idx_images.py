"""MNIST and its relatives, image sets in four IDX files: finding, downloading and selecting."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sslmanifold.data.class_selection import select_classes
from sslmanifold.data.idx import FILES, read_split
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError


def data_root(root: str | None) -> Path:
    """Where data files live: ``root``, else the environment variable SSLMANIFOLD_DATA, else ``data/``."""
    return Path(root or os.environ.get("SSLMANIFOLD_DATA") or "data").expanduser()


@dataclass(kw_only=True)
class IdxImages(PairData):
    """Images from four uncompressed IDX files in ``<root>/<folder>/raw/``, scaled to [0, 1].

    Args:
        root: folder of data sets; None for the environment variable SSLMANIFOLD_DATA, else ``data/``.
        download: fetch missing files through torchvision.
        classes: labels to keep, None for all.
        per_class: training images of each class (the first so many), None for all; the test split stays
            whole.

    Raises (on ``load``):
        UserError: a missing, truncated or foreign file, a failed download, an unknown class; one line each.
    """

    folder: ClassVar[str]  # also the name of torchvision's class

    root: str | None = None
    download: bool = False
    classes: list[int] | None = None
    per_class: Annotated[int, Field(gt=0)] | None = None

    def read(self, seed: int) -> Samples:
        raw = data_root(self.root) / self.folder / "raw"
        self._require_files(raw)
        images, labels = read_split(raw, "train")
        test_images, test_labels = read_split(raw, "t10k")
        rows, train_y, classes = select_classes(labels, self.classes, self.per_class, name=self.name)
        test_rows, test_y, _ = select_classes(test_labels, classes, name=f"the test split of {self.name}")
        return Samples.from_arrays(
            _unit_range(images[rows]),
            train_y,
            _unit_range(test_images[test_rows]),
            test_y,
            name=self.name,
            image_shape=images.shape[1:],
            classes=classes,
        )

    def _require_files(self, raw: Path) -> None:
        missing = [name for name in FILES if not (raw / name).is_file()]
        if not missing:
            return
        where = f"put the uncompressed {', '.join(missing)} into {raw}"
        if not self.download:
            absent = f"no {missing[0]} in {raw} ({len(missing)} of {len(FILES)} files missing)"
            raise UserError(
                f"data={self.name}: {absent}: "
                f"{where}, or set data.root (or SSLMANIFOLD_DATA) to the folder of {self.folder}/raw, "
                "or data.download=true"
            )
        from torchvision import datasets

        try:
            getattr(datasets, self.folder)(raw.parent.parent, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            reason = " ".join(str(error).split())
            raise UserError(
                f"data={self.name}: the download failed ({reason[:160]}): {where} by hand"
            ) from None


def _unit_range(images: np.ndarray) -> np.ndarray:
    scaled = images.astype(np.float64)
    scaled /= 255.0  # in place: the whole of MNIST is 376 MB
    return scaled


@dataclass(kw_only=True)
class MNIST(IdxImages):
    """MNIST: images of handwritten digits, 28×28 (d = 784), ten classes (Deng, 2012).

    Arguments, files and errors: see :class:`IdxImages`; the files lie in
    ``<root>/MNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "MNIST"


@dataclass(kw_only=True)
class FashionMNIST(IdxImages):
    """Fashion-MNIST: clothes, 28×28 (d = 784). Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.

    Arguments, files and errors: see :class:`IdxImages`; the files lie in
    ``<root>/FashionMNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "fashion_mnist"
    folder: ClassVar[str] = "FashionMNIST"


@dataclass(kw_only=True)
class KMNIST(IdxImages):
    """KMNIST: ten cursive Japanese characters, 28×28 (d = 784). Source: Clanuwat et al., arXiv 1812.01718.

    Arguments, files and errors: see :class:`IdxImages`; the files lie in
    ``<root>/KMNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "kmnist"
    folder: ClassVar[str] = "KMNIST"
