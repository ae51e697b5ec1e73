"""Real processes, real signals: a run killed twice ends in the same bits as one that was left alone."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run

OVERRIDES = [
    "data=digits", "data.batch_size=100", "data.resample=epoch", "loss.reduction=mean", "optimizer.momentum=0.5",
    "callbacks=[spectrum,ode]", "callbacks.ode.approximate=true", "trainer.max_steps=700",
    "checkpoint.every_n_steps=50",
]  # fmt: skip


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "sslmanifold", "train", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> int:
    """Wait until the run's checkpoint has reached a step; the step it is at."""
    path = folder / "checkpoints" / "last.ckpt"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        if path.exists():
            done = read_checkpoint(path)["sslmanifold"]["steps_done"]
            if done >= step:
                return done
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of step {step} in time")


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, int]:
    """A run that got SIGKILL, went on, got SIGTERM, went on to the end."""
    cwd = tmp_path_factory.mktemp("killed")
    first = start(*OVERRIDES, "hydra.run.dir='run a=b'", cwd=cwd)
    folder = cwd / "run a=b"
    wait_for_step(first, folder, 150)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()

    second = start("ckpt_path='run a=b'", cwd=cwd)
    wait_for_step(second, folder, 350)
    second.send_signal(signal.SIGTERM)
    out, err = second.communicate()
    assert second.returncode == 130, err
    stopped = Run(folder).summary
    assert stopped["status"] == "interrupted"
    assert "SIGTERM" in stopped["reason"]
    assert stopped["steps"] < 700
    assert (
        read_checkpoint(folder / "checkpoints" / "last.ckpt")["sslmanifold"]["steps_done"] == stopped["steps"]
    )

    third = start("ckpt_path='run a=b/checkpoints/last.ckpt'", "checkpoint.every_n_steps=400", cwd=cwd)
    end, err = third.communicate(timeout=300)
    assert third.returncode == 0, err
    return folder, out, end, stopped["steps"]


def test_the_weights_are_those_of_the_uninterrupted_run(
    killed_twice: tuple[Path, str, str, int], train: Callable[..., Run]
) -> None:
    run = Run(killed_twice[0])
    whole = train(*OVERRIDES)
    assert run.summary["status"] == whole.summary["status"] == "completed"
    for weight, expected in zip(run.model.weights, whole.model.weights, strict=True):
        assert torch.equal(weight, expected)
    assert run.folder.metrics.read_text() == whole.folder.metrics.read_text()


def test_the_folder_is_one_run(killed_twice: tuple[Path, str, str, int]) -> None:
    folder, out, end, _ = killed_twice
    assert "interrupted" in out
    assert "completed" in end
    assert re.search(r"run folder: .*run a=b", end)
    assert not list(folder.rglob(".*.partial"))
    config = Run(folder).config
    assert config["ckpt_path"] is None
    assert config["checkpoint"]["every_n_steps"] == 400  # may change, as it changes no result
    assert config["optimizer"]["momentum"] == 0.5


def test_the_command_line_refuses_another_run(killed_twice: tuple[Path, str, str, int]) -> None:
    """In this process: only the composition matters."""
    from sslmanifold.commands.resumption import resume_arguments
    from sslmanifold.errors import UserError

    folder = killed_twice[0]
    with pytest.raises(UserError, match=r"optimizer\.lr=0\.5 would make another run"):
        resume_arguments([f"ckpt_path={folder}", "optimizer.lr=0.5"])
    # what the run was started with, typed again, changes nothing
    _, config = resume_arguments([f"ckpt_path={folder}", *OVERRIDES[:5]])
    assert config == Run(folder).config
    with pytest.raises(UserError, match=r"resume=true"):
        resume_arguments([f"ckpt_path={folder}", "-m", "seed=0,1"])
    with pytest.raises(UserError, match=r"leave hydra\.run\.dir out"):
        resume_arguments([f"ckpt_path={folder}", "hydra.run.dir=/elsewhere"])
    with pytest.raises(UserError, match=r"of which run"):
        resume_arguments(["ckpt_path=last"])
    # a line to repeat until the run is done
    assert resume_arguments(["ckpt_path=last", f"hydra.run.dir={folder / 'new'}", "seed=1"])[1] is None
    assert resume_arguments(["ckpt_path=null", "seed=1"]) == (["ckpt_path=null", "seed=1"], None)
