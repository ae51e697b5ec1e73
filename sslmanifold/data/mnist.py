"""Handwritten digits of NIST, 28×28."""

from dataclasses import dataclass
from typing import ClassVar

from sslmanifold.data.idx_images import IdxImages


@dataclass(kw_only=True)
class MNIST(IdxImages):
    """MNIST: images of handwritten digits, 28×28 (d = 784), ten classes (Deng, 2012).

    Arguments, files and errors: see :class:`~sslmanifold.data.idx_images.IdxImages`; the files lie in
    ``<root>/MNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "MNIST"
