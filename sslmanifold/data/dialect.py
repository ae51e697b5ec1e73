"""How a text table is written: encoding, delimiter, decimal mark, and whether its first line names the columns."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

from sslmanifold.errors import UserError

Header = Literal["auto"] | bool

# the cells that pandas.read_csv takes for a missing value
MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "<NA>", "#N/A", "#NA"]
).union(["#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"])
SPACES = r"\s+"
ONE_COLUMN = "\x1f"  # a delimiter that no file has

_DELIMITERS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma", SPACES: "space"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)|true|false", re.IGNORECASE)
_SAMPLE = 200  # lines looked at


@dataclass(frozen=True)
class Dialect:
    """``delimiter`` None: one column. ``skip``: comment lines at the top; ``names``: the last of them as cells."""

    encoding: str
    delimiter: str | None
    decimal: str = "."
    skip: int = 0
    names: list[str] | None = None

    @property
    def described(self) -> str:
        if self.delimiter is None:
            return "one column"
        return f"{_DELIMITERS[self.delimiter]}-separated" + (
            ", decimal commas" if self.decimal == "," else ""
        )

    def is_number(self, cell: str) -> bool:
        return _NUMBER.fullmatch(cell.replace(",", ".") if self.decimal == "," else cell) is not None

    def open(self, path: Path) -> TextIO:
        """The file, after the comments at its top."""
        file = path.open(newline="", encoding=self.encoding)
        for _ in range(self.skip):
            file.readline()
        return file

    def records(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not blank, as the number of its first line (from 1) and its stripped cells."""
        with self.open(path) as file:
            line = self.skip
            if self.delimiter == SPACES:
                for line, text in enumerate(file, start=self.skip + 1):
                    if text.strip():
                        yield line, text.split()
                return
            reader = csv.reader(file, delimiter=self.delimiter or ONE_COLUMN, skipinitialspace=True)
            start = 1
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield line + start, [cell.strip() for cell in cells]
                start = reader.line_num + 1


def dialect_of(path: Path, option: str, *, spaces: bool = True) -> Dialect:
    """How ``path`` is written, from its first lines.

    The delimiter is the one that leaves the most cells that are numbers; decimal commas are recognised where the
    delimiter is none.

    Args:
        spaces: whether spaces may delimit; not in a column of names such as "New York".

    Raises:
        UserError: bytes that are no text in UTF-8 or UTF-16.
    """
    encoding = _encoding(path, option)
    with path.open(encoding=encoding) as file:
        lines = list(islice(file, _SAMPLE))
    skip, comment, told = 0, "", None
    for line in lines:
        if told is None and (match := re.fullmatch(r'"?sep=(.)"?\s*', line)):  # written by spreadsheets
            told = match[1]
        elif line.startswith("#"):  # written by numpy.savetxt
            comment = line.lstrip("#").strip()
        elif line.strip():
            break
        skip += 1
    body = [line for line in lines[skip:] if line.strip()]
    choices = [told] if told in _DELIMITERS else [*_DELIMITERS][: None if spaces else -1]
    best, score = Dialect(encoding, None, skip=skip), (_numbers(body, Dialect(encoding, None)), 0.0)
    for delimiter in choices:
        for decimal in "." if delimiter == "," else ".,":
            candidate = Dialect(encoding, delimiter, decimal, skip)
            widths = Counter(len(cells) for cells in _split(body, candidate))
            width, count = widths.most_common(1)[0] if widths else (1, 0)
            if width < 2:
                continue
            numbers = _numbers(body, candidate)
            if delimiter == SPACES and numbers <= 0.5:  # words
                continue
            if (numbers, count / len(body)) > score:
                best, score = candidate, (numbers, count / len(body))
    names = _split([comment], best)[0] if comment else None
    width = len(_split(body[:1], best)[0]) if body else 0
    return replace(best, names=names if names and len(names) == width else None)


def _encoding(path: Path, option: str) -> str:
    with path.open("rb") as file:
        start = file.read(2**20)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        with path.open(encoding=encoding) as file:
            for block in iter(lambda: file.read(2**20), ""):
                if "\0" in block:
                    raise UserError(f"{option}={path} is no text: it holds zero bytes")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{option}={path} is not UTF-8 text (byte {error.object[error.start]:#04x}): "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.csv, or save it as UTF-8"
        ) from None
    return encoding


def _split(lines: list[str], dialect: Dialect) -> list[list[str]]:
    if dialect.delimiter == SPACES:
        return [line.split() for line in lines]
    reader = csv.reader(lines, delimiter=dialect.delimiter or ONE_COLUMN, skipinitialspace=True)
    return [[cell.strip() for cell in cells] for cells in reader]


def _numbers(lines: list[str], dialect: Dialect) -> float:
    """The share of cells that are numbers."""
    cells = [cell for row in _split(lines, dialect) for cell in row if cell not in MISSING]
    return sum(map(dialect.is_number, cells)) / len(cells) if cells else 0.0
