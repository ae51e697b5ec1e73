"""Every option of every group composes; every experiment and preset runs; a user's own groups join them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sslmanifold import train
from sslmanifold.config.arguments import folders_and_options
from sslmanifold.config.compose import composed
from sslmanifold.config.location import command_dir, config_dir
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

CONF = config_dir()
TRAIN_GROUPS = (
    "augment",
    "callbacks",
    "checkpoint",
    "constraint",
    "data",
    "logger",
    "loss",
    "model",
    "optimizer",
    "scheduler",
    "trainer",
)
OPTIONS = sorted(
    f"{group}={'[' + p.stem + ']' if group == 'callbacks' else p.stem}"
    for group in TRAIN_GROUPS
    for p in (CONF / group).glob("*.yaml")
)
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
PRESETS = sorted(p.stem for p in (CONF / "sweep").glob("*.yaml"))
OWN = Path(__file__).parents[2] / "docs" / "own_groups"


def test_no_group_is_forgotten() -> None:
    known = {*TRAIN_GROUPS, "experiment", "sweep", "probe", "reproduce"}
    assert {p.name for p in CONF.iterdir() if p.is_dir()} <= known


@pytest.mark.parametrize("command", ["train", "dynamics", "forecast", "probe", "export", "reproduce"])
def test_every_plain_key_can_be_set_on_the_command_line(command: str) -> None:
    folder = command_dir(command)
    config = yaml.safe_load((folder / f"{command}.yaml").read_text(encoding="utf-8"))
    plain = [key for key in config if key not in ("defaults", "hydra")]
    assert plain
    # Hydra would take key=value for the choice of a file
    assert [key for key in plain if (folder / key).is_dir()] == []
    assert composed(command, [f"{key}=1" for key in plain])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_its_class_exists(option: str) -> None:
    from sslmanifold.config.targets import locate

    config = composed("train", [option])
    group = config[option.partition("=")[0]]
    for node in group.values() if "_target_" not in group else [group]:
        if hasattr(node, "get") and node.get("_target_"):
            assert locate(node["_target_"], option.partition("=")[0])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_composes_and_its_first_job_too(name: str) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = [f"sweep={name}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("train", overrides=overrides, return_hydra_config=True).hydra
    params = dict(hydra.sweeper.get("params") or {})
    assert bool(params) == (name != "none")
    if name == "none":
        return
    assert hydra.mode.name == "MULTIRUN"
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    first = [f"{o.key_or_group}={next(o.sweep_string_iterator())}" for o in parsed if o.is_discrete_sweep()]
    assert composed("train", first)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    small = composed("train", [f"+experiment={name}"])
    mnist = small.data.get("_target_", "").rpartition(".")[2] in ("MNIST", "FashionMNIST", "KMNIST")
    data = ["data=digits", "data.per_class=null"] if mnist else []  # it needs no files and has the same keys
    result = train(f"+experiment={name}", *data, "trainer.max_steps=3", run_dir=tmp_path)
    assert result.summary["status"] in ("completed", "diverged")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["constraint=orthogonl"], ("orthogonl", "orthogonal", "frobenius")),
        (["optimizer.lrr=1"], ("optimizer.lrr", "did you mean optimizer.lr")),
        (["data.n=-5", "data=half_moons"], ("data.n=-5", "greater than 0")),
        (["model.activation=selu"], ("model.activation=selu", "linear", "tanh", "relu")),
        (["+constraint.radius=2"], ("constraint.radius", "metric")),
        (["trainer.max_steps=many"], ("trainer.max_steps=many", "integer")),
        (["seed=-1"], ("seed=-1", "greater than or equal to 0")),
        (["callbacks=[ode,foo]"], ("there is no foo", "spectrum", "online_probe")),
        (["logger.mode=online"], ("unknown key logger.mode", "choose another logger=")),
    ],
)
def test_a_wrong_key_or_value_lists_the_choices(
    overrides: list[str], words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        train(*overrides, run_dir=tmp_path / "run")
    for word in words:
        assert word in str(raised.value)


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(OWN))
    yield
    sys.modules.pop("my_ssl", None)


def test_own_data_loss_and_constraint(own_module: None, tmp_path: Path) -> None:
    result = train(
        "data=spiral", "loss=logistic_pairs", "constraint=unit_rows", "optimizer.lr=3e-4", "trainer.max_steps=50",
        run_dir=tmp_path / "run", config_dir=OWN / "conf",
    )  # fmt: skip
    s = result.summary
    assert (s["data"], s["loss"], s["constraint"]) == ("spiral", "logistic_pairs", "unit_rows")
    assert s["status"] == "completed"
    assert s["constraint/residual"] < 1e-5
    loss = result.metrics["train/loss"]
    assert loss.iloc[-1] < loss.iloc[0]
    for weight in result.model.weights:
        assert (weight.norm(dim=-1) - 1).abs().max() < 1e-5


def test_own_groups_from_the_command_line(
    own_module: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sslmanifold.commands.train import main

    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "data=spiral",
        "data.n=30",
        "trainer.max_steps=2",
        "callbacks=[spectrum]",
        "optimizer.lr=1e-3",
    ]
    assert main(["--config-dir", str(OWN / "conf"), *arguments, "hydra.run.dir=run"]) == 0
    assert Run(tmp_path / "run").summary["data"] == "spiral"
    assert "data=spiral" in capsys.readouterr().out


def test_wandb_sweep_file_fits_the_command_line() -> None:
    sweep = yaml.safe_load((CONF.parent / "scripts" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    assert sweep["command"][1:3] == ["sslmanifold", "train"]
    values = {
        key: spec.get("values", [spec["value"] if "value" in spec else spec.get("min")])
        for key, spec in sweep["parameters"].items()
    }
    for choice in range(max(map(len, values.values()))):
        overrides = [f"{key}={options[choice % len(options)]}" for key, options in values.items()]
        config = composed("train", overrides)
        assert config.logger.mode == "online"
    from sslmanifold.loggers.weights_and_biases import EXTREMES

    assert sweep["metric"]["name"].removesuffix(".last") in EXTREMES


def test_arguments_of_plain_commands() -> None:
    assert folders_and_options(["a", "run=[b,c]", "out=x=y"], {"out": ""}) == (
        ["a", "b", "c"],
        {"out": "x=y"},
    )
    assert folders_and_options(["run='a b'"], {}) == (["a b"], {})
    assert folders_and_options(["dir/with=sign"], {}) == (["dir/with=sign"], {})
    with pytest.raises(UserError, match="did you mean out"):
        folders_and_options(["ot=1"], {"out": ""})
    with pytest.raises(UserError, match="unknown option --fast"):
        folders_and_options(["--fast"], {"out": ""})


def test_dashboard_shows_what_is_logged() -> None:
    pytest.importorskip(
        "wandb_workspaces", reason="wandb-workspaces is not installed: sslmanifold[dashboard]"
    )
    from sslmanifold.loggers import dashboard
    from sslmanifold.loggers.weights_and_biases import AXES, EXTREMES

    built = dashboard.workspace("team", "project")
    drawn = {
        panel.title: panel for s in built.sections for panel in s.panels if type(panel).__name__ == "LinePlot"
    }
    assert set(drawn) <= {*EXTREMES, "ode/subspace_distance"}
    assert {"rank/effective", "ode/deviation", "train/loss"} <= set(drawn)
    assert all(panel.x in AXES or panel.x.name in AXES for panel in drawn.values())
    assert drawn["ode/deviation"].log_y
    report = dashboard.report("team", "project")
    grids = [b for b in report.blocks if type(b).__name__ == "PanelGrid"]
    assert len(grids) == len(dashboard.SECTIONS)
    assert grids[0].runsets[0].project == "project"
