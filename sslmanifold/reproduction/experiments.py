"""Run folders of the reproduction: the experiments of ``conf/experiment``, trained or solved as the commands do."""

from collections.abc import Sequence

from sslmanifold.reproduction.part import Settings
from sslmanifold.runs import Run


def _whole(run: Run) -> Run:
    """The run, unless a signal came meanwhile: nothing may be computed from half a training."""
    if run.summary["status"] == "interrupted" or run.signals:
        raise KeyboardInterrupt
    return run


def trained(settings: Settings, experiment: str, overrides: Sequence[str] = (), name: str = "") -> Run:
    """``sslmanifold train +experiment=<experiment> seed=… <overrides>``, in ``runs/<name>``."""
    from sslmanifold.config.compose import composed, plain
    from sslmanifold.training.fit import run_training

    lines = [f"+experiment={experiment}", f"seed={settings.seed}", "overwrite=true", *overrides]
    return _whole(run_training(plain(composed("train", lines)), settings.run_folder(name or experiment)))


def solved(settings: Settings, experiment: str, overrides: Sequence[str] = (), name: str = "") -> Run:
    """``sslmanifold dynamics +experiment=<experiment> seed=… <overrides>``, in ``runs/<name>``."""
    from sslmanifold.config.compose import composed, plain
    from sslmanifold.training.dynamics import solve_dynamics

    lines = [f"+experiment={experiment}", f"seed={settings.seed}", "overwrite=true", *overrides]
    return _whole(solve_dynamics(plain(composed("dynamics", lines)), settings.run_folder(name or experiment)))
