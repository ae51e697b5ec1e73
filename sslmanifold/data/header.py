"""Whether the first line of a text table names its columns: known, told, or asked."""

from itertools import pairwise

from sslmanifold.data.dialect import MISSING, Dialect, Header
from sslmanifold.errors import UserError


def has_header(
    first: list[str], body: list[list[str]], dialect: Dialect, header: Header, named: str | None, source: str
) -> bool:
    """Whether ``first`` holds names rather than a sample.

    It does where words stand above numbers, and where it numbers the columns 0, 1, 2, … as pandas does: beside such
    a word or a nameless index, above decimals, or for eight columns and more. Words beside other numbers, integers
    above decimals (years), and increasing numbers outside the range of every column below (wave lengths) may be
    either.

    Args:
        first: the cells of the first line.
        body: those of some lines below.
        header: ``data.header``; true or false decides.
        named: the column that ``data.labels`` gives by name.
        source: option and file, for messages.

    Raises:
        UserError: where either reading is possible, with the lines to choose by.
    """
    if header != "auto":
        return header
    if named in first:
        return True
    columns = [[row[i] for row in body if i < len(row) and row[i] not in MISSING] for i in range(len(first))]
    numeric = [i for i, cells in enumerate(columns) if cells and all(map(dialect.is_number, cells))]
    names = [i for i in numeric if first[i] not in MISSING and not dialect.is_number(first[i])]
    numbers = [i for i in numeric if dialect.is_number(first[i])]
    if not body:
        return not all(map(dialect.is_number, first))
    if names and not numbers:
        return True
    unlike = _looks_unlike(first, columns, numbers, dialect)
    numbered = _numbers_columns(first, numbers)
    nameless_index = first[0] == "" and _counts(columns[0])
    if numbered and (nameless_index or (len(numbers) >= 3 and (names or unlike or len(numbers) >= 8))):
        return True
    if names or nameless_index or unlike or (numbered and (len(numbers) >= 3 or first[numbers[0]] == "0")):
        shown = ", ".join(map(repr, first[:6])) + (", …" if len(first) > 6 else "")
        raise UserError(
            f"{source}: its first line ({shown}) may be a header or a sample: set data.header=true or data.header=false"
        )
    return False


def _counts(cells: list[str]) -> bool:
    """Whether the cells are 0, 1, 2, … or 1, 2, 3, …"""
    return bool(cells) and any(cells == [str(i + start) for i in range(len(cells))] for start in (0, 1))


def _numbers_columns(first: list[str], numbers: list[int]) -> bool:
    """Whether the cells number their columns, perhaps with an index and labels between them."""
    offsets = {int(first[i]) - i if first[i].isdigit() else None for i in numbers}
    return len(offsets) == 1 and offsets <= {-2, -1, 0, 1}


def _looks_unlike(first: list[str], columns: list[list[str]], numbers: list[int], dialect: Dialect) -> bool:
    """Whether the numbers of the first line are written unlike those below, or lie outside their range."""
    if not numbers:
        return False
    if all(_whole(first[i]) for i in numbers):
        decimals = [i for i in numbers if not all(map(_whole, columns[i]))]
        if 2 * len(decimals) > len(numbers):
            return True
    if len(numbers) < 2 or min(len(columns[i]) for i in numbers) < 10:
        return False
    values = [_value(first[i], dialect) for i in numbers]
    if any(after <= before for before, after in pairwise(values)):
        return False
    ranges = [sorted(_value(cell, dialect) for cell in columns[i]) for i in numbers]
    return all(not low[0] <= value <= low[-1] for value, low in zip(values, ranges, strict=True))


def _whole(cell: str) -> bool:
    return cell.lstrip("+-").isdigit()


def _value(cell: str, dialect: Dialect) -> float:
    text = cell.replace(",", ".") if dialect.decimal == "," else cell
    return float(text.lower() == "true") if text.lower() in ("true", "false") else float(text)
