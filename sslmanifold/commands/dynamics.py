"""``sslmanifold dynamics``: a run solved instead of trained."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sslmanifold.commands.application import run_application
from sslmanifold.config.compose import plain


def task(config: DictConfig) -> None:
    """One job: solve, print the result table."""
    from sslmanifold.report.terminal import print_run
    from sslmanifold.training.dynamics import solve_dynamics

    print_run(solve_dynamics(plain(config), Path(HydraConfig.get().runtime.output_dir)))


def main(arguments: list[str]) -> int:
    return run_application("dynamics", task, arguments)
