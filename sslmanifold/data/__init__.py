"""Data sets, the pairs drawn from them, and the data module that feeds training."""

from typing import Any

from sslmanifold.data.array import Array
from sslmanifold.data.augmentation import Augmentation
from sslmanifold.data.digits import Digits
from sslmanifold.data.gaussian import Gaussian
from sslmanifold.data.half_moons import HalfMoons
from sslmanifold.data.idx_images import KMNIST, MNIST, FashionMNIST
from sslmanifold.data.image_folder import ImageFolder
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.photographs import CIFAR10, CIFAR100, STL10
from sslmanifold.data.samples import Samples
from sslmanifold.data.triplets import TripletBatch, Triplets

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "KMNIST",
    "MNIST",
    "STL10",
    "Array",
    "Augmentation",
    "Digits",
    "FashionMNIST",
    "Gaussian",
    "HalfMoons",
    "ImageFolder",
    "PairData",
    "PairDataModule",
    "Samples",
    "TripletBatch",
    "Triplets",
]


def __getattr__(name: str) -> Any:
    if name == "PairDataModule":  # Lightning takes seconds to import
        from sslmanifold.data.datamodule import PairDataModule

        return PairDataModule
    raise AttributeError(f"module 'sslmanifold.data' has no attribute {name!r}")
