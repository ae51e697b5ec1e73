"""Text tables (.csv, .tsv, .txt): numbers with or without names, an index, a column of labels."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.data.dialect import MISSING, ONE_COLUMN, Dialect, Header, dialect_of
from sslmanifold.data.header import has_header
from sslmanifold.data.table import Index, Table, index_remark, row_index
from sslmanifold.errors import UserError

_SAMPLE = 200  # rows that the header is judged by


def read_text_table(path: Path, labels: str | int | None, header: Header, index: Index, option: str) -> Table:
    """Samples and raw labels (as text) of one file; ``labels`` names their column, by name or number.

    Raises:
        UserError: rows of different lengths, a cell that is no number, a column that is not there, a first line that
            may be a header or a sample.
    """
    source = f"{option}={path}"
    dialect = dialect_of(path, option)
    rows = _Rows(path, dialect)
    sample = list(islice(rows, _SAMPLE + 1))
    if not sample:
        raise UserError(f"{source} is empty")
    first, body = sample[0], sample[1:]
    names = _names(first, body, dialect, header, labels, source)
    own_header = names is first
    facts = [dialect.described, "no header" if names is None else "header line"]
    cells = len(body[0]) if own_header and body else len(first)
    names, width = _fitted(names, body if own_header else sample, cells, source)
    label = None if labels is None else _column(labels, names, width, source)
    frame = _parse(rows, own_header, cells, label, source)
    features, left_out = _without_index([i for i in range(width) if i != label], names, frame, index, source)

    def where(row: int, cell: int | None = None) -> str:
        line = f"line {rows.line(row + own_header)}"
        return line if cell is None else f"{line}, {_place(features[cell], names)}"

    if frame[features].isna().any(axis=None) or (
        label is not None and frame[label].isin([*MISSING, np.nan]).any()
    ):
        rows.require_width(cells, own_header, source)  # pandas fills short rows up
    x = _numbers(frame, features, rows, own_header, names, labels is not None, source)
    kinds = {str(frame[i].dtype) for i in features}
    facts.insert(0, kinds.pop() if len(kinds) == 1 else "float64")
    y = None
    if label is not None:
        y = frame[label].astype(str).str.strip().to_numpy(dtype=str)
        facts.append(f"labels in {_place(label, names)}")
    return Table(x, y, where, [names[i] for i in features] if names else None, facts, left_out)


def read_text_labels(path: Path, n: int, option: str) -> tuple[np.ndarray, Any]:
    """The one column of a file of labels, as text (n,), and the way to name a line of it.

    A first line too many is the header; a nameless or counting first column beside the labels is an index.
    """
    source = f"{option}={path}"
    dialect = dialect_of(path, option, spaces=False)
    rows = _Rows(path, dialect)
    cells = list(rows)
    own_header = len(cells) == n + 1 and n > 0
    names = dialect.names
    if own_header:
        names, cells = cells[0], cells[1:]
    if cells and len(cells[0]) == 2 and all(len(row) == 2 for row in cells):
        counts = [row[0] for row in cells]
        first = (
            np.array(counts, dtype=np.float64) if all(map(dialect.is_number, counts)) else np.array(counts)
        )
        if row_index(names[0] if names else None, first, "auto", 1):
            cells = [row[1:] for row in cells]
    wide = next((i for i, row in enumerate(cells) if len(row) != 1), None)
    if wide is not None:
        raise UserError(
            f"{source}: line {rows.line(wide + own_header)} has {len(cells[wide])} cells: store the labels alone, one "
            "a line"
        )
    return np.array(
        [row[0] for row in cells], dtype=str
    ), lambda row: f"line {rows.line(row + own_header)} of {path}"


class _Rows:
    """The rows of a file that are not blank, and their line numbers."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.path, self.dialect = path, dialect

    def __iter__(self) -> Iterator[list[str]]:
        return (cells for _, cells in self.dialect.records(self.path))

    def at(self, row: int) -> tuple[int, list[str]]:
        return next(islice(self.dialect.records(self.path), row, None))

    def line(self, row: int) -> int:
        return self.at(row)[0]

    def require_width(self, width: int, own_header: bool, source: str) -> None:
        for line, cells in islice(self.dialect.records(self.path), int(own_header), None):
            if len(cells) != width:
                raise UserError(f"{source}: line {line} has {len(cells)} cells, the others have {width}")


def _names(
    first: list[str],
    body: list[list[str]],
    dialect: Dialect,
    header: Header,
    labels: str | int | None,
    source: str,
) -> list[str] | None:
    if dialect.names is not None and header is not False:
        return dialect.names
    named = labels if isinstance(labels, str) else None
    return first if has_header(first, body, dialect, header, named, source) else None


def _fitted(
    names: list[str] | None, body: list[list[str]], cells: int, source: str
) -> tuple[list[str] | None, int]:
    """The names, one for each column, and the number of columns, of rows of ``cells`` cells."""
    width = cells
    trailing = width > 1 and all(len(row) == width and row[-1] == "" for row in body)
    if trailing and (names is None or len(names) < width or names[-1] == ""):
        width -= 1  # a delimiter after the last cell
        names = names and names[:width]
    if names is not None and len(names) == width - 1:  # as R writes row names
        names = ["", *names]
    if names is not None and body and len(names) != width:
        raise UserError(f"{source}: its header has {len(names)} cells, the line below {width}")
    return names, width


def _without_index(
    features: list[int], names: list[str] | None, frame: Any, index: Index, source: str
) -> tuple[list[int], list[str]]:
    """The columns that are features, and what is said about those in front that are an index."""
    left_out: list[str] = []
    if index is True and 0 not in features:
        raise UserError(
            f"data.index=true: the first column of {source} is that of the labels: leave data.index out"
        )
    for column in range(len(names or [0])):
        if features[:1] != [column] or (index is True and column):
            break
        name = names[column] if names else None
        why = row_index(name, frame[column].to_numpy(), index, len(features) - 1)
        if not why:
            break
        features = features[1:]
        shown = f"column {name!r}" if name else "the first column"
        left_out.append(index_remark(shown, why, asked=index is True))
    return features, left_out


def _column(labels: str | int, names: list[str] | None, width: int, source: str) -> int:
    """The label column: a whole number counts the columns of the file (−1: the last), text is a name."""
    if names is not None and str(labels) in names:
        if names.count(str(labels)) > 1:
            raise UserError(
                f"{source}: two columns are called {labels}: give data.labels=NUMBER, counted from 0"
            )
        place = names.index(str(labels))
        if isinstance(labels, int) and -width <= labels < width and labels % width != place:
            raise UserError(
                f"data.labels={labels}: column number {labels} of {source} is called {names[labels]!r}, and number "
                f"{place} is called {labels}: set data.labels={labels % width - width} or data.labels={place - width}, "
                "counted from the end"
            )
        return place
    try:
        number = int(labels)
    except ValueError:
        columns = ", ".join(names) if names else f"0 … {width - 1}, it has no header"
        raise UserError(f"data.labels={labels!r} is no column of {source}: choose from {columns}") from None
    if not -width <= number < width:
        raise UserError(f"data.labels={number} is no column: {source} has {width}, 0 … {width - 1}")
    return number % width


def _place(column: int, names: list[str] | None) -> str:
    return f"column {names[column]}" if names and names[column] else f"cell {column + 1}"


def _parse(rows: _Rows, own_header: bool, cells: int, label: int | None, source: str) -> Any:
    """The rows below the header as a DataFrame; the label column as text."""
    import pandas as pd
    from pandas.errors import ParserError

    dialect = rows.dialect
    try:
        line = rows.line(int(own_header))
    except StopIteration:  # a header alone
        return pd.DataFrame(np.empty((0, cells)))
    # to the last bit: the default of older versions is off by one unit in the last place now and then
    exact = (
        {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
    )
    with dialect.open(rows.path) as file:
        for _ in range(line - 1 - dialect.skip):
            file.readline()
        try:
            return pd.read_csv(
                file,
                sep=dialect.delimiter or ONE_COLUMN,
                decimal=dialect.decimal,
                header=None,
                names=range(cells),
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                # an empty label is as it is written, so that it can be named
                keep_default_na=False,
                na_values={column: list(MISSING) for column in range(cells) if column != label},
                dtype=None if label is None else {label: str},  # type: ignore[arg-type]
                **exact,
            )
        except ParserError:
            rows.require_width(cells, own_header, source)
            raise


def _numbers(
    frame: Any,
    features: list[int],
    rows: _Rows,
    own_header: bool,
    names: list[str] | None,
    labelled: bool,
    source: str,
) -> np.ndarray:
    """The features in float64, (n, d), or a UserError that names the first cell that is no number."""
    import pandas as pd

    for column in features:
        if frame[column].dtype.kind in "biuf":
            continue
        values = pd.to_numeric(frame[column], errors="coerce")  # integers beyond 64 bits are text until here
        bad = np.flatnonzero(values.isna() & frame[column].notna())
        if len(bad):
            line, cells = rows.at(int(bad[0]) + own_header)
            hint = not labelled and any(map(str.isalpha, cells[column]))
            raise UserError(
                f"{source}: {cells[column]!r} in line {line}, {_place(column, names)}, is no number"
                + (" (class names? set data.labels to that column)" if hint else "")
            )
        frame[column] = values
    return np.array(frame[features], dtype=np.float64, order="C")
