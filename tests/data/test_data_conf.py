"""The yaml of each data set and loss: every argument, at its default."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted([*(CONF / "data").glob("*.yaml"), *(CONF / "loss").glob("*.yaml")])
FILES.remove(CONF / "loss" / "own.yaml")  # names no class of this package


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_yaml_lists_every_argument_at_its_default(path):
    options = OmegaConf.to_container(OmegaConf.load(path))
    module, _, name = options.pop("_target_").rpartition(".")
    target = getattr(import_module(module), name)
    parameters = inspect.signature(target).parameters
    assert set(options) == set(parameters)
    for key, value in options.items():
        default = parameters[key].default
        assert value == ("???" if default is inspect.Parameter.empty else default), key


def test_data_set_names_are_the_files():
    import sslmanifold.data

    for path in (CONF / "data").glob("*.yaml"):
        target = OmegaConf.load(path)["_target_"].rpartition(".")[2]
        assert getattr(sslmanifold.data, target).name == path.stem
