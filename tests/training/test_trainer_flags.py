"""Lightning's trainer flags: the numbers of a run mean what the flags say."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from sslmanifold.errors import UserError
from sslmanifold.runs import Run, RunFolder
from sslmanifold.training.experiment import Experiment
from sslmanifold.training.fit import run_training
from sslmanifold.training.lightning_trainer import build_trainer
from sslmanifold.training.resume import resumed_config
from sslmanifold.training.trainer_flags import EFFECTS, REFUSED, TrainerFlags

BASE = ("data=gaussian", "data.dim=5", "data.n=60", "model.hidden=12", "loss.reduction=mean",
        "trainer.precision=64-true", "trainer.log_every_n_steps=1000")  # fmt: skip
FOLLOW = "callbacks.ode.follow=batches"
CONSTRAINTS = ("orthogonal", "frobenius", "operator_norm", "scaled", "product", "none")


def run(train: Callable[..., Run], lr: float, *overrides: str, time: float = 0.4) -> Run:
    return train(*BASE, f"optimizer.lr={lr}", f"trainer.max_steps={round(time / lr)}", *overrides)


def deviation(train: Callable[..., Run], lr: float, *overrides: str) -> float:
    return run(train, lr, *overrides).summary["ode/deviation_max"]


def same_weights(a: Run, b: Run, atol: float = 1e-12) -> None:
    for first, second in zip(a.model.weights, b.model.weights, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=atol)


# -- accumulation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluate", ["moment", "samples"])
def test_accumulated_full_batches_are_one_step(train: Callable[..., Run], evaluate: str) -> None:
    options = (f"loss.evaluate={evaluate}",)
    plain, accumulated = (
        run(train, 0.02, *options, *extra) for extra in ((), ("trainer.accumulate_grad_batches=3",))
    )
    assert accumulated.summary["steps"] == 20
    assert accumulated.summary["ode/time"] == pytest.approx(0.4)
    same_weights(plain, accumulated)
    for key in ("train/loss", "ode/deviation", "ode/deviation_max"):
        assert accumulated.summary[key] == pytest.approx(plain.summary[key], rel=1e-9)


@pytest.mark.parametrize("constraint", ["orthogonal", "scaled"])
def test_two_halves_of_a_batch_are_the_batch(train: Callable[..., Run], constraint: str) -> None:
    """The same pass in batches of 20, or of 10 two at a time: means of means of equal size."""
    whole = run(train, 0.02, "data.batch_size=20", FOLLOW, f"constraint={constraint}")
    halves = run(
        train,
        0.02,
        "data.batch_size=10",
        FOLLOW,
        f"constraint={constraint}",
        "trainer.accumulate_grad_batches=2",
    )
    same_weights(whole, halves)
    assert halves.summary["steps"] == 20
    for key in ("train/loss", "ode/time", "ode/deviation_max"):
        assert halves.summary[key] == pytest.approx(whole.summary[key], rel=1e-9)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_flow_follows_accumulated_batches_at_first_order(
    train: Callable[..., Run], reduction: str
) -> None:
    """Batches of unequal size (60 = 3 · 16 + 12); other batches at other lr, so the ratio scatters about 4."""
    options = (
        "data.batch_size=16",
        "trainer.accumulate_grad_batches=3",
        FOLLOW,
        f"loss.reduction={reduction}",
    )
    scale = 1 / 16 if reduction == "sum" else 1.0
    coarse, fine = (
        run(train, lr * scale, *options, time=0.4 * scale).summary["ode/deviation_max"]
        for lr in (0.01, 0.0025)
    )
    assert fine < 0.4 * coarse < 0.01


def test_the_accumulation_scheduler_is_the_flag(train: Callable[..., Run]) -> None:
    scheduler = "+callbacks.x._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler"
    options = ("data.batch_size=10", FOLLOW)
    flag = run(train, 0.02, *options, "trainer.accumulate_grad_batches=2")
    callback = run(train, 0.02, *options, scheduler, "+callbacks.x.scheduling={0:2}")
    same_weights(flag, callback, atol=0.0)
    assert callback.summary["steps"] == 20
    assert callback.summary["trainer/accumulate_grad_batches"].startswith("2: ")
    with pytest.raises(
        UserError, match=r"callbacks\.x\.scheduling=.* set one number.*accumulate_grad_batches=4"
    ):
        run(train, 0.02, scheduler, "+callbacks.x.scheduling={0:2,5:4}")
    with pytest.raises(UserError, match="leave one out"):
        run(train, 0.02, scheduler, "+callbacks.x.scheduling={0:2}", "trainer.accumulate_grad_batches=2")


def test_a_loss_that_leaves_the_finite_numbers_drops_what_was_accumulated(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslmanifold.training.module import SSLModule

    original, seen = SSLModule.objective, []

    def objective(self: SSLModule, batch: Any) -> torch.Tensor:
        value = original(self, batch)
        seen.append(value)
        return value * torch.inf if len(seen) == 9 else value

    options = ("data.batch_size=10", FOLLOW, "trainer.accumulate_grad_batches=3")
    straight = train(*BASE, *options, "optimizer.lr=0.02", "trainer.max_steps=2")
    monkeypatch.setattr(SSLModule, "objective", objective)
    diverged = run(train, 0.02, *options)
    assert (diverged.summary["status"], diverged.summary["steps"]) == ("diverged", 2)
    same_weights(straight, diverged, atol=0.0)


# -- clipping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_flow_keeps_time_with_clipped_steps(
    train: Callable[..., Run], constraint: str, replicas: int
) -> None:
    options = (f"constraint={constraint}", f"replicas={replicas}", "trainer.gradient_clip_val=0.1")
    runs = [run(train, lr, *options, time=0.2) for lr in (0.01, 0.005)]
    coarse, fine = (r.summary["ode/deviation_max"] for r in runs)
    assert runs[0].summary["ode/time"] < 0.19  # something was clipped
    assert 1.9 < coarse / fine < 2.1
    assert "clipped length" in runs[0].summary["ode/meaning"]


def test_replicas_are_clipped_by_themselves(train: Callable[..., Run]) -> None:
    single, several = (
        run(train, 0.02, "trainer.gradient_clip_val=0.3", f"replicas={replicas}") for replicas in (1, 3)
    )
    torch.testing.assert_close(several.model.weights[0][:1], single.model.weights[0], rtol=0, atol=1e-13)
    assert several.summary["ode/time_r0"] == pytest.approx(single.summary["ode/time"], rel=1e-12)
    assert len({several.summary[f"ode/time_r{i}"] for i in range(3)}) == 3
    assert several.summary["ode/deviation_r0"] == pytest.approx(single.summary["ode/deviation"], rel=1e-9)


@pytest.mark.parametrize("metric", ["grassmann", "euclidean", "canonical"])
def test_no_step_is_longer_than_the_bound(train: Callable[..., Run], metric: str) -> None:
    """By an independent path: the chord of each step, of both layers, against lr times the bound."""
    lr, bound = 0.01, 0.3
    options = (f"constraint.metric={metric}", f"optimizer.lr={lr}", f"trainer.gradient_clip_val={bound}")
    lengths = []
    for steps in (3, 4):
        weights = train(*BASE, *options, f"trainer.max_steps={steps}").model.weights
        lengths.append([w.detach()[0] for w in weights])
    chord = sum(float((a - b).square().sum()) for a, b in zip(*lengths, strict=True)) ** 0.5
    scale = 2**0.5 if metric == "canonical" else 1.0  # the canonical norm is between ‖·‖_F/√2 and ‖·‖_F
    assert 0.7 * lr * bound < chord < 1.01 * scale * lr * bound


def test_a_bound_that_nothing_reaches_changes_nothing(train: Callable[..., Run]) -> None:
    for constraint in ("orthogonal", "scaled"):
        plain, bounded = (
            run(train, 0.02, f"constraint={constraint}", *extra)
            for extra in ((), ("trainer.gradient_clip_val=1e6",))
        )
        same_weights(plain, bounded, atol=0.0)
        assert bounded.summary["ode/time"] == pytest.approx(plain.summary["ode/time"], rel=1e-14)


def test_momentum_counts_clipped_gradients(train: Callable[..., Run]) -> None:
    options = ("optimizer.momentum=0.8", "trainer.gradient_clip_val=0.3", "callbacks.ode.approximate=true")
    runs = [run(train, lr, *options, time=0.08) for lr in (0.002, 0.0005)]
    coarse, fine = (r.summary["ode/deviation_max"] for r in runs)
    assert runs[1].summary["ode/time"] < 0.95 * 0.08 * 5
    assert fine < 0.35 * coarse
    assert "effective time" in runs[0].summary["ode/meaning"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("constraint=none", "trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"),
            "by value",
        ),
        (("optimizer=adam", "callbacks.ode.approximate=true", "trainer.gradient_clip_val=0.3"), "by norm at 0.3"),
        (("+optimizer.max_norm=0.2",), "optimizer.max_norm=0.2"),
        (("+optimizer.maximize=true",), "goes up the loss"),
    ],
)  # fmt: skip
def test_what_the_flow_leaves_out_is_said(
    train: Callable[..., Run], options: tuple[str, ...], said: str
) -> None:
    summary = run(train, 0.02, *options).summary
    assert said in summary["ode/meaning"]
    assert "not in the flow" in summary["ode/meaning"]


def test_entries_of_tangent_vectors_are_not_clipped(train: Callable[..., Run]) -> None:
    value = "trainer.gradient_clip_algorithm=value"
    with pytest.raises(UserError, match="gradient_clip_algorithm=norm"):
        run(train, 0.02, "trainer.gradient_clip_val=0.3", value)
    with pytest.raises(UserError, match="trainer.gradient_clip_val=1.0"):
        run(train, 0.02, value)
    lr, bound = 0.02, 0.01
    options = ("constraint=none", f"trainer.gradient_clip_val={bound}", value, f"optimizer.lr={lr}")
    before, after = (train(*BASE, *options, f"trainer.max_steps={n}").model.weights for n in (3, 4))
    largest = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    assert largest == pytest.approx(lr * bound, rel=1e-9)


def test_no_time_is_predicted_where_steps_are_clipped(train: Callable[..., Run]) -> None:
    key, options = "predicted/steps_to_tolerance", ("data=half_moons", "trainer.max_steps=60")
    options = (*options, "callbacks.optimum.tolerance=0.3")
    callbacks = "[spectrum,optimum]"
    assert key in train(*options, callbacks=callbacks).summary
    assert (
        key in train(*options, "optimizer.momentum=0.5", callbacks=callbacks).summary
    )  # at its effective steps
    assert key not in train(*options, "trainer.gradient_clip_val=0.1", callbacks=callbacks).summary


# -- parts of the data ------------------------------------------------------------------------------------


def test_overfitting_uses_the_same_few_samples(compose_config: Callable[..., dict[str, Any]]) -> None:
    options = [*BASE, "data.batch_size=10", "trainer.overfit_batches=2", "trainer.max_steps=50"]
    experiment = Experiment(compose_config(*options))
    assert experiment.datamodule.n == 20
    seen = np.concatenate([batch.x.numpy() for batch in experiment.datamodule.train_dataloader()])
    assert len(seen) == 500
    assert len(np.unique(seen, axis=0)) == 20
    assert Experiment(compose_config(*options, "trainer.overfit_batches=0.5")).datamodule.n == 30
    assert Experiment(compose_config(*BASE, "trainer.overfit_batches=1")).datamodule.n == 60


def test_one_batch_overfitted_is_a_full_batch(train: Callable[..., Run]) -> None:
    """C is that batch's, so the flow follows without being asked to: first order."""
    options = ("data.batch_size=20", "trainer.overfit_batches=1")
    runs = [run(train, lr, *options) for lr in (0.01, 0.005)]
    assert runs[0].summary["steps"] == 40
    assert runs[0].summary["n"] == 20
    assert 1.9 < runs[0].summary["ode/deviation_max"] / runs[1].summary["ode/deviation_max"] < 2.1
    assert runs[0].summary["trainer/overfit_batches"].startswith("1: ")


def test_limited_passes_see_other_batches_each_time(compose_config: Callable[..., dict[str, Any]]) -> None:
    options = [*BASE, "data.batch_size=10", "trainer.max_steps=40"]
    whole = Experiment(compose_config(*options)).datamodule.train_dataloader()
    limited = Experiment(
        compose_config(*options, "trainer.limit_train_batches=2")
    ).datamodule.train_dataloader()
    assert (whole.steps_per_pass, limited.steps_per_pass) == (6, 2)
    for turn in range(3):
        for place in range(2):
            assert torch.equal(limited.anchors(2 * turn + place), whole.anchors(6 * turn + place))
    assert len(list(limited)) == 40
    halves = Experiment(compose_config(*options, "trainer.limit_train_batches=0.5"))
    assert halves.datamodule.train_dataloader().steps_per_pass == 3


# -- where a run ends -------------------------------------------------------------------------------------


def test_passes_are_counted_as_steps(train: Callable[..., Run]) -> None:
    def ended(*overrides: str) -> tuple[str, int]:
        summary = train(*BASE, "optimizer.lr=0.01", *overrides).summary
        return summary["status"], summary["steps"]

    assert ended("trainer.max_epochs=5") == ("stopped", 5)
    assert ended("trainer.max_epochs=5", "trainer.max_steps=4") == ("completed", 4)
    assert ended("trainer.max_epochs=5", "trainer.max_steps=-1") == ("completed", 5)
    minibatches = ("trainer.max_epochs=2", "data.batch_size=25", FOLLOW)
    assert ended(*minibatches) == ("stopped", 6)
    assert ended(*minibatches, "trainer.accumulate_grad_batches=4") == ("stopped", 2)
    assert ended(*minibatches, "trainer.limit_train_batches=2") == ("stopped", 4)


def resumed(compose_config: Callable[..., dict[str, Any]], run: Run, *overrides: str) -> Run:
    composed = OmegaConf.create(compose_config(*overrides))
    config = resumed_config(run.config, composed, list(overrides), run.path)
    return run_training(config | {"ckpt_path": str(run.path)}, run.path)


def test_a_stopped_run_goes_on(
    train: Callable[..., Run], compose_config: Callable[..., dict[str, Any]]
) -> None:
    options = (*BASE[:-1], "optimizer.lr=0.01", "trainer.max_steps=30", "trainer.log_every_n_steps=4")
    straight = train(*options)
    stopped = train(*options, "trainer.max_epochs=7")
    assert stopped.summary["status"] == "stopped"
    assert stopped.summary["reason"] == "trainer.max_epochs=7 was reached at step 7 of 30"
    again = resumed(compose_config, stopped, "trainer.max_epochs=7")
    assert (again.summary["status"], again.summary["steps"]) == ("stopped", 7)
    assert again.metrics["step"] == [0, 4, 7]
    onward = resumed(compose_config, again, "trainer.max_epochs=100")
    assert onward.summary["status"] == "completed"
    assert onward.folder.metrics.read_text() == straight.folder.metrics.read_text()
    same_weights(onward, straight, atol=0.0)


def test_time_is_up(train: Callable[..., Run], compose_config: Callable[..., dict[str, Any]]) -> None:
    run = train("data=half_moons", "trainer.max_steps=1000000", "trainer.max_time={milliseconds:300}")
    summary = run.summary
    assert summary["status"] == "stopped"
    assert summary["reason"] == f"trainer.max_time was up at step {summary['steps']} of 1000000"
    assert 0 < summary["steps"] < 1000000
    again = resumed(compose_config, run, "trainer.max_time={milliseconds:600}")
    assert again.summary["steps"] > summary["steps"]
    assert Run(again.path).config["trainer"]["max_time"] == {"milliseconds": 600}


# -- refusals, and the table ------------------------------------------------------------------------------

WRONG = [
    ("limit_train_batches=0", "leaves nothing to train on"),
    ("limit_train_batches=0.5", "trainer.overfit_batches=0.5"),
    ("overfit_batches=0.001", "is none"),
    ("overfit_batches=2.5", "neither a number of batches nor a part"),
    ("fast_dev_run=true", "trainer.max_steps=1"),
    ("barebones=true", "leave it out"),
    ("max_time=10", "00:00:10:00"),
    ("max_time={weeks_: 1}", "00:00:10:00"),
    ("max_time=00:00:00:00", "leaves no time"),
    ("max_steps=-1", "trainer.max_epochs=100"),
    ("max_epochs=0", "greater than 0"),
    ("accumulate_grad_batches=0", "greater than 0"),
    ("gradient_clip_val=-1", "greater than or equal to 0"),
    ("gradient_clip_algorithm=length", "'norm' or 'value'"),
    ("strategy=fsdp", "trainer.strategy=ddp"),
    ("strategy=ddp_spawn", "trainer.strategy=ddp"),
    ("strategy=nonsense", "trainer: "),
    ("devices=2", "trainer.devices=1"),
    ("accelerator=gpux", "trainer: "),
    ("precision=bf16-true", "trainer.precision=bf16-mixed"),
    ("precision=12", "16-mixed"),
    ("profiler=slow", "simple"),
    ("enable_checkpointing=false", "checkpoint.every_n_steps=null"),
    ("logger=true", "logger=csv"),
    ("callbacks=[x]", "+callbacks.stop._target_"),
    ("plugins=[x]", "leave it out"),
    ("default_root_dir=x", "hydra.run.dir=DIR"),
    ("limit_val_batches=3", "online_probe"),
    ("val_check_interval=10", "online_probe"),
    ("reload_dataloaders_every_n_epochs=1", "data.resample=epoch"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_what_a_run_cannot_honour_is_refused_with_the_line(
    compose_config: Callable[..., dict[str, Any]], tmp_path: Path, line: str, said: str
) -> None:
    def build() -> None:
        experiment = Experiment(compose_config("data=half_moons", f"trainer.{line}"))
        build_trainer(experiment, RunFolder(tmp_path), [], [])

    with pytest.raises(UserError) as refusal:
        build()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def six_steps(train: Callable[..., Run]) -> Run:
    return train("data=half_moons", "trainer.max_steps=6")


@pytest.mark.parametrize(
    "line",
    ["strategy=ddp", "strategy=auto", "limit_val_batches=0", "num_sanity_val_steps=0", "fast_dev_run=false",
     "enable_checkpointing=true", "benchmark=true", "inference_mode=false", "use_distributed_sampler=false",
     "sync_batchnorm=true", "enable_autolog_hparams=false", "detect_anomaly=true", "deterministic=warn",
     "deterministic=true", "num_nodes=1", "enable_progress_bar=false", "enable_model_summary=true", "min_steps=3",
     "min_epochs=3", "gradient_clip_val=0", "precision=32", "accelerator=auto", "devices=auto", "max_epochs=-1"],
)  # fmt: skip
def test_what_changes_no_number(train: Callable[..., Run], six_steps: Run, line: str) -> None:
    if line.startswith("accelerator") and torch.cuda.is_available():
        pytest.skip("another device")
    flagged = train("data=half_moons", "trainer.max_steps=6", f"trainer.{line}")
    assert flagged.folder.metrics.read_text() == six_steps.folder.metrics.read_text()
    assert flagged.summary["status"] == "completed"


@pytest.mark.parametrize("kind", ["simple", "advanced", "pytorch"])
def test_profiles_lie_in_the_run_folder(train: Callable[..., Run], kind: str) -> None:
    run = train("data=half_moons", "trainer.max_steps=3", f"trainer.profiler={kind}")
    assert [path for path in (run.path / "profile").iterdir() if path.stat().st_size]


def test_what_runs_is_what_is_said(train: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU has float16")
    summary = train("data=half_moons", "trainer.max_steps=3", "trainer.precision=16-mixed").summary
    assert summary["trainer/precision"] == "bf16-mixed"
    assert summary["trainer/device"] == "cpu"
    assert "trainer.precision=16-mixed runs as bf16-mixed" in capsys.readouterr().err
    assert train("data=half_moons", "trainer.max_steps=3").summary["trainer/precision"] == "32-true"


def test_a_step_that_loss_scaling_leaves_out_takes_no_time(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As float16 does it on a GPU: the closure is evaluated, and the optimizer not called."""
    from sslmanifold.geometry import RiemannianSGD

    original, calls = RiemannianSGD.step, []

    def step(self: RiemannianSGD, closure: Any = None) -> Any:
        calls.append(closure)
        return closure() if len(calls) == 3 else original(self, closure)

    step.hooked = True  # type: ignore[attr-defined]
    straight = train(*BASE, "optimizer.lr=0.02", "trainer.max_steps=5")
    monkeypatch.setattr(RiemannianSGD, "step", step)
    skipping = train(*BASE, "optimizer.lr=0.02", "trainer.max_steps=6")
    same_weights(straight, skipping)
    assert skipping.summary["trainer/steps_skipped"] == 1
    for key in ("ode/time", "ode/deviation"):
        assert skipping.summary[key] == pytest.approx(straight.summary[key], rel=1e-9)


def test_the_environment_gives_no_flags(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "1")
    monkeypatch.setenv("PL_TRAINER_MAX_TIME", "00:00:00:00")
    assert train("data=half_moons", "trainer.max_steps=5").summary["steps"] == 5


def test_every_argument_of_lightnings_trainer_has_its_place(
    compose_config: Callable[..., dict[str, Any]],
) -> None:
    theirs = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self"}
    assert {field.name for field in fields(TrainerFlags)} == theirs
    assert set(compose_config()["trainer"]) == theirs
    assert set(REFUSED) | set(EFFECTS) <= theirs
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert theirs <= rows


def test_a_module_is_no_way_to_read_a_run(train: Callable[..., Run]) -> None:
    from sslmanifold.training.module import SSLModule

    run = train("data=half_moons", "trainer.max_steps=2")
    with pytest.raises(UserError, match=r"sslmanifold\.load_run\(.*\)\.model"):
        SSLModule.load_from_checkpoint(run.folder.checkpoint)
