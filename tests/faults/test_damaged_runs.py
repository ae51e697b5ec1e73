"""A damaged run folder: one clear line from whatever reads it, and the other runs of a sweep are read all the same."""

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sslmanifold import load_run
from sslmanifold.cli import main
from sslmanifold.errors import UserError
from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training

SMALL = ("data.n=40", "trainer.max_steps=12", "callbacks=[spectrum,ode]")


@pytest.fixture(scope="module")
def whole(compose_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, 0 and 1."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        run_training(compose_config("data=half_moons", *SMALL, f"seed={seed}"), folder / str(seed))
    return folder


@pytest.fixture
def sweep(whole: Path, tmp_path: Path) -> Path:
    """A copy of them to damage."""
    shutil.copytree(whole, tmp_path / "sweep")
    return tmp_path / "sweep"


def call(*arguments: str) -> int:
    """``sslmanifold <arguments>`` in this process: its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("this is no such file\n")


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _garbage_line(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"12,\x00\xffgarbage")


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    ("config.yaml", _empty),
    ("config.yaml", _text),
    ("config.yaml", _half),
    ("summary.json", _empty),
    ("summary.json", _half),
    ("summary.json", _folder),
    ("metrics.csv", _garbage_line),
    ("metrics.csv", _folder),
    ("checkpoints/last.ckpt", _empty),
    ("checkpoints/last.ckpt", _text),
    ("checkpoints/last.ckpt", _half),
]
# who needs which file
NEEDED = {
    "probe": ("config.yaml", "checkpoints/last.ckpt"),
    "export": ("config.yaml", "checkpoints/last.ckpt"),
    "report": ("config.yaml", "summary.json", "metrics.csv"),
    "runs": ("config.yaml", "summary.json"),
}


@pytest.mark.parametrize("command", NEEDED)
@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_one_damaged_run_does_not_end_a_sweep(
    command: str, name: str, damage: Callable[[Path], None], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(sweep / "1" / name)
    if command == "export":  # of one run
        options, target = ["formats=[npz]"], sweep / "1"
    else:
        options, target = (["bootstrap=100", "baselines=[]"] if command == "probe" else []), sweep
    status = call(command, str(target), *options)
    out, err = capsys.readouterr()
    said = out + err
    assert "Traceback" not in said
    if name not in NEEDED[command]:
        assert status == 0, said
        return
    assert status in (1, 2), said
    assert Path(name).name in said.replace("\n", "")
    if command == "export":
        return
    assert status == 1  # and the run that is whole has its row
    if command == "probe":
        rows = (sweep / "probes" / "table.csv").read_text().splitlines()[1:]
        assert rows
        assert all(row.startswith("0,") for row in rows)
        assert "not probed: 1: " in said
    elif command == "report":
        assert "\n0,completed," in (sweep / "table.csv").read_text()
        assert Path(name).name in (sweep / "report.md").read_text()
        assert Path(name).name in (sweep / "report.html").read_text()
    else:
        (row,) = [line for line in out.splitlines() if line.startswith("│ 0 ")]
        assert "completed" in row


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_damaged_is_named_where_it_is_read(
    name: str, damage: Callable[[Path], None], sweep: Path
) -> None:
    damage(sweep / "1" / name)
    run = load_run(sweep / "1")
    read: dict[str, Callable[[], Any]] = {
        "config.yaml": lambda: run.config,
        "metrics.csv": lambda: run.metrics,
        "checkpoints/last.ckpt": lambda: run.model,
    }
    if name == "summary.json":
        assert run.summary["status"] == "unreadable"
        assert "summary.json cannot be read" in run.summary["reason"]
        return
    with pytest.raises(UserError, match=Path(name).name) as raised:
        read[name]()
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_resuming_a_damaged_run_is_one_line_or_works(
    name: str, damage: Callable[[Path], None], sweep: Path, compose_config: Callable[..., dict[str, Any]]
) -> None:
    folder = sweep / "1"
    config = compose_config("data=half_moons", *SMALL, "seed=1", "trainer.max_steps=20") | {
        "ckpt_path": str(folder)
    }
    damage(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if (name, damage.__name__) in (("summary.json", "_folder"), ("metrics.csv", "_folder")):
        with pytest.raises(UserError, match=f"{name} cannot be written: Is a directory"):
            run_training(config, folder)
    elif name.startswith("checkpoints"):
        with pytest.raises(UserError, match=r"last\.ckpt cannot be read.*best\.ckpt.*overwrite=true"):
            run_training(config, folder)
        assert {path: path.read_bytes() for path in before} == before
        config["ckpt_path"] = str(folder / "checkpoints" / "best.ckpt")
        assert run_training(config, folder).summary["status"] == "completed"
    else:  # the configuration comes from the command line here, the rest is written anew
        run = run_training(config, folder)
        assert (run.summary["status"], run.summary["steps"]) == ("completed", 20)
        assert len(run.metrics["step"]) > 2


def test_no_flipped_bit_of_a_checkpoint_is_loaded(whole: Path, tmp_path: Path) -> None:
    """torch itself loads most of them without a word."""
    path = tmp_path / "last.ckpt"
    content = (whole / "0" / "checkpoints" / "last.ckpt").read_bytes()
    path.write_bytes(content)
    expected = read_checkpoint(path)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(same, a, b))
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)

    rng = random.Random(0)
    refused = unnoticed = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(read_checkpoint(path), expected)  # the bit says nothing: a date, padding
        except UserError:
            refused += 1
            with suppress(Exception):
                unnoticed += not same(torch.load(path, weights_only=True), expected)
    assert refused > 100
    assert unnoticed > 50


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 5), ("data.n", 60), ("model.embedding", 1), ("loss._target_", "x")]
)
def test_weights_are_not_read_as_another_runs(
    sweep: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep / "0" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    *groups, leaf = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[leaf] = value
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=rf"was trained with {key}=.*config\.yaml says {value}"):
        _ = Run(sweep / "0").model
    assert call("probe", str(sweep / "0"), "baselines=[]", "bootstrap=100") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_whose_data_moved_is_the_same_run() -> None:
    from sslmanifold.runs.identity import other_weights

    saved = {"data": {"path": "/here/x.npy", "root": None, "n": 3}, "seed": 0}
    moved = {"data": {"path": "/there/x.npy", "root": "/there", "n": 3}, "seed": 0}
    assert other_weights(moved, saved) == []
    assert other_weights({"data": {"path": "/here/y.npy", "root": None, "n": 3}, "seed": 0}, saved) == [
        ("data.path", "/here/y.npy", "/here/x.npy")
    ]


def test_a_run_is_not_taken_back(sweep: Path, compose_config: Callable[..., dict[str, Any]]) -> None:
    before = (sweep / "0" / "summary.json").read_bytes()
    config = compose_config("data=half_moons", *SMALL, "trainer.max_steps=5") | {
        "ckpt_path": str(sweep / "0")
    }
    with pytest.raises(UserError, match=r"trainer\.max_steps=5 is less than the 12 steps .* has done"):
        run_training(config, sweep / "0")
    assert (sweep / "0" / "summary.json").read_bytes() == before


def test_what_is_said_of_a_run_with_nothing_left_to_do_is_true(forge: Any, tmp_path: Path) -> None:
    line = ("train", "data=half_moons", *SMALL, "hydra.run.dir=run")
    assert forge.run(*line, cwd=tmp_path)[0] == 0
    status, said = forge.run("train", "ckpt_path=run", cwd=tmp_path)
    assert status == 0, said
    assert "has done its 12 steps: trainer.max_steps=N adds more" in said
    status, said = forge.run("train", "ckpt_path=run", "trainer.max_steps=5", cwd=tmp_path)
    assert status == 2, said
    assert "is less than the 12 steps" in said
    assert "has done its" not in said
