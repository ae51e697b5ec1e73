"""Every file of conf/experiment composes, with train and (where its model is linear) with dynamics."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.config.location import config_dir
from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.errors import UserError
from sslmanifold.reproduction import horizon
from sslmanifold.reproduction.descent import descend, last, triplet_loss
from sslmanifold.reproduction.figures import fig3, fig6
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.training.fit import run_training

NAMES = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes(compose_config: Callable[..., dict[str, Any]], name: str) -> None:
    config = compose_config(f"+experiment={name}", "seed=3", "model.hidden=64")
    assert config["seed"] == 3
    assert config["model"]["hidden"] == 64
    assert "experiment" not in config


def test_the_experiments_are_those_of_the_paper() -> None:
    paper = {"fig1_unconstrained", "fig2", "fig3", "fig4", "fig5", "fig6", "theorem2", "constraints"}
    assert paper <= set(NAMES)


@pytest.mark.parametrize("figure", [fig3, fig6])
def test_the_flow_is_asked_about_the_training_that_runs(
    compose_config: Callable[..., dict[str, Any]], figure: ModuleType
) -> None:
    config = compose_config(f"+experiment={figure.PART.name}")
    assert (config["optimizer"]["lr"], config["replicas"]) == (figure.ETA, figure.STARTS)
    assert (config["constraint"]["metric"], config["constraint"]["retraction"]) == ("euclidean", "project")
    assert config["model"]["embedding"] == 1
    assert config["model"]["hidden"] == getattr(figure, "HIDDEN", config["model"]["hidden"])


def test_a_flow_that_does_not_arrive_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "PATIENCE", 1.0)
    constraint = make_constraint("orthogonal", metric="euclidean", retraction="project")
    arguments = (problem(HalfMoons(), 0), constraint, NetworkShape(2, 20, 1), 3, 0)
    with pytest.raises(UserError, match=r"seed=0: .* more than 1e-10 .* set another seed"):
        horizon.steps_to_arrive(*arguments, lr=0.01, tolerance=1e-10)


def test_figure_threes_step_is_the_papers(compose_config: Callable[..., dict[str, Any]]) -> None:
    config = compose_config("+experiment=fig3")
    assert config["constraint"]["retraction"] == "project"
    assert config["optimizer"]["lr"] == 0.01
    assert config["loss"]["reduction"] == "mean"


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_figure_twos_plain_loop_trains_as_its_experiment_does(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path, activation: str
) -> None:
    overrides = [f"model.activation={activation}", "model.hidden=20", "replicas=3", "trainer.max_steps=25"]
    run = run_training(
        compose_config("+experiment=fig2", "seed=2", "trainer.precision=64-true", *overrides), tmp_path
    )
    scene, shape = problem(HalfMoons(), 2), NetworkShape(2, 20, 2)
    constraint = make_constraint("orthogonal", metric="euclidean", retraction="project")
    weights = constraint.initial(shape, streams(2, 3))
    network = last(descend(constraint, shape, weights, triplet_loss(scene.batch), 0.01, 25, activation))
    with torch.no_grad():
        expected = network(scene.x).numpy()
    np.testing.assert_allclose(run.trajectory["embedding_final"], expected, rtol=1e-9, atol=1e-12)
