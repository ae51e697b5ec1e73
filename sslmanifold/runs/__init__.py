"""The run folder: what it holds, how it is found, written and read back."""

from sslmanifold.runs.find import run_folders, runs_below
from sslmanifold.runs.folder import ENDED, STATUSES, UNREADABLE, RunFolder, atomic, finite_json
from sslmanifold.runs.run import Run, load_run

__all__ = [
    "ENDED",
    "STATUSES",
    "UNREADABLE",
    "Run",
    "RunFolder",
    "atomic",
    "finite_json",
    "load_run",
    "run_folders",
    "runs_below",
]
