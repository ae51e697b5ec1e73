"""``sslmanifold sync DIR``: upload offline W&B runs, later, from wherever there is a network."""

import subprocess
import sys
from pathlib import Path

from sslmanifold.commands.application import EXIT_FAILED, EXIT_MISTAKE, complain
from sslmanifold.config.arguments import folders_and_options
from sslmanifold.errors import UserError, printable
from sslmanifold.loggers.wandb_parts import part_id

KEYS = {
    "project": "W&B project, in place of the one the run was started with",
    "entity": "W&B user or team",
    "dry_run": "true: only list what would be uploaded",
}

HELP = """usage: sslmanifold sync DIR [DIR ...] [project=NAME] [entity=NAME] [dry_run=true]

Uploads every offline W&B run (logger=wandb) at or below the folders that was not uploaded yet. The parts of a
resumed run go to the same W&B run, in order, and so do the results of `sslmanifold probe`. Needs an account:
`wandb login`, or WANDB_API_KEY.
"""


def offline_runs(folders: list[str]) -> dict[str, list[Path]]:
    """W&B run id → its offline folders, oldest first: a resumed run has several."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"{root} is not a folder: pass a run folder, a sweep folder or a folder of them")
        parts = [p for p in root.rglob("offline-run-*-*") if p.is_dir()]
        if root.name.startswith("offline-run-"):
            parts.append(root)
        for path in sorted(parts, key=lambda p: p.name):
            for file in path.rglob("files/**/*"):
                if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                    raise UserError(
                        f"{file} is a link to {file.resolve()}, which would be uploaded: remove it"
                    )
            # wandb leaves NAME.wandb.synced beside a file that was uploaded
            if any(path.glob("*.wandb.synced")):
                continue
            name = part_id(path)
            if name is not None:
                found.setdefault(name, []).append(path)
    return found


def _refuse_redirections(folders: list[str]) -> None:
    """Raise UserError where a folder says where to upload to, or would have files from elsewhere uploaded."""
    from sslmanifold.runs import RunFolder, run_folders

    here = Path.cwd()
    inside = [here] if any(here.is_relative_to(Path(folder).resolve()) for folder in folders) else []
    for folder in folders:
        for run_dir in [*run_folders(Path(folder)), *inside]:
            RunFolder(run_dir).refuse_redirections()


def _log_in() -> None:
    """Raise before anything is uploaded if there is no account, or no way to the server."""
    import wandb

    try:
        logged_in = wandb.login(prompt=False, verify=True)
    except wandb.Error as error:
        raise UserError(f"W&B refused the log-in: {error}. Nothing was uploaded") from error
    if not logged_in:
        raise UserError("no W&B account here: run `wandb login`, or set WANDB_API_KEY. Nothing was uploaded")


def _add_probes(folders: list[str]) -> list[str]:
    """What ``sslmanifold probe`` found after the training becomes part of the W&B run.

    Returns:
        One line for each run whose files are damaged: its probes are left out.
    """
    from sslmanifold.loggers.wandb_media import log_probes
    from sslmanifold.runs import run_folders

    damaged = []
    for folder in folders:
        for run_dir in run_folders(Path(folder)):
            if (run_dir / "probes").is_dir():
                try:
                    log_probes(run_dir)
                except ValueError as error:  # of a configuration or of a probe's JSON
                    damaged.append(f"the probes of {run_dir} were left out: {error}")
    return damaged


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else EXIT_MISTAKE
    try:
        folders, options = folders_and_options(arguments, KEYS)
        wanted = options.get("dry_run", "false").lower()
        if wanted not in ("true", "false"):
            raise UserError(f"dry_run={options['dry_run']} is neither true nor false")
        dry_run = wanted == "true"
        if not dry_run:
            _refuse_redirections(folders)
        damaged = [] if dry_run else _add_probes(folders)
        runs = offline_runs(folders)
        if runs and not dry_run:
            _log_in()
    except UserError as error:
        return complain("sync", str(error), EXIT_MISTAKE)
    for line in damaged:
        complain("sync", line, EXIT_FAILED)
    if not runs:
        print("nothing to upload: no offline W&B run that is not uploaded yet (train with logger=wandb)")
        return EXIT_FAILED if damaged else 0
    extra = [f"--{key}={options[key]}" for key in ("project", "entity") if key in options]
    failed = []
    for name, paths in runs.items():
        print(printable(f"{name}: {', '.join(map(str, paths))}"), flush=True)
        if not dry_run:
            command = [sys.executable, "-P", "-m", "wandb", "sync", "--yes", *extra, *map(str, paths)]
            if subprocess.run(command, check=False).returncode != 0:
                failed.append(name)
    if failed:
        print(
            f"sslmanifold sync: {len(failed)} of {len(runs)} runs were not uploaded: {', '.join(failed)}. "
            "The same command goes on with them",
            file=sys.stderr,
        )
    return EXIT_FAILED if failed or damaged else 0
