"""A run folder as somebody else may have made it: a real one, changed by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sslmanifold.runs import Run


@pytest.fixture(scope="session")
def real(train: Callable[..., Run]) -> Run:
    """A finished run of half moons."""
    return train("data=half_moons", "data.n=40", "trainer.max_steps=20", callbacks="[spectrum,ode]")


@pytest.fixture
def foreign(real: Run, tmp_path: Path) -> Callable[..., Path]:
    """``foreign(model={"_target_": "os.system", …})``: a copy of the run whose config.yaml says so."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "foreign"
        shutil.copytree(real.path, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        path = folder / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["sslmanifold"]["config"] = config  # whoever changes the one can change the other
        torch.save(checkpoint, path)
        return folder

    return make
