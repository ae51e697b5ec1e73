"""The samples that a data set hands over: one train and one test split, in float64."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Samples:
    """Train and test points of one data set.

    Shapes: ``train_x`` (n, d) and ``test_x`` (n_test, d) in float64, n_test may be 0; ``train_y`` (n,) and
    ``test_y`` (n_test,) in int64, or None without labels. A label is a position in ``classes``:
    ``classes[train_y[i]]`` is the class of sample i as the data set names it. ``image_shape`` is the
    shape that one row folds back into, None where rows are not images (after ``pca``, for example).

    ``mean`` (d_raw,), ``scale`` (d_raw,) and ``components`` (d_raw, d) are how raw rows became these:
    x = ((raw − mean)/scale) · components; None where ``data.center``, ``data.scale`` and ``data.pca`` did nothing.

    ``read`` says in one line what was read from the user's files, ``left_out`` what of them was not taken.
    """

    train_x: Tensor
    train_y: Tensor | None
    test_x: Tensor
    test_y: Tensor | None
    name: str
    image_shape: tuple[int, ...] | None = None
    classes: list[Any] | None = None
    mean: Tensor | None = None
    components: Tensor | None = None
    scale: Tensor | None = None
    read: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of training samples."""
        return self.train_x.shape[0]

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self.train_x.shape[1]

    @property
    def described(self) -> str:
        """What was read, and what was left out of it, in one line; empty for data that come from no file."""
        return "; ".join([self.read, *self.left_out]) if self.read else ""

    @classmethod
    def from_arrays(
        cls,
        train_x: Any,
        train_y: Any = None,
        test_x: Any = None,
        test_y: Any = None,
        *,
        name: str,
        image_shape: tuple[int, ...] | None = None,
        classes: list[Any] | None = None,
    ) -> "Samples":
        """Samples from arrays or tensors; further axes are flattened, no test split becomes (0, d)."""
        x = torch.as_tensor(train_x, dtype=torch.float64)
        x = x.reshape(x.shape[0], x[:1].numel() if x.shape[0] else x.shape[1:].numel())  # (n, …) -> (n, d)
        if test_x is None:
            held_out = x.new_empty(0, x.shape[1])
        else:
            held_out = torch.as_tensor(test_x, dtype=torch.float64)
            held_out = (
                held_out.reshape(held_out.shape[0], -1) if held_out.shape[0] else x.new_empty(0, x.shape[1])
            )
        return cls(
            train_x=x,
            train_y=None if train_y is None else torch.as_tensor(train_y, dtype=torch.int64),
            test_x=held_out,
            test_y=None if test_y is None else torch.as_tensor(test_y, dtype=torch.int64),
            name=name,
            image_shape=image_shape,
            classes=classes,
        )
