"""Which runs a folder holds: itself, or the jobs of a sweep below it."""

from pathlib import Path

from sslmanifold.errors import UserError
from sslmanifold.runs import RunFolder


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
