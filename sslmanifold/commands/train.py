"""``sslmanifold train``: one run, or with -m a sweep of them."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sslmanifold.config.application import plain, run_application


def task(config: DictConfig) -> None:
    """One job: train, print the result table."""
    from sslmanifold.errors import UserError
    from sslmanifold.report.terminal import print_run
    from sslmanifold.training.fit import run_training

    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    label = f"job {hydra.job.num}: {hydra.job.override_dirname}" if sweep else ""
    try:
        run = run_training(plain(config), Path(hydra.runtime.output_dir))
    except UserError as error:
        if sweep:
            print(f"{label} failed: {error}", flush=True)
        raise
    print_run(run, title=label)
    if run.summary["status"] == "interrupted":
        raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    return run_application("train", task, arguments)
