"""Pictures of clothes in MNIST's format, 28×28."""

from dataclasses import dataclass
from typing import ClassVar

from sslmanifold.data.idx_images import IdxImages


@dataclass(kw_only=True)
class FashionMNIST(IdxImages):
    """Fashion-MNIST: clothes, 28×28 (d = 784). Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.

    Arguments, files and errors: see :class:`~sslmanifold.data.idx_images.IdxImages`; the files lie in
    ``<root>/FashionMNIST/raw/``, the layout that torchvision uses.
    """

    name: ClassVar[str] = "fashion_mnist"
    folder: ClassVar[str] = "FashionMNIST"
