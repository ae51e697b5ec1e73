"""The files that a path, a pattern or a list of them names, or one line that says what is wrong with it."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sslmanifold.errors import UserError

TEXT = (".csv", ".tsv", ".txt")
TORCH = (".pt", ".pth")
SUFFIXES = (".npy", ".npz", *TORCH, *TEXT)

_PICKLE = "pickles may run code when they are read: store numbers, np.savez('data.npz', x=x, y=y)"
# what to do with the files that are not read
_INSTEAD = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as .csv"),
    **dict.fromkeys(
        (".parquet", ".feather", ".arrow"), "pandas.read_parquet(FILE).to_csv('data.csv', index=False)"
    ),
    **dict.fromkeys(
        (".h5", ".hdf5", ".mat"), "read the arrays in Python and store them, np.savez('data.npz', x=x, y=y)"
    ),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zip"), "decompress it first"),
}


def data_files(named: str | Sequence[str], option: str) -> list[Path]:
    """The files that ``named`` stands for: paths, or patterns such as ``parts/*.csv``, in order, ``~`` for home.

    Args:
        named: one path or pattern, or several.
        option: the configuration key it was given under, for messages.

    Returns:
        At least one existing file; all of one kind. A pattern's files are in the order of their names.

    Raises:
        UserError: nothing there, a folder, a file that may not be read or is of no kind that is read.
    """
    several = [named] if isinstance(named, str) else list(named)
    files = [path for one in several for path in _expanded(one, option)]
    if not files:
        raise UserError(f"{option}=[] names no file: set {option}=FILE ({', '.join(SUFFIXES)})")
    for path in files:
        _require_readable(path, option)
    kinds = {_kind(path) for path in files}
    if len(kinds) > 1:
        raise UserError(
            f"{option} names files of several kinds ({', '.join(sorted(kinds))}): name those of one kind"
        )
    return files


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return "text" if suffix in TEXT else "torch" if suffix in TORCH else suffix


def _expanded(named: str, option: str) -> list[Path]:
    try:
        path = Path(named).expanduser()
    except RuntimeError:  # ~name of nobody
        raise UserError(f"{option}={named}: there is no home of {named.split('/')[0]}") from None
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = [
        Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if not os.path.isdir(match)
    ]
    if not found:
        raise UserError(f"{option}={named}: no file matches this pattern (looked in {Path.cwd()})")
    return found


def _require_readable(path: Path, option: str) -> None:
    suffix = path.suffix.lower()
    if path.is_dir():
        held = Counter(child.suffix.lower() for child in path.iterdir() if child.suffix.lower() in SUFFIXES)
        example = f"{option}='{path}/*{held.most_common(1)[0][0]}'" if held else f"{option}=FILE"
        raise UserError(f"{option}={path} is a folder: name its files, for example {example}")
    if suffix not in SUFFIXES:
        kind = f"of the kind {path.suffix}" if path.suffix else "without a suffix"
        advice = f" ({_INSTEAD[suffix]})" if suffix in _INSTEAD else ""
        raise UserError(
            f"{option}={path}: cannot read files {kind}: choose from {', '.join(SUFFIXES)}{advice}"
        )
    if not path.exists():
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{option}={path}: no such file (looked for {path.absolute()}){hint}")
    if not path.is_file():
        raise UserError(f"{option}={path} is no regular file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{option}={path}: this user may not read it: chmod u+r {path}")
