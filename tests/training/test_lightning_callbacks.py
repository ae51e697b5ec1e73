"""Lightning's own callbacks in a run: they see its rows, and what they log is in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from sslmanifold import load_run
from sslmanifold.errors import UserError
from sslmanifold.models.restore import read_checkpoint
from sslmanifold.runs import Run
from sslmanifold.training.fit import run_training
from sslmanifold.training.resume import resumed_config

THEIRS = "lightning.pytorch.callbacks"
BASE = ("data=half_moons", "trainer.max_steps=40", "trainer.log_every_n_steps=4")


def callback(kind: str, **options: Any) -> list[str]:
    given = [f"+callbacks.x.{key}={value}" for key, value in options.items()]
    return [f"+callbacks.x._target_={THEIRS}.{kind}", *given]


def resumed(compose_config: Callable[..., dict[str, Any]], run: Run, before: list[str], override: str) -> Run:
    """As ``ckpt_path=`` does it: the run's own overrides and the new one, composed."""
    config = resumed_config(
        run.config, OmegaConf.create(compose_config(*before, override)), [override], run.path
    )
    return run_training(config | {"ckpt_path": str(run.path)}, run.path, trust=["lightning"])


@pytest.fixture(scope="module")
def plain(train: Callable[..., Run]) -> Run:
    return train(*BASE)


# -- EarlyStopping ----------------------------------------------------------------------------------------


def test_a_run_that_does_not_improve_is_stopped(
    train: Callable[..., Run], plain: Run, compose_config: Callable[..., dict[str, Any]]
) -> None:
    """train/loss never falls by 1e9 after the first row: patience counts rows."""
    options = callback("EarlyStopping", monitor="train/loss", min_delta=1e9, patience=3)
    stopped = train(*BASE, *options)
    assert stopped.summary["status"] == "stopped"
    assert stopped.summary["steps"] == 16
    assert (
        "callbacks.x: Monitored metric train/loss did not improve in the last 3 records"
        in stopped.summary["reason"]
    )
    assert stopped.summary["reason"].endswith("at step 16 of 40")
    assert stopped.metrics["train/loss"] == plain.metrics["train/loss"][:5]
    patient = resumed(compose_config, stopped, options, "callbacks.x.patience=5")
    assert (patient.summary["status"], patient.summary["steps"]) == ("stopped", 24)
    onward = resumed(compose_config, patient, options, "~callbacks.x")
    assert onward.summary["status"] == "completed"
    assert onward.folder.metrics.read_text() == plain.folder.metrics.read_text()


@pytest.mark.parametrize("monitor", ["train/loss", "ode/deviation", "rank/effective", "train/loss_r1"])
def test_every_logged_key_can_be_monitored(train: Callable[..., Run], monitor: str) -> None:
    """The threshold lies between two rows of the plain run: training stops at the first beyond it."""
    values = train(*BASE, "replicas=2").metrics[monitor][1:]
    mode = "min" if values[-1] < values[0] else "max"
    threshold = (values[0] + values[-1]) / 2
    beyond = [value < threshold if mode == "min" else value > threshold for value in values]
    options = callback(
        "EarlyStopping", monitor=monitor, mode=mode, stopping_threshold=threshold, patience=1000
    )
    run = train(*BASE, "replicas=2", *options)
    assert run.summary["steps"] == 4 * (beyond.index(True) + 1) < 40
    assert "Stopping threshold reached" in run.summary["reason"]


def test_no_callback_stops_before_min_steps(train: Callable[..., Run]) -> None:
    options = callback("EarlyStopping", monitor="train/loss", min_delta=1e9, patience=1)
    assert train(*BASE, *options).summary["steps"] == 8
    assert train(*BASE, *options, "trainer.min_steps=22").summary["steps"] == 22
    assert train(*BASE, *options, "trainer.min_epochs=30").summary["steps"] == 30


def test_rows_without_the_value_are_not_counted(train: Callable[..., Run]) -> None:
    """The probe is due every 20 steps: its old value is no new evidence."""
    options = callback("EarlyStopping", monitor="probe/knn/accuracy", mode="max", min_delta=1, patience=1)
    run = train(*BASE, *options, "callbacks.online_probe.every_n_epochs=20", callbacks="[online_probe]")
    assert run.summary["steps"] == 40


def test_a_diverging_run_is_not_kept_alive(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "constraint=none", "optimizer.lr=0.1", "trainer.min_steps=1000")
    assert run.summary["status"] == "diverged"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (callback("EarlyStopping", monitor="val_loss"), "callbacks.x.monitor=val_loss is not measured"),
        (callback("ModelCheckpoint", monitor="val_loss"), "train/loss"),
        (callback("EarlyStopping", monitor="train/loss", mode="least"), "callbacks.x: `mode` can be"),
        (callback("EarlyStopping", monitor="train/loss", check_on_train_epoch_end="true"), "leave it out"),
        (callback("ModelCheckpoint", every_n_epochs=5), "callbacks.x.every_n_train_steps=100"),
        (callback("StochasticWeightAveraging", swa_lrs=0.1), "averages weights"),
        (callback("WeightAveraging"), "ManifoldAveragedModel"),
        (callback("EMAWeightAveraging"), "EMAWeightAveraging averages weights"),
        (callback("ModelPruning", pruning_fn="l1_unstructured"), "leaves the manifold"),
        (callback("BackboneFinetuning"), "probe=finetune"),
        (callback("LearningRateFinder"), "optimizer.lr=auto"),
        (callback("BatchSizeFinder"), "data.batch_size"),
    ],
)
def test_what_cannot_serve_is_refused_by_name(
    train: Callable[..., Run], options: list[str], said: str
) -> None:
    with pytest.raises(UserError) as refusal:
        train(*BASE, *options)
    assert said in str(refusal.value)
    assert "callbacks.x" in str(refusal.value)


# -- ModelCheckpoint --------------------------------------------------------------------------------------


def test_the_best_rows_are_kept(train: Callable[..., Run], tmp_path: Path) -> None:
    options = callback("ModelCheckpoint", monitor="ode/deviation", mode="min", save_top_k=2)
    run = train(*BASE, *options)
    values = dict(zip(run.metrics["step"][1:], run.metrics["ode/deviation"][1:], strict=True))
    best = sorted(values, key=lambda step: values[step])[:2]
    kept = {path.name for path in (run.path / "checkpoints").glob("*.ckpt")} - {"last.ckpt", "best.ckpt"}
    assert kept == {f"epoch=0-step={int(step)}.ckpt" for step in best}
    for step in best:
        saved = read_checkpoint(run.path / "checkpoints" / f"epoch=0-step={int(step)}.ckpt")
        assert saved["sslmanifold"]["steps_done"] == step
        assert saved["sslmanifold"]["recorder"]["rows"][-1]["ode/deviation"] == values[step]
    elsewhere = train(
        *BASE, *callback("ModelCheckpoint", dirpath=tmp_path / "mine", every_n_train_steps=10, save_top_k=-1)
    )
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        f"epoch=0-step={step}.ckpt" for step in (10, 20, 30, 40)
    }
    assert {path.name for path in (elsewhere.path / "checkpoints").iterdir()} <= {"last.ckpt", "best.ckpt"}


def test_a_run_goes_on_from_any_of_them(
    train: Callable[..., Run], compose_config: Callable[..., dict[str, Any]]
) -> None:
    options = callback("ModelCheckpoint", every_n_train_steps=10, save_top_k=-1)
    run = train(*BASE, *options)
    weights, rows = load_run(run.path).model.weights, run.folder.metrics.read_text()
    checkpoint = str(run.path / "checkpoints" / "epoch=0-step=20.ckpt")
    config = run.config | {"ckpt_path": checkpoint}
    run.folder.summary.unlink()
    again = run_training(config, run.path, trust=["lightning"])
    assert again.folder.metrics.read_text() == rows
    for first, second in zip(weights, load_run(run.path).model.weights, strict=True):
        assert torch.equal(first, second)


# -- loggers ----------------------------------------------------------------------------------------------


def test_learning_rates_are_a_column(train: Callable[..., Run]) -> None:
    """The row after step s holds the rate of step s."""
    options = callback("LearningRateMonitor")
    run = train(*BASE, *options, "scheduler=cosine", "optimizer.lr=0.001")
    from sslmanifold.training.schedule import Cosine

    rates = run.metrics["lr-RiemannianSGD"]
    assert rates[0] != rates[0]  # no step before the first row
    expected = [1e-3 * Cosine().factor(int(step) - 1, 40) for step in run.metrics["step"][1:]]
    assert rates[1:] == pytest.approx(expected)
    plain = train(*BASE, "scheduler=cosine", "optimizer.lr=0.001")
    assert run.metrics["step"] == plain.metrics["step"]
    assert run.metrics["train/loss"] == plain.metrics["train/loss"]
    assert run.summary["lr-RiemannianSGD"] == rates[-1]


def test_device_statistics_are_columns(train: Callable[..., Run]) -> None:
    run = train(*BASE, *callback("DeviceStatsMonitor", cpu_stats="true"))
    assert any("DeviceStatsMonitor" in key for key in run.metrics)
    assert run.metrics["step"] == list(range(0, 41, 4))


class Logs(Callback):
    """Logs a number of its own, the usual way."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.log("mine/batch", float(batch_idx))


class Watches(Callback):
    """Notes what Lightning shows to callbacks, and when."""

    seen: list[tuple[int, float]]

    def __init__(self) -> None:
        self.seen = []
        Watches.seen = self.seen

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append((trainer.global_step, float(trainer.callback_metrics["train/loss"])))


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_callbacks_of_the_users_own(train: Callable[..., Run], logger: str) -> None:
    if logger == "tensorboard":
        pytest.importorskip("tensorboard")
    names = [f"+callbacks.{c.__name__.lower()}._target_={__name__}.{c.__name__}" for c in (Logs, Watches)]
    run = train(*BASE, *names, f"logger={logger}")
    assert run.metrics["mine/batch"][1:] == [step - 1 for step in run.metrics["step"][1:]]
    assert Watches.seen == list(
        zip(map(int, run.metrics["step"][1:]), run.metrics["train/loss"][1:], strict=True)
    )


def test_a_timer_is_max_time(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "trainer.max_steps=1000000", *callback("Timer", duration="'00:00:00:01'"))
    assert run.summary["status"] == "stopped"
    assert "callbacks.x.duration was up at step" in run.summary["reason"]


@pytest.mark.parametrize(
    "options",
    [callback("ModelSummary"), callback("LambdaCallback"), callback("OnExceptionCheckpoint", dirpath="unused"),
     callback("TQDMProgressBar"), callback("RichModelSummary")],
)  # fmt: skip
def test_the_rest_serve_as_they_are(train: Callable[..., Run], plain: Run, options: list[str]) -> None:
    assert train(*BASE, *options).folder.metrics.read_text() == plain.folder.metrics.read_text()
