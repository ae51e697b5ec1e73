"""``from sslmanifold import train``: the same run as on the command line, as an object."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sslmanifold
from sslmanifold import train
from sslmanifold.api import TrainingResult, _lines
from sslmanifold.errors import UserError
from sslmanifold.runs import Run


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("api") / "run"
    return train(
        "optimizer.lr=auto",
        data={"_": "half_moons", "n": 60},
        seed=3,
        trainer={"max_steps": 40},
        run_dir=folder,
    )


def test_what_the_result_holds(result: TrainingResult) -> None:
    assert result.summary["status"] == "completed"
    assert (result.summary["n"], result.summary["seed"], result.summary["steps"]) == (60, 3, 40)
    frame = result.metrics
    assert frame.index.name == "step"
    assert frame.index.tolist() == [0, 10, 20, 30, 40]
    assert frame["train/loss"].iloc[-1] == result.summary["train/loss"]
    assert result.trajectory["embedding_final"].shape == (1, 60, 2)
    embedding = result.embed(torch.zeros(4, 2))
    assert embedding.shape[-2:] == (4, 2)
    assert result.model.linear
    assert "orthogonal" in repr(result)


def test_the_same_as_the_command_line(result: TrainingResult, train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "data.n=60", "seed=3", "trainer.max_steps=40")
    assert run.metrics["train/loss"] == result.metrics["train/loss"].tolist()


@pytest.mark.parametrize("what", ["loss", "effective_rank", "singular_values", "embedding"])
def test_plot(result: TrainingResult, what: str) -> None:
    figure = result.plot(what)
    lines = figure.axes[0].lines
    if what == "loss":
        assert np.allclose(lines[0].get_ydata(), result.metrics["train/loss"])
    assert lines or figure.axes[0].collections


def test_mistakes_are_messages(result: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of loss"):
        result.plot("los")
    with pytest.raises(UserError, match="half_moons"):
        sslmanifold.train(data="half_mons", run_dir=tmp_path / "a")
    with pytest.raises(UserError, match="already holds a run"):
        sslmanifold.train(data="half_moons", run_dir=result.path)


def test_a_corrected_line_runs_in_the_same_folder(tmp_path: Path) -> None:
    """A folder that holds only the reason why nothing began is no run to protect; one with results is."""
    line = {"data": "half_moons", "trainer": {"max_steps": 3}, "run_dir": tmp_path / "a"}
    with pytest.raises(UserError, match="lr=-1"):
        sslmanifold.train(**line, optimizer={"lr": -1})
    assert sslmanifold.train(**line).summary["status"] == "completed"
    with pytest.raises(UserError, match="already holds a run"):
        sslmanifold.train(**line)


@pytest.mark.parametrize(
    ("key", "value", "lines"),
    [
        ("seed", 1, ["seed=1"]),
        (
            "constraint",
            {"_": "orthogonal", "kappa": None},
            ["constraint=orthogonal", "constraint.kappa=null"],
        ),
        ("data", {"classes": [0, 1], "center": True}, ["data.classes=[0,1]", "data.center=true"]),
        ("data", {"path": Path("/a b/it's.npy")}, ["data.path='/a b/it\\'s.npy'"]),
        ("optimizer", {"lr": 1e-3}, ["optimizer.lr=0.001"]),
    ],
)
def test_keywords_become_overrides(key: str, value: Any, lines: list[str]) -> None:
    assert _lines(key, value) == lines


def test_inside_another_hydra_application(tmp_path: Path) -> None:
    """The caller's own Hydra context is there again afterwards."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "own.yaml").write_text("x: 1")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        sslmanifold.train(
            data={"_": "half_moons", "n": 10}, trainer={"max_steps": 1}, run_dir=tmp_path / "run"
        )
        assert GlobalHydra.instance().is_initialized()
        assert compose("own").x == 1
