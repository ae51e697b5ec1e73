"""The user's own data from files: .npy, .npz, .pt, or text tables (.csv, .tsv, .txt)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sslmanifold.data.array_files import flat_labels, read_array_table, read_labels
from sslmanifold.data.dialect import Header
from sslmanifold.data.labels import (
    MissingLabels,
    described_classes,
    encode,
    hold_out,
    kept_rows,
    label_values,
)
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.paths import SUFFIXES, TEXT, data_files
from sslmanifold.data.samples import Samples
from sslmanifold.data.table import Index, Table, require_finite
from sslmanifold.data.text_table import read_text_table
from sslmanifold.errors import UserError


@dataclass(kw_only=True)
class Array(PairData):
    """A user's array: one row a sample, further axes (images) are flattened and remembered.

    ========================= ================================================================================
    file                      samples, labels
    ========================= ================================================================================
    ``.npy``                  one array; labels from a second file (``data.labels=y.npy``)
    ``.npz``                  ``data.key``, else the array called x, X or data, else the only one; labels: an
                              array's name
    ``.pt``                   a tensor, or a dict of tensors read like .npz (loaded with ``weights_only=True``)
    ``.csv``, ``.tsv``,       numbers, delimited by commas, semicolons, tabs, bars or spaces, with decimal points
    ``.txt``                  or commas; labels: a column's name or number (−1: the last), which is then no feature
    ========================= ================================================================================

    Nothing is guessed in silence: :attr:`Samples.read` says what was read, :attr:`Samples.left_out` what of the
    files was not taken; a run prints both.

    Args:
        path: the file of training samples; several, or a pattern such as ``parts/*.csv``, are read one after the
            other. ``~`` is the home folder.
        test_path: test samples in the same form (and with labels under the same name).
        labels: array name, column, or file of labels, as above; None for none. Any values, strings included.
        test_labels: file of test labels, where ``labels`` is a file.
        key: array name in .npz and .pt, as above.
        header: of a text table: whether its first line names the columns. ``auto`` finds out, and asks where the
            line may be either.
        index: whether the first column counts or names the rows and is no feature. ``auto`` leaves it out where it
            has no name (as pandas writes it), counts the rows from 0 or 1, or is called id or index and never
            repeats.
        missing_labels: ``refuse`` them, ``drop`` their rows, or take them for a ``class``.
        test_fraction: part of ``path`` held out where there is no ``test_path``; the same rows for every
            seed, stratified by label. None: a fifth with labels (so that probes have something to judge
            by), nothing without.
    """

    name: ClassVar[str] = "array"

    path: str | list[str]
    test_path: str | list[str] | None = None
    labels: str | int | None = None
    test_labels: str | None = None
    key: str | None = None
    header: Header = "auto"
    index: Index = "auto"
    missing_labels: MissingLabels = "refuse"
    test_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path in ("", "???"):  # OmegaConf's mark of a missing value
            raise UserError(
                f"data.path is missing: set data.path=FILE ({', '.join(SUFFIXES)}; one row a sample)"
            )
        if self.test_path is None and self.test_labels is not None:
            raise UserError(
                f"data.test_labels={self.test_labels} without data.test_path: set data.test_path=FILE too"
            )
        if self.test_path is not None and self.test_fraction:
            raise UserError(
                f"data.test_fraction={self.test_fraction} beside data.test_path: nothing is held out of data.path "
                "then; leave one of them out"
            )

    def read(self, seed: int) -> Samples:
        own_file = self._label_file() is not None
        train = self._split(self.path, self.labels, "data.path")
        test = None
        if self.test_path is not None:
            # A label file belongs to one table of samples, so the test samples need their own.
            labels = self.test_labels if self.test_labels is not None else None if own_file else self.labels
            test = self._split(self.test_path, labels, "data.test_path")
            _require_same_columns(train.table, test.table, "data.test_path", "data.path")
        train.y, test_y = _values(train.y, test.y if test is not None else None)
        y = train.y
        x, test_x = train.table.x, None if test is None else test.table.x
        if test is None:
            parts = hold_out(len(x), y, self.test_fraction, train.place, train.source)
            if parts is not None:
                kept, held = parts
                test_x, test_y = x[held], None if y is None else y[held]
                x, y = x[kept], None if y is None else y[kept]
        classes = None
        if y is None:
            test_y = None
        else:
            classes, y, test_y = encode(y, test_y, "data.test_path")
        samples = Samples.from_arrays(
            x,
            y,
            test_x,
            test_y,
            name=self.name,
            image_shape=tuple(x.shape[1:]) if x.ndim > 2 else None,
            classes=classes,
        )
        kind = "held out" if test is None else "of data.test_path"
        counts = f"n = {samples.n}" + (
            f" ({len(samples.test_x)} more {kind} to test on)" if len(samples.test_x) else ""
        )
        facts = [train.source, counts, f"d = {samples.dim}", *train.table.facts]
        if classes is not None:
            facts.append(described_classes(classes, samples.train_y.numpy()))  # type: ignore[union-attr]
        samples.read = ", ".join(facts)
        samples.left_out = (*train.table.left_out, *([] if test is None else test.table.left_out))
        return samples

    def _label_file(self) -> str | None:
        if not isinstance(self.labels, str) or Path(self.labels).suffix.lower() not in SUFFIXES:
            return None
        return self.labels

    def _split(self, named: str | list[str], labels: str | int | None, option: str) -> "_Split":
        """All files of one split as one table, finite, with the rows that have labels."""
        files = data_files(named, option)
        label_file = (
            labels if labels is not None and labels in (self._label_file(), self.test_labels) else None
        )
        name = "data.labels" if labels == self.labels else "data.test_labels"
        if label_file is not None and len(files) > 1:
            raise UserError(
                f"{name}={label_file} is one file, {option} names {len(files)}: keep the labels in those files, "
                "as a column or an array"
            )
        tables = [self._table(path, None if label_file is not None else labels, option) for path in files]
        for path, table in zip(files, tables, strict=True):
            require_finite(table, f"{option}={path}")
            _require_same_columns(tables[0], table, path, files[0])
        source = f"{option}={files[0]}" + (f" … {files[-1]}" if len(files) > 1 else "")
        split = _joined(tables, files, source)
        if label_file is not None:
            (path,) = data_files(str(label_file), name)
            y, split.place = read_labels(path, len(split.table.x), name)
            split.y = flat_labels(y, len(split.table.x), f"{name}={path}", source)
            split.table.facts.append(f"labels in {path}")
        if split.y is not None:
            rows, remark = kept_rows(split.y, self.missing_labels, split.place, source)
            if remark:
                split.keep(rows, remark)
        return split

    def _table(self, path: Path, labels: str | int | None, option: str) -> Table:
        if path.suffix.lower() in TEXT:
            if self.key is not None:
                raise UserError(f"data.key={self.key!r}: {option}={path} is one table: leave data.key out")
            return read_text_table(path, labels, self.header, self.index, option)
        if self.header != "auto":
            raise UserError(
                f"data.header={self.header}: {option}={path} is no text table: leave data.header out"
            )
        table = read_array_table(path, self.key, labels, self.index, option)
        if table.labels is not None:
            table.labels = flat_labels(
                table.labels, len(table.x), f"data.labels={labels!r}", f"{option}={path}"
            )
        return table


@dataclass
class _Split:
    table: Table
    y: np.ndarray | None
    place: Callable[[int], str]
    source: str

    def keep(self, rows: np.ndarray, remark: str) -> None:
        assert self.y is not None
        place = self.place
        self.table.x, self.y = self.table.x[rows], self.y[rows]
        self.place = lambda row: place(int(rows[row]))
        self.table.left_out.append(remark)


def _joined(tables: list[Table], files: list[Path], source: str) -> _Split:
    """One table after the other."""
    if len(tables) == 1:
        return _Split(tables[0], tables[0].labels, tables[0].where, source)
    starts = np.cumsum([0, *(len(table.x) for table in tables)])

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{tables[part].where(row - int(starts[part]))} of {files[part]}"

    labels = label_values([table.labels for table in tables if table.labels is not None])
    whole = Table(
        np.concatenate([table.x for table in tables]),
        None,
        place,
        tables[0].names,
        [f"{len(tables)} files", *tables[0].facts],
        list(dict.fromkeys(remark for table in tables for remark in table.left_out)),
    )
    return _Split(whole, np.concatenate(labels) if labels else None, place, source)


def _values(y: np.ndarray | None, test_y: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels of both splits as numbers, where text says numbers in both."""
    present = [part for part in (y, test_y) if part is not None]
    values = iter(label_values(present))
    return (None if y is None else next(values), None if test_y is None else next(values))


def _features(table: Table) -> str:
    shape = table.x.shape[1:]
    return f"{shape[0]} features" if len(shape) == 1 else f"images of shape {shape}"


def _require_same_columns(first: Table, other: Table, named: object, against: object) -> None:
    if first.x.shape[1:] != other.x.shape[1:]:
        raise UserError(
            f"{against} has {_features(first)}, {named} has {_features(other)}: the same are needed, in the same order"
        )
    if first.names and other.names and first.names != other.names:
        differing = next((a, b) for a, b in zip(first.names, other.names, strict=True) if a != b)
        raise UserError(
            f"the columns of {named} are not those of {against}: {differing[1]!r} stands where {differing[0]!r} does: "
            "write them under the same names, in the same order"
        )
