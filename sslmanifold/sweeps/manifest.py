"""``sweep.json``: what a sweep was asked to do, kept in its folder so that it can be resumed and watched."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from sslmanifold.errors import UserError
from sslmanifold.runs import ENDED, Run, atomic, run_folders
from sslmanifold.runs.folder import read_json
from sslmanifold.runs.identity import config_key

NAME = "sweep.json"

# a job with one of these has its answer; the others run again
DONE = ENDED


@dataclass
class Manifest:
    """What is written to ``sweep.json`` when a sweep starts.

    Attributes:
        line: the overrides of the sweep, as :func:`~sslmanifold.runs.identity.sweep_line` orders them.
        jobs: how many jobs the line makes; None where the sweeper decides as it goes.
        started: local time, ISO 8601.
        folders: configuration key → run folder, relative to the sweep folder, of the jobs started earlier.
    """

    line: list[str]
    jobs: int | None = None
    started: str = ""
    folders: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, sweep_dir: Path) -> "Manifest | None":
        """The manifest of a sweep folder, or None where it has none that can be read."""
        try:
            return cls(**read_json(sweep_dir / NAME))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, sweep_dir: Path) -> None:
        self.started = self.started or f"{datetime.now():%Y-%m-%dT%H:%M:%S}"
        with atomic(sweep_dir / NAME) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def started_jobs(sweep_dir: Path) -> dict[str, str]:
    """Configuration key → run folder relative to ``sweep_dir``; of several with one key, one that is done."""
    found: dict[str, str] = {}
    done: dict[str, str] = {}
    for folder in run_folders(sweep_dir):
        run = Run(folder)
        kind = done if run.summary.get("status") in DONE else found
        with suppress(UserError):  # a damaged configuration is no job's
            kind[config_key(run.config)] = str(folder.relative_to(sweep_dir))
    return found | done


def latest_sweep(parent: Path, line: list[str]) -> Path | None:
    """The newest sweep folder in ``parent`` that was started with this line, or None."""
    found = [
        (manifest.started, path.parent)
        for path in parent.glob(f"*/{NAME}")
        if (manifest := Manifest.read(path.parent)) is not None and manifest.line == line
    ]
    return max(found)[1] if found else None
