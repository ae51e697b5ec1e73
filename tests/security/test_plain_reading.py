"""What a folder says stays text: nothing in it is resolved, expanded, formatted, or read as a command to a terminal."""

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sslmanifold import load_run
from sslmanifold.cli import main
from sslmanifold.errors import UserError, printable
from sslmanifold.report.write import write_report
from sslmanifold.runs import Run, RunFolder
from sslmanifold.runs.plain_yaml import read_yaml, yaml_text

SECRET = "hunter2"
# a colour, a title, a cursor that moves up and erases, a carriage return, 8-bit CSI, a line that turns around
STEERING = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[1A\x1b[2K\rgone\x9b31m\u202egpj.exe"
MARKUP = "[bold red]loud[/] [link=file:///etc/passwd]x[/link] [/]"
TAGS = "<img src=x onerror=window.hit=1><script>window.hit=1</script>\"'><b>bold</b>"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("SECRET", SECRET)


def changed(folder: Path, name: str, **values: Any) -> None:
    """Values put into a file of a run by hand."""
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    else:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


# -- interpolations and YAML ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["${oc.env:SECRET}", "${oc.decode:'1'}", "${hydra:runtime.cwd}", "${now:%Y}", "${seed}", "${", r"\${x}"],
)
def test_interpolations_are_text(
    text: str, foreign: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = dict(Run(foreign()).config)
    shutil.rmtree("foreign")
    folder = foreign(
        seed=text, data=config["data"] | {"noise": text}, trainer=config["trainer"] | {"precision": text}
    )
    run = load_run(folder)
    assert run.config["seed"] == text
    assert run.model.shape.dim == 2
    if "SECRET" not in text and text != "${":  # one that would resolve and one that does not parse say enough
        return
    assert call("runs", str(folder)) == 0
    assert call("report", str(folder)) == 0
    assert call("probe", str(folder), "bootstrap=100") == 2
    assert call("train", f"ckpt_path={folder}", "trainer.max_steps=30") == 2
    everything = capsys.readouterr()
    assert SECRET not in everything.out + everything.err
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch touched']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:subprocess.Popen [['touch', 'touched']]",
        "a: &a [x, x]\nb: [*a, *a, *a, *a, *a, *a, *a, *a]",
        "a: " + "[" * 20_000,
        "a: " + "9" * 5_000,
        "x: 1\n" * 60_000,
        "- a\n- b\n",
        "\x00",
        "a: [1, 2",
    ],
)
def test_yaml_that_is_no_configuration_is_one_line(text: str, real: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(real.path, folder)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read") as raised:
        _ = load_run(folder).config
    assert len(str(raised.value).splitlines()) == 1
    assert not Path("touched").exists()
    write_report([folder])


def test_a_configuration_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    config = {
        "n": 20, "y": "yes", "text": "1e-3", "number": 1e-3, "small": 1e-12, "large": 1e22, "date": "2020-01-01",
        "none": None, "path": "/tmp/${x}/${", "list": [1, 2.5, "x", [True]], "inf": float("inf"), "true": "true",
        "lines": "one\ntwo", "é": "ö", "nested": {"": 1, "1": {"~": "null"}}, "hex": "0x1f", "time": "12:30:00",
        "escape": "\x1b[31m", "empty": {}, "quote": "it's \"so\"",
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml_text(config), encoding="utf-8")
    assert read_yaml(path) == config
    path.write_text("lr: 1e-3\nother: 1_000\n")  # as a person writes it
    assert read_yaml(path) == {"lr": 1e-3, "other": 1000}


# -- sizes ----------------------------------------------------------------------------------------------


def test_json_without_end_is_a_reason(foreign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = foreign()
    for text in ('{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "[]", "\x00"):
        (folder / "summary.json").write_text(text)
        summary = Run(folder).summary
        assert summary["status"] == "unreadable"
        assert "summary.json cannot be read" in summary["reason"]
    monkeypatch.setattr("sslmanifold.runs.folder.LARGEST_JSON", 10)
    (folder / "summary.json").write_text('{"status": "completed"}')
    assert Run(folder).summary["reason"] == "summary.json cannot be read: it has 23 bytes"
    monkeypatch.undo()
    (folder / "probes").mkdir()
    (folder / "probes" / "knn.json").write_text('{"a": ' + "[" * 100_000)
    (folder / "sweep.json").write_text('{"line": ' + "[" * 100_000)
    write_report([folder])


def test_a_bomb_is_not_unpacked(foreign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An array a thousand times as large as its file, and a header that claims 80 terabytes."""
    folder = foreign()
    path = folder / "trajectory.npz"
    np.savez_compressed(path, ode_loss=np.zeros(4_000_000))
    assert path.stat().st_size < 40_000
    assert Run(folder).trajectory["ode_loss"].shape == (4_000_000,)
    monkeypatch.setattr("sslmanifold.runs.run.memory", lambda: 10_000_000)
    with pytest.raises(UserError, match=r"unpacks to 0\.032 GB, more than half of this machine's memory"):
        _ = Run(folder).trajectory
    monkeypatch.undo()

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ode_loss.npy", header.getvalue() + b"\0" * 80)
    with pytest.raises(UserError, match=r"trajectory\.npz cannot be read"):
        _ = Run(folder).trajectory
    write_report([folder])  # without its charts


# -- the terminal ---------------------------------------------------------------------------------------


def test_printable() -> None:
    assert printable("plain, Größe λ₁ 👍\n\ttabbed") == "plain, Größe λ₁ 👍\n\ttabbed"
    shown = printable(STEERING)
    assert shown.isprintable()
    assert r"\x1b[31mred" in shown
    assert "\\rgone" in shown
    assert printable("\udcff") == r"\udcff"  # a file name that is no UTF-8


def test_a_message_about_a_folder_steers_no_terminal(
    foreign: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(constraint={"_target_": f"{STEERING}.x"}, model={"_target_": 3})
    assert call("export", str(folder)) == 2
    assert call("probe", str(folder)) == 2
    assert call("train", f"ckpt_path={folder}", "trainer.max_steps=30") == 2
    printed = capfd.readouterr()
    assert not set(printed.out + printed.err) & {"\x1b", "\r", "\x07", "\x9b", "\u202e"}


def test_a_finished_run_is_printed_as_text(
    foreign: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from sslmanifold.report.terminal import print_run

    folder = foreign()
    changed(
        folder,
        "summary.json",
        reason=f"{STEERING}{MARKUP}",
        data=STEERING,
        **{"train/loss": f"{MARKUP}{STEERING}"},
    )
    print_run(Run(folder))
    assert not set(capfd.readouterr().out) & {"\x1b", "\r", "\x07", "\x9b", "\u202e"}


def test_reading_leaves_the_folder_alone(foreign: Callable[..., Path]) -> None:
    folder = foreign()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run = load_run(folder)
    _ = run.config, run.summary, run.metrics, run.trajectory, run.model
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert isinstance(run.folder, RunFolder)
