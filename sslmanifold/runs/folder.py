"""The run folder: the only file that knows what lies where in it, and writes atomically.

config.yaml           the resolved configuration
metrics.csv           one row a logged step
summary.json          last values, extremes, status, versions
trajectory.npz        arrays over logged steps, embeddings at the start and at the end
checkpoints/last.ckpt  refreshed while training; best.ckpt beside it
figures/               *.png, or what callbacks.figures.formats says
probes/               <probe>.json and table.csv
export/               the embedding without this package
forecast.json         what the exact flows say of the time to come
"""

import csv
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.errors import OutputError, UserError
from sslmanifold.runs.plain_yaml import yaml_text
from sslmanifold.runs.writing import remove_partials, writing

# stopped: a callback, trainer.max_time or trainer.max_epochs ended the run before trainer.max_steps
STATUSES = ("completed", "stopped", "diverged", "failed", "interrupted")
# with a result, and nothing left to do
ENDED = ("completed", "stopped", "diverged")
# of a run whose summary.json cannot be read
UNREADABLE = "unreadable"
# the summary of a run with a thousand replicas has a few megabytes
LARGEST_JSON = 1 << 26


def replace_durably(temporary: Path, path: Path) -> None:
    """``os.replace`` that a power cut cannot leave half done: the content is on the disk before it takes the name.

    Without the first fsync a file system may keep the new name and lose what was written; the second keeps the name.
    """
    _fsync(temporary)
    os.replace(temporary, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems know no fsync of a folder; others say here that there was no room
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Args:
        path: what is written; a link of that name is replaced, not followed.
        durable: whether the file must outlive a power cut right afterwards: true of what cannot be made again.

    Raises:
        OutputError: where it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(
                0o666 & ~mask
            )  # mkstemp's files are private; a run folder is shared like any other file
            if durable:
                replace_durably(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def finite_json(value: Any) -> Any:
    """The same structure with every NaN and infinity as null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(v) for v in value]
    return value


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError, ValueError: where it cannot be read, is larger than any that is written, or is nested without end.
    """
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(f"it has {size} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested without end") from None


class RunFolder:
    """Paths of one run and atomic writes into it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    config = property(lambda self: self.path / "config.yaml")
    metrics = property(lambda self: self.path / "metrics.csv")
    summary = property(lambda self: self.path / "summary.json")
    trajectory = property(lambda self: self.path / "trajectory.npz")
    checkpoint = property(lambda self: self.path / "checkpoints" / "last.ckpt")
    best = property(lambda self: self.path / "checkpoints" / "best.ckpt")
    probes = property(lambda self: self.path / "probes")
    export = property(lambda self: self.path / "export")
    figures = property(lambda self: self.path / "figures")
    forecast = property(lambda self: self.path / "forecast.json")

    def refuse_redirections(self) -> None:
        """Raise UserError where what is written would land outside the folder through a link, or be sent elsewhere.

        W&B takes the address of its server, and so where a key is sent, from ``wandb/settings``; no run writes one.
        """
        root = self.path.resolve()
        written = ["checkpoints", "figures", "probes", "export", "tensorboard", ".hydra", "traceback.txt"]
        links = [link for name in written for link in _links(self.path / name)]
        if (self.path / "wandb").is_symlink():  # W&B's own links inside are never written through again
            links.append(self.path / "wandb")
        for path in links:
            if not path.resolve().is_relative_to(root):
                raise UserError(
                    f"{path} is a link to {path.resolve()}, outside the run folder, and nothing is written through it: "
                    "remove it, or move there what it points to"
                )
        for name in ("wandb", ".wandb"):
            if (settings := self.path / name / "settings").exists():
                raise UserError(
                    f"{settings} would tell W&B where to send what is logged, and your key: remove it, or "
                    "start from another folder (settings of your own may lie in ~/.config/wandb/settings)"
                )

    def holds_run(self) -> bool:
        """Whether a run has already written here."""
        return self.config.exists() or self.summary.exists()

    def holds_results(self) -> bool:
        """Whether what a run has written here is more than the reason why it could not begin."""
        if not self.holds_run():
            return False
        made = (self.metrics, self.trajectory, self.path / "checkpoints", self.probes, self.export)
        if any(path.exists() for path in made):
            return True
        try:
            told = read_json(self.summary)
        except (OSError, ValueError):
            return True  # of a run at work, or of none of ours
        return not isinstance(told, dict) or told.get("status") not in ("failed", "interrupted")

    def write_config(self, config: Mapping[str, Any]) -> None:
        with atomic(self.config) as temporary:
            temporary.write_text(yaml_text(config), encoding="utf-8")

    def require(self) -> None:
        """Raise OutputError where the folder is gone: nothing is written into a new one in its place."""
        if not self.path.is_dir():
            raise OutputError(
                f"{self.path} is gone: the run folder was removed while the run wrote into it; start the run again"
            )

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self.require()
        with atomic(self.summary) as temporary:
            temporary.write_text(
                json.dumps(finite_json(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )

    def write_metrics(self, rows: Sequence[Mapping[str, float]], *, durable: bool = True) -> None:
        """All rows, ``step`` first; a key that a row lacks is an empty cell.

        While a run trains the file need not be durable: the checkpoint has its rows too.
        """
        keys = sorted({key for row in rows for key in row} - {"step"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=["step", *keys], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.require()
        with atomic(self.metrics, durable=durable) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def write_trajectory(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.require()
        with atomic(self.trajectory) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Remove what a former run wrote, and nothing else."""
        import shutil

        files = (self.config, self.metrics, self.summary, self.trajectory, self.forecast)
        for path in (*files, self.path / "traceback.txt"):
            path.unlink(missing_ok=True)
        former = (self.checkpoint.parent, self.figures, self.probes, self.export)
        for path in (*former, self.path / "wandb", self.path / "tensorboard"):
            shutil.rmtree(path, ignore_errors=True)

    def remove_partial_files(self) -> None:
        """Remove what killed processes were writing; the files themselves are whole."""
        for folder in (self.path, self.checkpoint.parent, self.figures):
            remove_partials(folder)
        for folder in (self.probes, self.export):  # another process may be writing there
            remove_partials(folder, older_than=60.0)


def _links(path: Path) -> Iterator[Path]:
    """The symbolic links at and below a path; none is followed."""
    if path.is_symlink():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            yield from _links(child)
