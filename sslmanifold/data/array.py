"""The user's own data from one file: .npy, .npz, .pt or .csv."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from sslmanifold.data.array_files import Columns, read_columns
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError


@dataclass(kw_only=True)
class Array(PairData):
    """A user's array: one row a sample, further axes (images) are flattened and remembered.

    ============ ============================================================================================
    file         samples, labels
    ============ ============================================================================================
    ``.npy``     one array; labels from a second file (``data.labels=y.npy``)
    ``.npz``     ``data.key``, else the array called x, X or data, else the only one; labels: an array's name
    ``.pt``      a tensor, or a dict of tensors read like .npz (loaded with ``weights_only=True``)
    ``.csv``     numbers with or without a header line; labels: a column's name or number (−1: the last),
                 which is then no feature
    ============ ============================================================================================

    Args:
        path: the file of training samples.
        test_path: a file of test samples in the same form (and with labels under the same name).
        labels: array name, column, or file of labels, as above; None for none. Any values, strings included.
        test_labels: file of test labels, where ``labels`` is a file.
        key: array name in .npz and .pt, as above.
        test_fraction: part of ``path`` held out where there is no ``test_path``; the same rows for every
            seed, stratified by label. None: a fifth with labels (so that probes have something to judge
            by), nothing without.
    """

    name: ClassVar[str] = "array"

    path: str
    test_path: str | None = None
    labels: str | int | None = None
    test_labels: str | None = None
    key: str | None = None
    test_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path in ("", "???"):  # OmegaConf's mark of a missing value
            raise UserError(
                "data.path is missing: set data.path=FILE (.npy, .npz, .pt or .csv, one row a sample)"
            )

    def read(self, seed: int) -> Samples:
        train = read_columns(Path(self.path).expanduser(), self.key, self.labels, "data.path")
        image_shape = tuple(train.x.shape[1:]) if train.x.ndim > 2 else None
        if self.test_path is None:
            train, test = self._hold_out(train)
        else:
            # A label file belongs to one table of samples, so the test samples need their own.
            labels = self.test_labels if self.test_labels is not None else self.labels
            if self.test_labels is None and train.labels_from_file:
                labels = None
            test = read_columns(Path(self.test_path).expanduser(), self.key, labels, "data.test_path")
        classes, train_y, test_y = _encode(train.y, test.y if test is not None else None)
        return Samples.from_arrays(
            train.x,
            train_y,
            test.x if test is not None else None,
            test_y,
            name=self.name,
            image_shape=image_shape,
            classes=classes,
        )

    def _hold_out(self, columns: Columns) -> tuple[Columns, Columns | None]:
        from sklearn.model_selection import train_test_split

        fraction = self.test_fraction
        if fraction is None:
            fraction = 0.0 if columns.y is None else 0.2
        n = len(columns.x)
        if fraction == 0 or n < 2:
            return columns, None
        size = min(n - 1, max(1, round(fraction * n)))
        rows = np.arange(n)
        stratify = None
        if columns.y is not None:
            _, counts = np.unique(columns.y, return_counts=True)
            if counts.min() >= 2 and min(size, n - size) >= len(counts):
                stratify = columns.y
        kept, held = (
            np.sort(part)
            for part in train_test_split(rows, test_size=size, random_state=0, stratify=stratify)
        )
        return columns.take(kept), columns.take(held)


def _encode(y: np.ndarray | None, test_y: np.ndarray | None) -> tuple[list[Any] | None, Any, Any]:
    """Classes in ascending order, and labels as positions among them."""
    if y is None:
        return None, None, None
    values = np.unique(y)
    train = np.searchsorted(values, y)
    if test_y is None:
        return values.tolist(), train, None
    unknown = np.setdiff1d(test_y, values)
    if len(unknown):
        raise UserError(
            "data.test_path has labels that no training sample has: "
            f"{', '.join(map(str, unknown[:8].tolist()))}; "
            f"training has {', '.join(map(str, values[:20].tolist()))}"
        )
    return values.tolist(), train, np.searchsorted(values, test_y)
