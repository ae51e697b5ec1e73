"""Reading samples and labels from .npy, .npz, .pt and .csv files, with one clear message where that fails."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.errors import UserError

SUFFIXES = (".npy", ".npz", ".pt", ".csv")
_SAMPLE_NAMES = ("x", "X", "data")


@dataclass
class Columns:
    """Samples (n, …) in float64 and their labels (n,), of any type, or None."""

    x: np.ndarray
    y: np.ndarray | None
    labels_from_file: bool = False

    def take(self, rows: np.ndarray) -> "Columns":
        return Columns(self.x[rows], None if self.y is None else self.y[rows], self.labels_from_file)


def read_columns(path: Path, key: str | None, labels: str | int | None, option: str) -> Columns:
    """Samples and labels in ``path``; ``option`` is the configuration key that named it, for messages."""
    suffix = _suffix(path, option)
    label_file = _label_file(labels)
    y: Any = None
    if suffix == ".csv":
        x, y = _read_csv(path, None if label_file else labels, option)
    else:
        stored = _load(path, suffix, option)
        if isinstance(stored, dict):
            x = stored[_sample_key(stored, key, path)]
            if labels is not None and label_file is None:
                if labels not in stored:
                    raise UserError(
                        f"data.labels={labels!r} is not in {path}: choose from {', '.join(stored)}"
                    )
                y = stored[str(labels)]
        else:
            x = stored
            if labels is not None and label_file is None:
                raise UserError(
                    f"data.labels={labels!r}: {path} holds one array: name a file, data.labels=labels.npy"
                )
    if label_file is not None:
        y = _load_labels(label_file)
    x = _as_samples(x, path)
    if y is not None:
        y = np.asarray(y).squeeze()
        if y.shape != (len(x),):
            raise UserError(
                f"data.labels={labels!r}: {y.size} labels of shape {y.shape} for {len(x)} samples of {path}"
            )
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise UserError(
                f"data.labels={labels!r}: NaN or Inf in row {int(np.flatnonzero(~np.isfinite(y))[0])}"
            )
    return Columns(x, y, label_file is not None)


def _suffix(path: Path, option: str) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{option}={path}: cannot read {path.suffix or 'this'} files: choose from {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise UserError(f"{option}={path}: no such file (looked for {path.absolute()})")
    return path.suffix.lower()


def _label_file(labels: str | int | None) -> Path | None:
    if not isinstance(labels, str) or Path(labels).suffix.lower() not in SUFFIXES:
        return None
    return Path(labels).expanduser()


def _load(path: Path, suffix: str, option: str) -> Any:
    try:
        if suffix == ".pt":
            import torch

            stored = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(stored, dict):
                return {str(name): _to_numpy(value) for name, value in stored.items()}
            return _to_numpy(stored)
        stored = np.load(path, allow_pickle=False)
        return {name: stored[name] for name in stored.files} if suffix == ".npz" else stored
    except (
        Exception
    ) as error:  # each format fails in its own ways; the user needs the file's name and one line
        raise UserError(f"{option}={path} cannot be read: {' '.join(str(error).split())[:160]}") from None


def _to_numpy(value: Any) -> np.ndarray:
    return value.detach().double().numpy() if hasattr(value, "detach") else np.asarray(value)


def _sample_key(stored: dict[str, np.ndarray], key: str | None, path: Path) -> str:
    if key is not None:
        if key not in stored:
            raise UserError(f"data.key={key!r} is not in {path}: choose from {', '.join(stored)}")
        return key
    for name in _SAMPLE_NAMES:
        if name in stored:
            return name
    if len(stored) == 1:
        return next(iter(stored))
    raise UserError(
        f"{path} holds {', '.join(stored) or 'nothing'}: name the samples, for example data.key=x"
    )


def _as_samples(x: Any, path: Path) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: samples are of type {array.dtype}, not real numbers")
    if array.ndim < 2:
        raise UserError(f"{path}: samples have shape {array.shape}; (n, d) is needed, one row a sample")
    return array.astype(np.float64)


def _load_labels(path: Path) -> np.ndarray:
    suffix = _suffix(path, "data.labels")
    if suffix != ".csv":
        stored = _load(path, suffix, "data.labels")
        if isinstance(stored, dict):
            if len(stored) != 1:
                raise UserError(f"data.labels={path} holds {', '.join(stored)}: store the labels alone")
            stored = next(iter(stored.values()))
        return np.asarray(stored)
    cells = [row[0].strip() for row in _csv_rows(path)]
    if cells and not _is_number(cells[0]) and all(map(_is_number, cells[1:])):
        cells = cells[1:]  # a header above numbers
    return _label_values(cells)


def _csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [row for row in csv.reader(file) if row]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_values(cells: list[str]) -> np.ndarray:
    if not all(map(_is_number, cells)):
        return np.array(cells)
    numbers = np.array(cells, dtype=np.float64)
    if np.isfinite(numbers).all() and (numbers == np.round(numbers)).all():
        return numbers.astype(np.int64)
    return numbers


def _read_csv(path: Path, labels: str | int | None, option: str) -> tuple[np.ndarray, np.ndarray | None]:
    rows = _csv_rows(path)
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise UserError(f"{option}={path}: line {number} has {len(row)} cells, the first has {width}")
    header: list[str] | None = None
    label_column: int | None = None
    if rows:
        column = _column_number(labels, width)
        features = [i for i in range(width) if i != column]
        if not all(_is_number(rows[0][i]) for i in features) or (isinstance(labels, str) and column is None):
            header, rows = [cell.strip() for cell in rows[0]], rows[1:]
        label_column = column
        if labels is not None and column is None:
            if header is None or labels not in header:
                raise UserError(
                    f"data.labels={labels!r} is no column of {path}: choose from "
                    f"{', '.join(header) if header else f'0 … {width - 1}'}"
                )
            label_column = header.index(str(labels))
    features = [i for i in range(width) if i != label_column]
    x = np.empty((len(rows), len(features)))
    first_line = 1 if header is None else 2
    for number, row in enumerate(rows):
        for j, i in enumerate(features):
            try:
                x[number, j] = float(row[i])
            except ValueError:
                place = header[i] if header else i
                raise UserError(
                    f"{option}={path}: {row[i]!r} in line {number + first_line}, column {place}, is no number"
                    + ("" if labels is not None else " (class names? set data.labels to that column)")
                ) from None
    y = None if label_column is None else _label_values([row[label_column].strip() for row in rows])
    return x, y


def _column_number(labels: str | int | None, width: int) -> int | None:
    """The label column where it is given as a number (−1: the last), None where it is a name or not given."""
    if labels is None:
        return None
    try:
        number = int(labels)
    except ValueError:
        return None
    if not -width <= number < width:
        raise UserError(f"data.labels={number} is no column: the file has {width}, 0 … {width - 1}")
    return number % width
