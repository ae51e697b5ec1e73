"""Run folders of the reproduction: the experiments of ``conf/experiment``, trained or solved as the commands do."""

from collections.abc import Sequence

from sslmanifold.reproduction.part import Settings
from sslmanifold.runs import Run


def trained(settings: Settings, experiment: str, overrides: Sequence[str] = (), name: str = "") -> Run:
    """``sslmanifold train +experiment=<experiment> seed=… <overrides>``, in ``runs/<name>``."""
    from sslmanifold.config.application import plain
    from sslmanifold.config.compose import composed
    from sslmanifold.training.fit import run_training

    lines = [f"+experiment={experiment}", f"seed={settings.seed}", "overwrite=true", *overrides]
    return run_training(plain(composed("train", lines)), settings.run_folder(name or experiment))


def solved(settings: Settings, experiment: str, overrides: Sequence[str] = (), name: str = "") -> Run:
    """``sslmanifold dynamics +experiment=<experiment> seed=… <overrides>``, in ``runs/<name>``."""
    from sslmanifold.config.application import plain
    from sslmanifold.config.compose import composed
    from sslmanifold.training.dynamics import solve_dynamics

    lines = [f"+experiment={experiment}", f"seed={settings.seed}", "overwrite=true", *overrides]
    return solve_dynamics(plain(composed("dynamics", lines)), settings.run_folder(name or experiment))
