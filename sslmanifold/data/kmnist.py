"""Cursive Japanese characters in MNIST's format, 28×28."""

from dataclasses import dataclass
from typing import ClassVar

from sslmanifold.data.idx_images import IdxImages


@dataclass(kw_only=True)
class KMNIST(IdxImages):
    """KMNIST: ten cursive Japanese characters, 28×28 (d = 784). Source: Clanuwat et al., arXiv 1812.01718.

    Arguments, files and errors: see :class:`~sslmanifold.data.idx_images.IdxImages`; the files lie in
    ``<root>/KMNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "kmnist"
    folder: ClassVar[str] = "KMNIST"
