"""Flags and folders as people type them: in any order, with any characters, and one line where they make no sense."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sslmanifold import train
from sslmanifold.cli import main
from sslmanifold.config.arguments import named_folder, quoted, split_flags, unquoted
from sslmanifold.config.compose import composed
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

OWN = Path(__file__).parents[2] / "docs" / "own_groups"
SMALL = ["data=half_moons", "data.n=20", "trainer.max_steps=2", "callbacks=[spectrum]"]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)


def summaries(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(root.rglob("summary.json"))]


def test_a_sweep_flag_after_overrides(tmp_path: Path) -> None:
    assert call("train", *SMALL, "-m", "seed=0,1") == 0
    assert sorted(s["seed"] for s in summaries(tmp_path)) == [0, 1]


@pytest.mark.parametrize("flag", [["--config-dir", str(OWN / "conf")], [f"--config-dir={OWN / 'conf'}"]])
def test_a_config_dir_after_overrides(
    flag: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    assert call("train", "data=spiral", "data.n=20", *flag, "--cfg", "job") == 0
    assert "_target_: my_ssl.Spiral" in capsys.readouterr().out
    sys.modules.pop("my_ssl", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=1", "--fast"], ["unknown flag --fast", "--multirun", "--config-dir"]),
        (["-x"], ["unknown flag -x"]),
        (["seed=1", "--config-dir"], ["--config-dir wants a value"]),
        (["--cfg", "everything"], ["job, hydra, all"]),
        (["--cfg"], ["--cfg wants a value", "--cfg job"]),
        (["--multirun=yes"], ["--multirun takes no value"]),
        (["--experimental-rerun", "x"], ["reads a pickle"]),
        (
            ["+trainer.devices=2"],
            ["trainer.devices is a key already", "set trainer.devices=2"],
        ),
        (["+trainer.deterministic=true"], ["set trainer.deterministic=true"]),
        (["+model.hidden=3"], ["set model.hidden=3"]),
        (["constraint._target_=int"], ["constraint._target_=int", "does not derive"]),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", "data=half_moons", *arguments) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message
    assert "usage:" not in message


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12))
def test_a_quoted_value_is_that_text(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"run={quoted(text)}"])
    assert OmegaConf.create({"run": override.value()}).run == text
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize(
    "path",
    ["a b", "it's", "a,b", "x=1", "[x]", "${seed}", "${", r"\${x}", r"back\slash", "tail\\", "größe", "a:b"],
)
def test_a_folder_of_any_name(path: str) -> None:
    if path != "x=1":  # an override, unless a folder of that name is there
        assert composed("probe", [named_folder(path)]).run == path
    assert composed("probe", [named_folder(f"run={path}")]).run == path


def test_flags_and_their_values() -> None:
    assert split_flags(["a=1", "-cd", "x=1", "b=2", "-i", "-m"]) == (
        ["--config-dir", "x=1", "--info", "all", "--multirun"],
        ["a=1", "b=2"],
    )
    assert split_flags(["--info", "plugins", "DIR"]) == (["--info", "plugins"], ["DIR"])


@pytest.mark.parametrize("name", ["w ${x}", "${oc.env:HOME}", "${"])
def test_a_directory_that_hydra_would_read_an_interpolation_into(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that compose say so in one line; what reads folders, and Python, take any name."""
    run = train(*SMALL, run_dir=tmp_path / name / "run").path
    assert run == tmp_path / name / "run"
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    assert train("trainer.max_steps=4", ckpt_path=run).summary["steps"] == 4
    for command in (
        ["export", str(run), "formats=[npz]"],
        ["probe", str(run), "probe=ridge", "baselines=[]"],
    ):
        assert call(*command) == 0
    assert call("report", str(run)) == 0
    capsys.readouterr()
    assert call("train", f"ckpt_path={run}", "trainer.max_steps=6") == 2
    monkeypatch.chdir(tmp_path / name)
    for command in ("train", "dynamics", "forecast", "reproduce"):
        assert call(command) == 2
    message = capsys.readouterr().err
    assert message.count("has ${ in its name") == len(message.splitlines()) == 5
    assert call("runs", ".") == 0


# -- Python means what the command line does -------------------------------------------------------------


def test_a_run_folder_given_as_on_the_command_line(tmp_path: Path) -> None:
    result = train(*SMALL, f"hydra.run.dir={tmp_path / 'one'}")
    assert result.path == tmp_path / "one"
    assert train(*SMALL, "hydra.run.dir='two, x=1'").path == Path("two, x=1")
    assert train(*SMALL, "hydra.run.dir=three_${now:%Y}").path.name.startswith("three_20")
    assert train(*SMALL, f"hydra.run.dir={tmp_path / 'four'}", run_dir="four").path == tmp_path / "four"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["hydra.run.dir=a", "run_dir"], "name two folders"),
        (["hydra.sweep.dir=a"], "hydra.sweep.dir=a has no meaning in Python"),
        (["hydra/launcher=joblib"], "has no meaning in Python"),
        (["-m"], "the command line has flags"),
        (["hydra.run.dir=${nothing}"], "is no folder: Interpolation key 'nothing' not found"),
    ],
)
def test_what_has_no_meaning_in_python_is_said(lines: list[str], words: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"run_dir": tmp_path / "b"} if "run_dir" in lines else {}
    with pytest.raises(UserError, match=words):
        train(*SMALL, *(line for line in lines if line != "run_dir"), **options)
    assert not list(tmp_path.iterdir())


def test_going_on_from_python(train: Callable[..., Run], tmp_path: Path) -> None:
    import sslmanifold

    first = train(*SMALL, folder=tmp_path / "run")
    copy = shutil.copytree(first.path, tmp_path / "copy")
    whole = train(*SMALL, "trainer.max_steps=6")
    result = sslmanifold.train("trainer.max_steps=6", ckpt_path=copy)
    assert result.path == copy
    assert result.run.metrics["train/loss"][-1] == whole.metrics["train/loss"][-1]
    with pytest.raises(UserError, match="would make another run"):
        sslmanifold.train("seed=5", ckpt_path=copy)
    with pytest.raises(UserError, match="leave run_dir out"):
        sslmanifold.train(ckpt_path=copy, run_dir=tmp_path / "elsewhere")
