"""Every file of conf/experiment composes, with train and (where its model is linear) with dynamics."""

from collections.abc import Callable
from typing import Any

import pytest

from sslmanifold.config.location import config_dir

NAMES = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes(compose_config: Callable[..., dict[str, Any]], name: str) -> None:
    config = compose_config(f"+experiment={name}", "seed=3", "model.hidden=64")
    assert config["seed"] == 3
    assert config["model"]["hidden"] == 64
    assert "experiment" not in config


def test_the_experiments_are_those_of_the_paper() -> None:
    assert {"fig1_unconstrained", "fig3", "fig4", "fig5", "fig6", "theorem2", "constraints"} <= set(NAMES)


def test_figure_threes_step_is_the_papers(compose_config: Callable[..., dict[str, Any]]) -> None:
    config = compose_config("+experiment=fig3")
    assert config["constraint"]["retraction"] == "project"
    assert config["optimizer"]["lr"] == 0.01
    assert config["loss"]["reduction"] == "mean"
