"""A run folder from somebody else: of what its config.yaml names only this package's own classes are ever built."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sslmanifold import load_run, train
from sslmanifold.cli import main
from sslmanifold.commands.export import export_run
from sslmanifold.commands.probe import probe_runs
from sslmanifold.config.targets import KINDS, locate, trusted_packages
from sslmanifold.errors import UserError
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training

OWN = Path(__file__).parents[2] / "docs" / "own_groups"
PROBE: dict[str, Any] = {
    "run": "", "probe": {"ridge": {"_target_": "sslmanifold.probes.classifiers.Ridge"}}, "bootstrap": 100,
    "validation": 0.2, "seed": 0, "threads": 1, "baselines": ["ode"], "weights": "last", "project": False,
}  # fmt: skip


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def openings(folder: Path) -> dict[str, Callable[[], Any]]:
    """Every way to build from a run folder."""
    return {
        "model": lambda: load_run(folder).model,
        "embed": lambda: load_run(folder).embed([[0.0, 0.0]]),
        "probe": lambda: probe_runs(PROBE | {"run": str(folder)}),
        "export": lambda: export_run({"run": str(folder), "formats": ["npz"]}),
        "resume": lambda: run_training(Run(folder).config | {"ckpt_path": str(folder)}, folder),
        "train": lambda: train("trainer.max_steps=30", ckpt_path=folder),
    }


@pytest.mark.parametrize("group", ["model", "constraint", "data"])
@pytest.mark.parametrize("opening", ["model", "embed", "probe", "export", "resume", "train"])
def test_a_command_in_a_folder_is_not_run(
    group: str, opening: str, foreign: Callable[..., Path], tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    folder = foreign(**{group: {"_target_": "os.system", "command": f"touch {touched}"}})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if group == "data" and opening in ("model", "embed", "export"):  # these need no data, so they build none
        openings(folder)[opening]()
    else:
        with pytest.raises(UserError) as raised:
            openings(folder)[opening]()
        message = str(raised.value)
        for part in (
            f"{group}._target_",
            "os.system",
            str(folder),
            "trust=my_package",
            'trust=["my_package"]',
        ):
            assert part in message
        assert len(message.splitlines()) == 1
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not touched.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.exec",
        "int",
        "subprocess.Popen",
        "sslmanifold.cli.main",
        "sslmanifold.runs.os.system",
        "sslmanifold.runs.folder.os",
        "sslmanifold.runs.folder.os.system",
        "sslmanifold.config.targets.import_module",
        "sslmanifold.losses.torch.load",
        "sslmanifold.losses.Field",
        "sslmanifold.constraints.base.Constraint",
        "sslmanifold.constraints.registry.import_module",
        "sslmanifold.constraints.nowhere.Orthogonal",
        "sslmanifold.models.TwoLayer",
        "sslmanifold.data.HalfMoons",
        "sslmanifold.training.fit.run_training",
        "sslmanifold..constraints.Orthogonal",
        "sslmanifold.constraints.Orthogonal.__init__",
        "antigravity.anything",
        "no_such_package.Constraint",
        "../evil.Constraint",
        "sslmanifold.constraints.Orthogonal\nos.system",
        "",
        None,
        3,
        ["sslmanifold.constraints.Orthogonal"],
        {"_target_": "os.system"},
    ],
)
def test_a_target_that_is_no_constraint_is_refused_without_an_import(
    target: Any, foreign: Callable[..., Path]
) -> None:
    folder = foreign(constraint={"_target_": target})
    loaded = set(sys.modules)
    with pytest.raises(UserError, match="constraint"):
        _ = load_run(folder).model
    new = {
        name for name in set(sys.modules) - loaded if not name.startswith(("sslmanifold", "torch", "geoopt"))
    }
    assert "antigravity" not in sys.modules
    assert "no_such_package" not in new


@pytest.mark.parametrize("group", sorted(set(KINDS) - {"probe"}))
def test_every_group_is_guarded_on_resume(group: str, foreign: Callable[..., Path], tmp_path: Path) -> None:
    evil = {"_target_": "os.system", "command": f"touch {tmp_path / 'touched'}"}
    folder = foreign(**{group: {"evil": evil} if group == "callbacks" else evil})
    with pytest.raises(UserError, match=r"os\.system in .*trust="):
        train(ckpt_path=folder, trainer={"max_steps": 30})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("group", sorted(set(KINDS) - {"probe"}))
def test_a_class_deeper_down_is_refused(
    group: str, real: Run, foreign: Callable[..., Path], tmp_path: Path
) -> None:
    evil = {"_target_": "os.system", "command": f"touch {tmp_path / 'touched'}"}
    own = dict(real.config.get(group) or {"_target_": "sslmanifold.data.Augmentation"})
    if group == "callbacks":
        own["spectrum"] = own["spectrum"] | {"centered": {"of": [evil]}}
    else:
        own["extra"] = [{"inner": evil}]
    folder = foreign(**{group: own})
    with pytest.raises(UserError, match=r"_target_=os\.system in .*trust="):
        train(ckpt_path=folder, trainer={"max_steps": 30})
    assert not (tmp_path / "touched").exists()


def test_a_stranger_cannot_trust_itself(foreign: Callable[..., Path], tmp_path: Path) -> None:
    folder = foreign(
        trust=["os"], constraint={"_target_": "os.system", "command": f"touch {tmp_path / 'touched'}"}
    )
    for opening in openings(folder).values():
        with pytest.raises(UserError, match=r"os\.system"):
            opening()
    assert not (tmp_path / "touched").exists()


def test_trust_names_a_package_and_its_classes_must_still_be_of_the_kind(
    foreign: Callable[..., Path],
) -> None:
    folder = foreign(constraint={"_target_": "os.system", "command": "true"})
    with pytest.raises(UserError, match=r"is a builtin_function_or_method, not a class of constraint"):
        _ = load_run(folder, trust=["os"]).model
    assert trusted_packages(None) == ()
    assert trusted_packages("one,two") == trusted_packages(["one", "two"]) == ("one", "two")
    for blanket in (True, "*", "", ["my_package", ""], 1, "my-package"):
        with pytest.raises(UserError, match="name the package"):
            trusted_packages(blanket)


@pytest.fixture
def own_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A run of the user's own data, loss and constraint."""
    monkeypatch.syspath_prepend(str(OWN))
    yield train(
        "data=spiral", "data.n=40", "loss=logistic_pairs", "constraint=unit_rows", "optimizer.lr=3e-4",
        "trainer.max_steps=5", "callbacks=[spectrum]", run_dir=tmp_path / "own", config_dir=OWN / "conf",
    ).path  # fmt: skip
    sys.modules.pop("my_ssl", None)


def test_own_groups_train_freely_and_are_opened_with_trust(
    own_run: Path, capsys: Any, monkeypatch: Any
) -> None:
    with pytest.raises(UserError) as raised:
        _ = load_run(own_run).model
    for part in ("constraint._target_=my_ssl.UnitRows", "trust=my_ssl", 'trust=["my_ssl"]', str(own_run)):
        assert part in str(raised.value)
    x = torch.zeros(3, 2)
    assert load_run(own_run, trust=["my_ssl"]).embed(x).shape == (3, 2)
    monkeypatch.setattr(sys, "argv", sys.argv)
    options = ("probe=ridge", "bootstrap=100", "baselines=[pca]")
    assert call("probe", str(own_run), *options) == 2
    assert "trust=my_ssl" in capsys.readouterr().err
    assert call("probe", str(own_run), *options, "trust=my_ssl") == 0
    assert call("export", str(own_run), "formats=[npz]") == 2
    assert call("export", str(own_run), "formats=[npz]", "trust=[my_ssl]") == 0
    assert call("train", f"ckpt_path={own_run}", "trainer.max_steps=8") == 2
    assert "trust=my_ssl" in capsys.readouterr().err
    assert Run(own_run).summary["steps"] == 5
    assert call("train", f"ckpt_path={own_run}", "trainer.max_steps=8", "trust=my_ssl") == 0
    assert Run(own_run).summary["steps"] == 8
    assert "trust" not in Run(own_run).config
    assert call("report", str(own_run)) == 0
    assert call("runs", str(own_run)) == 0


def test_own_module_out_of_reach_is_one_line(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sys.modules.pop("my_ssl", None)
    with pytest.raises(UserError, match=r"my_ssl\.UnitRows cannot be imported.*PYTHONPATH="):
        _ = load_run(own_run, trust="my_ssl").model


def test_a_sweep_of_own_groups_goes_on_without_trust(own_run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The line is typed again, so every class in it is the user's choice."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    line = [
        "-m", "--config-dir", str(OWN / "conf"), "data=spiral", "data.n=40", "constraint=unit_rows", "seed=0,1",
        "loss=logistic_pairs", "optimizer.lr=3e-4", "trainer.max_steps=5", "callbacks=[spectrum]",
        "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    assert call("train", *line) == 0
    (tmp_path / "sweep" / "1" / "summary.json").unlink()
    assert call("train", *line, "resume=true") == 0
    assert Run(tmp_path / "sweep" / "1").summary["status"] == "completed"


WRONG = [
    ("loss._target_=int", "is no loss: it has no __call__"),
    ("loss._target_=sslmanifold.losses.contrastive_loss", "is a function, not a class of loss"),
    ("model._target_=os.system", "is a builtin_function_or_method, not a class of model"),
    ("model._target_=int", "is no model: it has no shape, build"),
    ("model._target_=sslmanifold.constraints.Scaled", "is no model"),
    ("constraint._target_=os.getcwd", "not a class of constraint"),
    ("constraint._target_=int", "does not derive from sslmanifold.constraints.Constraint"),
    ("data._target_=sslmanifold.data.PairData", "is abstract, it lacks read"),
    ("data._target_=dict", "does not derive from sslmanifold.data.PairData"),
    ("optimizer._target_=int", "does not derive from torch.optim.Optimizer"),
    ("optimizer._target_=torch.optim.sgd.sgd", "is a function, not a class of optimizer"),
    ("scheduler._target_=int", "is no schedule: it has no factor"),
    ("logger._target_=int", "is no logger"),
    ("checkpoint._target_=int", "is no checkpointing"),
    ("callbacks.spectrum._target_=int", "is no callback"),
    ("constraint._target_=nowhere.Class", "cannot be imported: No module named 'nowhere'"),
    ("constraint._target_=sslmanifold.constraints.Nothing", "cannot be imported"),
    ("constraint._target_=null", "names no class"),
    ("constraint._target_=3", "is no path of a class"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_a_typed_target_of_the_wrong_kind_is_one_line(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as raised:
        train("data=half_moons", line, "trainer.max_steps=2", run_dir=tmp_path / "run")
    assert line.partition("._target_")[0] in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_what_a_class_of_ones_own_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model_lacking.py").write_text(
        "class Model:\n    def shape(self): ...\n    def build(self): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"_target_": "own_model_lacking.Model"}
    from sslmanifold.config.check import build_group

    with pytest.raises(UserError, match="own_model_lacking.Model is no model, it has no layers, activation"):
        build_group(config, "model")


def test_a_folder_that_is_opened_fetches_nothing(foreign: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    folder = foreign(data={"_target_": "sslmanifold.data.MNIST", "root": str(root), "download": True})
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        probe_runs(PROBE | {"run": str(folder)})
    assert not root.exists()


def test_recorded_overrides_are_never_a_command_line(
    foreign: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``.hydra/overrides.yaml`` comes with the folder: nothing in it reaches Hydra's own configuration."""
    touched = tmp_path / "touched"
    folder = foreign()
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"# @package hydra.callbacks\nx:\n  _target_: os.system\n  command: touch {touched}\n")
    here = f"../../../../../../../../../../..{evil.with_suffix('')}"
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(
        yaml.safe_dump(
            [
                f"--config-dir={tmp_path}", "-m", "data=half_moons", f"+sweep={here}", f"sweep={here}",
                f"+hydra/callbacks={here}", "+hydra.callbacks.x._target_=os.system",
                f"+hydra.callbacks.x.command='touch {touched}'", "+optimizer@hydra.callbacks.y=sgd",
                f"hydra.run.dir={tmp_path / 'other'}", "trust=os", "overwrite=true", {"a": 1}, 3, "seed=0,1", "}{",
            ]
        )
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    assert call("train", f"ckpt_path={folder}", "trainer.max_steps=30") == 0
    assert not touched.exists()
    assert not (tmp_path / "other").exists()
    assert Run(folder).summary["steps"] == 30


def test_every_own_class_can_be_named_by_a_folder() -> None:
    """Each yaml of conf/ names a class that an opened folder may name too."""
    from sslmanifold.config.location import config_dir
    from sslmanifold.config.targets import Opened

    seen = 0
    for path in config_dir().glob("*/*.yaml"):
        group = path.parent.name
        if group not in KINDS:
            continue
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        nodes = [content] if "_target_" in content else [v for v in content.values() if isinstance(v, dict)]
        for node in nodes:
            if node.get("_target_"):  # loss=own has none
                assert locate(node["_target_"], group, Opened(Path("DIR")))
                seen += 1
    assert seen > 30
