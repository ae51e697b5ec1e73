"""Which runs a folder holds: itself, or the jobs of a sweep below it."""

import os
from collections.abc import Iterator
from pathlib import Path

from sslmanifold.errors import UserError
from sslmanifold.runs.folder import RunFolder


def run_folders(root: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every run folder at or below ``root``, in natural order (2 before 10); runs do not nest.

    A link to a folder is followed, except one that leads back to a folder ``above`` it.
    """
    if (root / "config.yaml").exists() and root.name != ".hydra":
        yield root
        return
    real = root.resolve()
    if real in above:
        return
    try:
        children = [entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    for entry in sorted(children, key=lambda e: _natural(e.name)):
        yield from run_folders(Path(entry.path), above | {real})


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts: list[tuple[int, int, str]] = []
    digits = text = ""
    for character in name + "\0":
        if character.isdigit():
            digits += character
        elif digits:
            parts += [(1, 0, text)] if text else []
            parts.append((0, int(digits), ""))
            digits, text = "", character
        else:
            text += character
    return [*parts, (1, 0, text.rstrip("\0"))]


def runs_below(path: str | Path) -> tuple[list[Path], Path | None]:
    """The run folders that ``path`` stands for, and the sweep's folder if it is one.

    Raises:
        UserError: where there is no run.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"run={folder} is not a folder: pass the run folder that `sslmanifold train` printed")
    if RunFolder(folder).config.exists():
        return [folder], None
    jobs = [config.parent for config in folder.glob("**/config.yaml") if config.parent.name != ".hydra"]
    if not jobs:
        raise UserError(
            f"run={folder} is not a run folder: it has no config.yaml, nor has any folder in it; pass the folder that "
            "`sslmanifold train` printed"
        )
    # job 10 after job 9
    return sorted(jobs, key=lambda job: [(len(part), part) for part in job.parts]), folder
