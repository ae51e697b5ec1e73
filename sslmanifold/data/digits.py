"""Handwritten digits that ship with scikit-learn: real images without a download."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from sslmanifold.data.class_selection import select_classes
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples


@dataclass(kw_only=True)
class Digits(PairData):
    """UCI handwritten digits, 8×8 (d = 64), scaled to [0, 1]; 1,797 images in ten classes (``load_digits``).

    A quarter of them, stratified and the same for every seed, is the test split.

    Args:
        classes: digits to keep, None for all ten.
        per_class: training images of each class (the first so many), None for all; the test split stays
            whole.
    """

    name: ClassVar[str] = "digits"

    classes: list[int] | None = None
    per_class: Annotated[int, Field(gt=0)] | None = None

    def read(self, seed: int) -> Samples:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        split = train_test_split(x / 16.0, y, test_size=0.25, random_state=0, stratify=y)
        train_x, test_x, train_y, test_y = split
        rows, train_labels, classes = select_classes(train_y, self.classes, self.per_class, name=self.name)
        test_rows, test_labels, _ = select_classes(test_y, classes, name=self.name)
        return Samples.from_arrays(
            train_x[rows],
            train_labels,
            test_x[test_rows],
            test_labels,
            name=self.name,
            image_shape=(8, 8),
            classes=classes,
        )
