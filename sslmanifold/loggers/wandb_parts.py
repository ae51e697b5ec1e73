"""The folders in which W&B keeps a run: one part for each time that it was started or added to."""

from pathlib import Path


def part_id(part: Path) -> str | None:
    """The id of the W&B run that a part belongs to, None for a folder without one.

    The part's file names it; the folder's own name may go on, where two parts began in the same second.
    """
    for file in part.glob("run-*.wandb"):
        return file.stem.removeprefix("run-")
    return None


def wandb_id(run_dir: Path) -> str | None:
    """The id of the W&B run already in this folder, so that what follows is uploaded as the same one."""
    parts = sorted((run_dir / "wandb").glob("*run-*-*"), key=lambda p: p.name.rpartition("run-")[2])
    return part_id(parts[-1]) if parts else None
