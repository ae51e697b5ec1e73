"""Reading .npy, .npz and .pt files, without running what they might carry, as tables of samples and labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.data.paths import TEXT, TORCH
from sslmanifold.data.table import Index, Table, index_remark, row_index
from sslmanifold.data.text_table import read_text_labels
from sslmanifold.errors import UserError

_SAMPLE_NAMES = ("x", "X", "data")


def read_array_table(
    path: Path, key: str | None, labels: str | int | None, index: Index, option: str
) -> Table:
    """Samples and raw labels in a .npy, .npz or .pt file; ``labels`` names an array of the same file.

    Raises:
        UserError: a damaged file, Python objects, an array that is not there or is no table of real numbers.
    """
    source = f"{option}={path}"
    stored, name = _Stored(path, option), ""
    if stored.names is not None:
        name = _sample_key(stored, key, source)
    elif key is not None:
        raise UserError(f"data.key={key!r}: {source} holds one array: leave data.key out")
    array = stored[name]
    facts = [str(array.dtype), f"array {name!r}"] if name else [str(array.dtype)]
    if array.dtype.names:
        return _records(array, labels, index, source)
    y = None
    if labels is not None:
        if stored.names is None:
            raise UserError(
                f"data.labels={labels!r}: {source} holds one array: name a file, data.labels=labels.npy"
            )
        y = stored[_label_key(stored, labels, source)]
        facts.append(f"labels in array {labels!r}")
    shown = name or "x"
    table = Table(_as_samples(array, source), y, _numpy_place(shown, array.shape[1:]), facts=facts)
    if index is True and table.x.ndim != 2:
        raise UserError(
            f"data.index=true: the samples of {source} have shape {table.x.shape}: leave data.index out"
        )
    if table.x.ndim == 2 and table.x.shape[1]:
        why = row_index(None, table.x[:, 0], index, table.x.shape[1] - 1)
        if why:
            table.x = np.ascontiguousarray(table.x[:, 1:])
            table.where = _numpy_place(shown, array.shape[1:], skipped=1)
            table.left_out.append(index_remark(f"column {shown}[:, 0]", why, asked=index is True))
    return table


def read_labels(path: Path, n: int, option: str) -> tuple[np.ndarray, Any]:
    """The labels in a file of their own (n,), and the way to name the place of one."""
    if path.suffix.lower() in TEXT:
        return read_text_labels(path, n, option)
    stored = _Stored(path, option)
    if stored.names is not None and len(stored.names) != 1:
        raise UserError(f"{option}={path} holds {', '.join(stored.names)}: store the labels alone")
    return stored[stored.names[0] if stored.names else ""], lambda row: f"row [{row}] of {path}"


def flat_labels(y: np.ndarray, n: int, option: str, source: str) -> np.ndarray:
    """Labels as (n,), from (n,), (n, 1) or (1, n)."""
    if y.size == n and y.ndim > 0 and max(y.shape) == n:
        return y.reshape(n)
    hint = ": one-hot? store y.argmax(1)" if y.ndim == 2 and len(y) == n else ""
    raise UserError(f"{option}: {y.size} labels of shape {y.shape} for {n} samples of {source}{hint}")


class _Stored:
    """The arrays in a file, read one by one; ``names`` None for a file of one array without a name."""

    def __init__(self, path: Path, option: str) -> None:
        self.path, self.option = path, option
        self._content: Any = self._guarded(self._open)
        self.names: list[str] | None = None
        if isinstance(self._content, Mapping):  # NpzFile is one
            self.names = [str(name) for name in self._content]

    def __getitem__(self, name: str) -> np.ndarray:
        def get() -> np.ndarray:
            if self.names is None:
                return _to_numpy(self._content, "its content")
            keys = {str(key): key for key in self._content}
            return _to_numpy(self._content[keys[name]], f"its {name!r}")

        return self._guarded(get)

    def _open(self) -> Any:
        if self.path.suffix.lower() in TORCH:
            import torch

            return torch.load(self.path, map_location="cpu", weights_only=True)
        with self.path.open("rb") as file:
            start = file.read(6)
        # numpy.load takes whatever else a file starts with for a pickle
        if not start.startswith((np.lib.format.MAGIC_PREFIX, b"PK", b"\x80")):
            raise UserError(f"it is no file that NumPy writes: it starts with {start!r}")
        return np.load(self.path, allow_pickle=False)

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except UserError as error:
            raise UserError(f"{self.option}={self.path} cannot be read: {error}") from None
        except (
            Exception
        ) as error:  # each format fails in its own ways; the user needs the file's name and one line
            text = " ".join(str(error).split())
            reason = f"it is damaged, or no {self.path.suffix} file: {text[:160]}"
            if "pickle" in text.lower() or "weights_only" in text:
                reason = (
                    "it holds Python objects, and reading those may run code: store plain numbers, np.save(FILE, "
                    "x.astype(float)), or tensors, torch.save({'x': x, 'y': y}, FILE)"
                )
            raise UserError(f"{self.option}={self.path} cannot be read: {reason}") from None


def _to_numpy(value: Any, what: str) -> np.ndarray:
    if hasattr(value, "detach"):
        tensor = value.detach()
        if tensor.is_sparse or tensor.layout != _strided():
            tensor = tensor.to_dense()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        return (
            tensor.double().numpy()
            if str(tensor.dtype) == "torch.bfloat16"
            else tensor.resolve_conj().numpy()
        )
    if isinstance(value, np.ndarray):
        return value
    raise UserError(f"{what} is a {type(value).__name__}, no array")


def _strided() -> Any:
    import torch

    return torch.strided


def _sample_key(stored: _Stored, key: str | None, source: str) -> str:
    names = stored.names or []
    if key is not None:
        if key not in names:
            raise UserError(f"data.key={key!r} is not in {source}: choose from {', '.join(names)}")
        return key
    for name in _SAMPLE_NAMES:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise UserError(
        f"{source} holds {', '.join(names) or 'nothing'}: name the samples, for example data.key="
        f"{names[0] if names else 'x'}"
    )


def _label_key(stored: _Stored, labels: str | int, source: str) -> str:
    if str(labels) not in (stored.names or []):
        raise UserError(
            f"data.labels={labels!r} is not in {source}: choose from {', '.join(stored.names or [])}"
        )
    return str(labels)


def _as_samples(array: np.ndarray, source: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise UserError(f"{source}: samples are of type {array.dtype}, not real numbers")
    if array.ndim < 2:
        hint = ": x[:, None] for n samples of one feature" if array.ndim == 1 else ""
        raise UserError(
            f"{source}: samples have shape {array.shape}; (n, d) is needed, one row a sample{hint}"
        )
    return np.ascontiguousarray(array, dtype=np.float64)


def _numpy_place(name: str, shape: tuple[int, ...], skipped: int = 0) -> Any:
    """``x[5, 2]``, as NumPy counts."""

    def where(row: int, cell: int | None = None) -> str:
        if cell is None:
            return f"row [{row}]"
        return f"{name}[{', '.join(map(str, (row, *np.unravel_index(cell + skipped, shape))))}]"

    return where


def _records(array: np.ndarray, labels: str | int | None, index: Index, source: str) -> Table:
    """A structured array, as ``DataFrame.to_records`` makes it: fields are columns."""
    names = list(array.dtype.names or ())
    array = array.reshape(-1)
    label = None
    if labels is not None:
        if labels not in names:
            raise UserError(f"data.labels={labels!r} is no field of {source}: choose from {', '.join(names)}")
        label = str(labels)
    features = [name for name in names if name != label]
    for name in features:
        if array.dtype[name].shape or array.dtype[name].kind not in "biuf":
            raise UserError(
                f"{source}: field {name!r} is of type {array.dtype[name]}, no column of real numbers"
                + ("" if label else " (class names? set data.labels to that field)")
            )
    left_out = []
    why = row_index(features[0], array[features[0]], index, len(features) - 1) if features else None
    if why and features[0] == names[0]:
        left_out.append(index_remark(f"field {features[0]!r}", why, asked=index is True))
        features = features[1:]
    columns = [array[name].astype(np.float64) for name in features]
    return Table(
        np.stack(columns, axis=1) if columns else np.empty((len(array), 0)),
        array[label] if label else None,
        lambda row, cell=None: f"x[{row}]" if cell is None else f"x[{row}][{features[cell]!r}]",
        names=features,
        facts=["structured array", *([f"labels in field {label!r}"] if label else [])],
        left_out=left_out,
    )
