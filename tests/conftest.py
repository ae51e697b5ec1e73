"""Fixtures shared by tests that train: a run by overrides, as the command line would compose it."""

# ruff: noqa: E402 - thread counts are read when torch is imported

import os
import subprocess
import sys

# one test process a core: a second thread in each only waits for the other's core. Before anything imports torch.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslmanifold.runs import Run

_ALONE = "SSLMANIFOLD_TEST_ALONE"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked ``forks`` runs in a process of its own, which no test before has given threads."""
    if pyfuncitem.get_closest_marker("forks") is None or _ALONE in os.environ:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        # without the port of a rendezvous that Lightning left behind here
        env={k: v for k, v in os.environ.items() if not k.startswith("MASTER_")} | {_ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return True


def composed(*overrides: str, config: str = "train") -> dict[str, Any]:
    """The resolved configuration of ``sslmanifold train <overrides>``."""
    from hydra import compose, initialize_config_dir

    from sslmanifold.config.compose import plain
    from sslmanifold.config.location import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose(config, overrides=list(overrides)))


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., dict[str, Any]]:
    """``compose_config("data=half_moons")``: a resolved configuration."""
    return composed


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``train("data=half_moons", "seed=1")``: a finished run, without progress bar and figures."""
    from sslmanifold.training.fit import run_training

    def run(*overrides: str, callbacks: str = "[spectrum,ode]", folder: Path | None = None) -> Run:
        where = folder or tmp_path_factory.mktemp("run")
        return run_training(composed(f"callbacks={callbacks}", *overrides), where)

    return run


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of ``MNIST/raw``, from SSLMANIFOLD_DATA."""
    root = os.environ.get("SSLMANIFOLD_DATA")
    if not root or not (Path(root) / "MNIST" / "raw").is_dir():
        pytest.skip("SSLMANIFOLD_DATA names no folder with MNIST/raw")
    return Path(root)
