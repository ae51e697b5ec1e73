"""A pickle can run any code while it is read: nothing that a folder holds, or a data set is, is read as one."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold import load_run, train
from sslmanifold.cli import main
from sslmanifold.errors import UserError
from sslmanifold.runs import Run


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    return Bomb(tmp_path / "exploded")


def test_the_bomb_is_one(bomb: Bomb) -> None:
    pickle.loads(pickle.dumps(bomb))
    assert os.path.isdir(bomb.path)


def test_a_checkpoint(foreign: Callable[..., Path], bomb: Bomb) -> None:
    folder = foreign()
    path = folder / "checkpoints" / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    for content in (whole | {"extra": bomb}, {"sslmanifold": bomb}, bomb):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"last\.ckpt cannot .* it holds Python objects") as refused:
            _ = load_run(folder).model
        assert "weights_only" not in str(refused.value)  # torch's advice is to read it unsafely
        with pytest.raises(UserError):
            train("trainer.max_steps=30", ckpt_path=folder)
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(UserError, match=r"last\.ckpt"):
        _ = load_run(folder).model
    assert not os.path.exists(bomb.path)


def test_a_fine_tuning_that_goes_on(foreign: Callable[..., Path], bomb: Bomb) -> None:
    from sslmanifold.commands.probe import probe_runs
    from sslmanifold.config.compose import composed, plain

    folder = foreign()
    place = folder / "probes" / "finetune" / "100%"
    place.mkdir(parents=True)
    torch.save({"state_dict": bomb}, place / "last.ckpt")
    line = [f"run={folder}", "probe=finetune", "probe.finetune.resume=true", "probe.finetune.epochs=1"]
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read as a checkpoint"):
        probe_runs(plain(composed("probe", [*line, "probe.finetune.fractions=[1.0]", "baselines=[]"])))
    assert not os.path.exists(bomb.path)


def test_a_trajectory(foreign: Callable[..., Path], bomb: Bomb) -> None:
    folder = foreign()
    np.savez(folder / "trajectory.npz", ode_loss=np.array([bomb], dtype=object))
    with pytest.raises(UserError, match=r"trajectory\.npz cannot be read"):
        _ = Run(folder).trajectory
    (folder / "trajectory.npz").write_bytes(pickle.dumps(bomb))
    with pytest.raises(UserError, match=r"trajectory\.npz cannot be read"):
        _ = Run(folder).trajectory
    assert not os.path.exists(bomb.path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "csv"])
@pytest.mark.parametrize("raw", [False, True], ids=["inside", "as a whole"])
def test_data(suffix: str, raw: bool, bomb: Bomb, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    if raw:
        path.write_bytes(pickle.dumps(bomb))
    elif suffix == "npy":
        np.save(path, np.array([bomb, bomb], dtype=object), allow_pickle=True)
    elif suffix == "npz":
        np.savez(path, x=np.array([bomb, bomb], dtype=object))
    elif suffix == "pt":
        torch.save({"x": bomb}, path)
    else:
        shutil.copy(__file__, path)
    with pytest.raises(UserError):
        train("data=array", data={"path": path}, trainer={"max_steps": 2}, run_dir=tmp_path / "run")
    assert not os.path.exists(bomb.path)


def test_hydras_own(bomb: Bomb, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    path = tmp_path / "config.pickle"
    path.write_bytes(pickle.dumps(bomb))
    for arguments in (["--experimental-rerun", str(path)], [f"--experimental-rerun={path}"]):
        with pytest.raises(SystemExit) as ended:
            main(["train", *arguments])
        assert ended.value.code == 2
        assert "reads a pickle" in capsys.readouterr().err
    assert not os.path.exists(bomb.path)
