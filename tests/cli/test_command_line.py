"""The command line as a user meets it: in the same process where that is enough, as a program where it is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslmanifold import __version__
from sslmanifold.cli import main

PROGRAM = [sys.executable, "-m", "sslmanifold"]


def call(*arguments: str) -> int:
    """``sslmanifold <arguments>`` in this process: its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the process's own arguments and environment afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("HYDRA_FULL_ERROR", "SSLMANIFOLD_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SSLMANIFOLD_DATA", raising=False)
    return tmp_path


def run_folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("summary.json"))


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    assert "sslmanifold train" in capsys.readouterr().out
    assert call() == 0
    assert call("--version") == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


def test_help_is_quick() -> None:
    """Nothing heavy is imported; measured as the best of three, so that a busy machine does not decide."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0


def test_the_default_run_as_a_program(scratch: Path) -> None:
    """From an empty folder, offline: the table, the folder, and less than 1.5 GB of memory."""
    code = (
        "import resource, sys; sys.argv = ['sslmanifold', 'train']\n"
        "from sslmanifold.cli import main\n"
        "try: main()\n"
        "finally: print('PEAK_KB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=scratch)
    assert done.returncode == 0, done.stderr
    for words in ("optimum L*", "effective rank", "ODE deviation", "constraint residual", "run folder"):
        assert words in done.stdout
    (folder,) = run_folders(scratch)
    assert len(list((folder / "figures").glob("*.png"))) == 4
    peak = int(done.stdout.split("PEAK_KB")[1]) * 1024
    assert peak < 1.5e9


def test_tanh_without_constraint(scratch: Path) -> None:
    options = ["data=half_moons", "model.activation=tanh", "constraint=none", "trainer.max_steps=30"]
    assert call("train", *options) == 0
    (folder,) = run_folders(scratch)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 30
    assert summary["rank/effective"] < 1.05


def test_mnist_two_classes(scratch: Path, mnist_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["data=mnist", f"data.root={mnist_root}", "data.classes=[0,1]", "data.per_class=200"]
    assert call("train", *options, "model.hidden=1000", "constraint=orthogonal", "trainer.max_steps=40") == 0
    assert "data=mnist" in capsys.readouterr().out


def test_wandb_is_offline(scratch: Path) -> None:
    options = ["loss=noncontrastive", "constraint=operator_norm", "logger=wandb", "trainer.max_steps=20"]
    assert call("train", *options, "callbacks=[spectrum,figures]") == 0
    (folder,) = run_folders(scratch)
    assert list(folder.rglob("*.wandb"))
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"


def test_a_sweep_over_constraints_and_seeds(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constraints = "none,frobenius,operator_norm,scaled,orthogonal"
    options = ["data=half_moons", "trainer.max_steps=15", "callbacks=[spectrum,ode]"]
    assert call("train", "-m", f"constraint={constraints}", "seed=0,1", *options) == 0
    summaries = [json.loads((f / "summary.json").read_text()) for f in run_folders(scratch)]
    assert len({(s["constraint"], s["seed"]) for s in summaries}) == 10
    capsys.readouterr()


def test_an_infeasible_job_leaves_the_others(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["data=half_moons", "trainer.max_steps=5", "callbacks=[spectrum]"]
    assert call("train", "-m", "model.hidden=1,8", *options) != 0
    statuses = sorted(json.loads((f / "summary.json").read_text())["status"] for f in run_folders(scratch))
    assert statuses == ["completed", "failed"]
    captured = capsys.readouterr()
    assert "needs h ≥ z, got h=1, z=2" in captured.out + captured.err


BAD = [
    (["model.hidden=10"], ["needs h ≥ d, got h=10, d=64", "model.hidden=64", "data.pca=10"]),
    (["data=half_moons", "model.hidden=1"], ["needs h ≥ z", "model.hidden=2"]),
    (
        ["model.hiden=10"],
        ["unknown key model.hiden", "activation, embedding, hidden", "did you mean model.hidden"],
    ),
    (["+model.foo=1"], ["unknown key model.foo", "activation, embedding, hidden"]),
    (["constrain=none"], ["unknown key constrain", "constraint", "optimizer"]),
    (["constraint=foo"], ["constraint/foo", "frobenius", "orthogonal"]),
    (["constraint.metric=foo"], ["constraint.metric=foo", "grassmann", "euclidean", "canonical"]),
    (["~callbacks.foo"], ["unknown key callbacks.foo", "spectrum"]),
    (["data.classes=[0,11]"], ["no class 11", "0, 1, 2"]),
    (["data=mnist"], ["train-images-idx3-ubyte", "data.root", "data.download=true"]),
    (["data=array"], ["data.path is missing", "data.path="]),
    (["data=array", "data.path=nowhere.npy"], ["data.path=nowhere.npy", "no such file"]),
    (["optimizer.lr=-1"], ["optimizer.lr=-1", "positive"]),
    (["optimizer.lr=0"], ["optimizer.lr=0", "positive"]),
    (["optimizer.lr=fast"], ["optimizer.lr=fast", "auto"]),
    (["constraint=frobenius", "constraint.c1=0"], ["constraint.c1=0", "greater than 0"]),
    (["trainer.max_steps=0"], ["trainer.max_steps=0", "greater than 0"]),
    (["model.embedding=0"], ["model.embedding=0", "greater than 0"]),
    (["model.hidden=wide"], ["model.hidden=wide", "auto"]),
    (["data=half_moons", "data.n=0"], ["data.n=0"]),
    (["seed=-1"], ["seed=-1"]),
    (["replicas=0"], ["replicas=0"]),
    (["trainer.max_step=5"], ["unknown key trainer.max_step", "did you mean trainer.max_steps"]),
    (["+trainer.foo=5"], ["unknown key trainer.foo"]),
    (["+trainer.strategy=fsdp"], ["trainer.strategy=fsdp", "ddp"]),
    (["trainer.stratgy=ddp"], ["unknown key trainer.stratgy", "did you mean trainer.strategy"]),
    (["+trainer.devices=2"], ["trainer.devices is a key already", "set trainer.devices=2"]),
    (["trainer.limit_train_batches=0"], ["trainer.limit_train_batches=0", "nothing to train on"]),
    (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "bf16-mixed"]),
    (["trainer.precision=banana"], ["banana"]),
    (
        ["optimizer=adam", "callbacks.ode.approximate=false"],
        ["optimizer=sgd", "RiemannianAdam", "~callbacks.ode"],
    ),
    (
        ["loss=infonce", "data.batch_size=64", "callbacks.ode.follow=population"],
        ["callbacks.ode.follow=population", "minibatches", "~callbacks.ode"],
    ),
    (["data.batch_size=64", "callbacks.ode.every=5"], ["callbacks.ode.every=5", "set callbacks.ode.every=1"]),
    (["callbacks.ode.every=0"], ["callbacks.ode.every=0", "set callbacks.ode.every=1"]),
    (["checkpoint=null"], ["checkpoint=null", "~checkpoint"]),
    (["callbacks=null"], ["callbacks=null", "callbacks=[]"]),
    (["loss=null"], ["loss=null", "contrastive", "spectral"]),
    (["constraint=none,frobenius"], ["constraint=none,frobenius", "--multirun"]),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_a_mistake_is_one_message(
    overrides: list[str], words: list[str], scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", *overrides) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 8
    assert not list(scratch.rglob("*.ckpt"))


def test_nan_in_the_data_names_the_rows(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    points = np.ones((6, 3))
    points[[1, 4]] = np.nan
    np.save(scratch / "points.npy", points)
    assert call("train", "data=array", "data.path=points.npy") == 2
    assert "x[1, 0] (6 such values: row [1], row [4])" in capsys.readouterr().err
    np.save(scratch / "empty.npy", np.ones((0, 3)))
    assert call("train", "data=array", "data.path=empty.npy") == 2
    assert "empty" in capsys.readouterr().err


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("trian") == 2
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_cleanly(scratch: Path, number: signal.Signals) -> None:
    """The step in hand is finished, the folder is complete, the status says what happened."""
    command = [
        *PROGRAM,
        "train",
        "data=half_moons",
        "trainer.max_steps=1000000",
        f"hydra.run.dir={scratch / 'run'}",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    metrics = scratch / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 5) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    summary = json.loads((scratch / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert number.name in summary["reason"]
    assert 0 < summary["steps"] < 1000000
    assert (scratch / "run" / "checkpoints" / "last.ckpt").exists()
