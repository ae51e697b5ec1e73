"""The start of a sweep: choose its folder, write down what it is, find what is already done."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from sslmanifold.errors import OutputError
from sslmanifold.runs import Run
from sslmanifold.runs.identity import sweep_line
from sslmanifold.runs.writing import remove_partials
from sslmanifold.sweeps.manifest import DONE, Manifest, latest_sweep, started_jobs

# as the commands have them
EXIT_MISTAKE, EXIT_FAILED = 2, 1


class SweepStart(Callback):
    """Hydra's callback (``hydra.callbacks``) that prepares the sweep folder in the launching process.

    With ``resume=true`` the sweep continues in the newest folder that the same line made, or in
    ``hydra.sweep.dir`` where that is given. ``folder`` is the folder of the sweep that this process runs.
    """

    folder: Path | None = None
    manifest: Manifest | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = config.hydra
        line = sweep_line([*_preset(hydra), *OmegaConf.to_container(hydra.overrides.task, resolve=False)])  # type: ignore[misc]
        resume = bool(config.get("resume"))
        explicit = any(o.lstrip("+").startswith("hydra.sweep.dir=") for o in hydra.overrides.hydra)
        if resume and not explicit:
            earlier = latest_sweep(Path(hydra.sweep.dir).parent, line)
            if earlier is None:
                print(
                    f"resume=true: no sweep of this line in {Path(hydra.sweep.dir).parent}, starting a new one",
                    file=sys.stderr,
                )
            else:
                # hydra.sweep.dir ends in this name; workers of every launcher inherit the environment
                os.environ["SSLMANIFOLD_RUN_ID"] = earlier.name
        # Ray would report its use to its makers; the user may still say so
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        folder = Path(hydra.sweep.dir)
        if not resume:
            _refuse_another_line(folder, line)
        manifest = Manifest(line, _jobs(config))
        if resume:
            manifest.folders = started_jobs(folder)
            done = sum(Run(folder / path).summary.get("status") in DONE for path in manifest.folders.values())
            print(f"resuming {folder}: {done} jobs are done", flush=True)
        try:
            remove_partials(folder)
            manifest.write(folder)
        except OutputError as error:
            _end(str(error), EXIT_FAILED)
        SweepStart.folder, SweepStart.manifest = folder, manifest


def _refuse_another_line(folder: Path, line: list[str]) -> None:
    """A folder is one sweep's: job 0 of another line would be taken for its own."""
    earlier = Manifest.read(folder)
    if earlier is not None and earlier.line != line:
        _end(
            f"{folder} already holds the sweep {' '.join(earlier.line) or 'of the defaults'}: choose another "
            "hydra.sweep.dir, or set resume=true to add the jobs of this line to it",
            EXIT_MISTAKE,
        )


def _end(message: str, status: int) -> NoReturn:
    """End the command: of any other exception raised in a callback, Hydra makes a warning."""
    print(f"sslmanifold train: {message}", file=sys.stderr)
    raise SystemExit(status)


def _preset(hydra: DictConfig) -> list[str]:
    """What a ``sweep=`` preset sweeps, as overrides."""
    params = hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items()]


def _jobs(config: DictConfig) -> int | None:
    """How many jobs the sweep has, where that is known before it starts."""
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return sweeper.get("n_trials")
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = [*_preset(config.hydra), *config.hydra.overrides.task]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return len(BasicSweeper.split_arguments(parsed, None)[0])
