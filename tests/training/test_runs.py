"""What a run does and leaves behind."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold import load_run
from sslmanifold.errors import UserError
from sslmanifold.runs import Run

KEYS = (
    "train/loss", "train/optimum", "train/optimality_gap", "rank/effective", "rank/stable", "constraint/residual",
    "ode/deviation", "ode/deviation_max", "ode/subspace_distance", "ode/loss_gap", "ode/time",
    "status", "reason", "wall_seconds", "versions", "data", "model", "loss", "constraint", "seed",
)  # fmt: skip


@pytest.fixture(scope="module")
def default_run(train: Callable[..., Run]) -> Run:
    return train(callbacks="[spectrum,ode,figures]")


def test_the_default_run_keeps_its_promises(default_run: Run) -> None:
    summary = default_run.summary
    assert summary["status"] == "completed"
    assert summary["train/optimality_gap"] < 1e-2
    assert summary["ode/deviation_max"] < 0.05
    assert summary["constraint/residual"] < 1e-5
    assert summary["steps"] == 1000


def test_the_run_folder_is_complete(default_run: Run) -> None:
    for name in ("config.yaml", "metrics.csv", "summary.json", "trajectory.npz", "checkpoints/last.ckpt"):
        assert (default_run.path / name).stat().st_size > 0, name
    figures = {path.name for path in (default_run.path / "figures").glob("*.png")}
    assert figures == {"loss.png", "effective_rank.png", "embedding.png", "singular_values.png"}
    assert not list(default_run.path.rglob(".*tmp*"))
    missing = [key for key in KEYS if key not in default_run.summary]
    assert not missing
    assert (default_run.summary["data"], default_run.summary["constraint"]) == ("digits", "orthogonal")
    columns = default_run.metrics
    assert columns["step"][0] == 0
    assert columns["step"][-1] == 1000
    assert all(math.isfinite(v) for v in columns["ode/deviation"])


def test_the_summary_is_strict_json(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "constraint=none", "trainer.max_steps=60")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in summary.json")

    json.loads(run.folder.summary.read_text(), parse_constant=refuse)


def test_the_effective_rank_agrees_with_the_saved_model(default_run: Run) -> None:
    """An independent path: embed the raw training data with the restored model, entropy in NumPy."""
    from sklearn.datasets import load_digits

    from sslmanifold.data import Digits

    samples = Digits().load(0)
    embedded = load_run(default_run.path).embed(samples.train_x.numpy()).double().numpy()
    values = np.linalg.svd(embedded - embedded.mean(0), compute_uv=False)
    p = values / values.sum()
    assert math.exp(-(p * np.log(p)).sum()) == pytest.approx(default_run.summary["rank/effective"], abs=1e-4)
    assert load_digits().data.shape[1] == samples.dim


def test_collapse_is_visible(train: Callable[..., Run]) -> None:
    """Propositions 1–3 on half moons: none and Frobenius collapse, the others do not."""
    ranks = {
        name: train("data=half_moons", f"constraint={name}", callbacks="[spectrum]").summary["rank/effective"]
        for name in ("none", "frobenius", "operator_norm", "scaled", "orthogonal")
    }
    assert ranks["none"] < 1.05
    assert ranks["frobenius"] < 1.05
    for name in ("operator_norm", "scaled", "orthogonal"):
        assert ranks[name] >= 1.7, name


def test_a_diverging_run_ends_at_the_last_finite_state(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "constraint=none")
    assert run.summary["status"] == "diverged"
    assert "the theory predicts it" in run.summary["reason"]
    assert math.isfinite(run.summary["train/loss"])
    assert run.summary["steps"] == run.metrics["step"][-1]
    assert torch.isfinite(run.embed(np.zeros((1, 2)) + 0.5)).all()
    assert run.summary["ode/blow_up_time"] > 0


def test_same_seed_same_metrics(train: Callable[..., Run]) -> None:
    first, second = (train("data=half_moons", "trainer.max_steps=40", "seed=7") for _ in range(2))
    assert first.folder.metrics.read_text() == second.folder.metrics.read_text()
    other = train("data=half_moons", "trainer.max_steps=40", "seed=8")
    assert first.folder.metrics.read_text() != other.folder.metrics.read_text()


@pytest.mark.parametrize("constraint", ["orthogonal", "frobenius", "scaled"])
@pytest.mark.parametrize("pairs", [1, 3])
def test_a_step_through_c_is_the_step_through_the_data(
    train: Callable[..., Run], constraint: str, pairs: int
) -> None:
    runs = [
        train(
            "data=half_moons", f"constraint={constraint}", f"loss.evaluate={how}", "trainer.max_steps=50",
            f"data.positives={pairs}", f"data.negatives={pairs}", "trainer.precision=64-true", "loss.reduction=mean",
        )
        for how in ("moment", "samples")
    ]  # fmt: skip
    for first, second in zip(*(run.model.weights for run in runs), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-11)


def test_replicas_are_independent_runs(train: Callable[..., Run]) -> None:
    """Replica 0 is the single run of the same seed; the logged value is the mean."""
    options = ("data=half_moons", "trainer.max_steps=30", "trainer.precision=64-true")
    single, several = train(*options), train(*options, "replicas=3")
    torch.testing.assert_close(several.model.weights[0][:1], single.model.weights[0], rtol=0, atol=1e-13)
    each = [several.summary[f"train/loss_r{i}"] for i in range(3)]
    assert each[0] == pytest.approx(single.summary["train/loss"], rel=1e-10)
    assert several.summary["train/loss"] == pytest.approx(np.mean(each))
    assert several.summary["train/loss_std"] == pytest.approx(np.std(each, ddof=1))
    assert several.embed(np.zeros((4, 2))).shape == (3, 4, 2)


@pytest.mark.parametrize("options", [("data.center=true",), ("data.pca=5",)])
def test_embed_takes_raw_data(train: Callable[..., Run], options: tuple[str, ...]) -> None:
    from sslmanifold.data import Digits

    run = train("trainer.max_steps=20", *options)
    raw = Digits().load(0).train_x
    prepared = Digits(center="data.center=true" in options, pca=5 if "data.pca=5" in options else None).load(
        0
    )
    expected = run.model(prepared.train_x.float())[0]
    torch.testing.assert_close(run.embed(raw), expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"pass an array of shape \(n, 64\)"):
        run.embed(np.zeros((2, 3)))


def test_a_nonlinear_network_is_compared_and_says_what_that_means(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "model.activation=tanh", "model.hidden=400", "trainer.max_steps=60")
    assert "Conjecture 1" in run.summary["ode/meaning"]
    assert 0 < run.summary["ode/deviation_max"] < 0.5
    assert "train/optimality_gap" not in run.summary


APPROXIMATE = [
    ("optimizer.momentum=0.9", "effective time"),
    ("optimizer.weight_decay=0.01", "optimizer.weight_decay=0.01"),
    ("callbacks.ode.follow=population", "noise of minibatches"),
]


@pytest.mark.parametrize(("override", "words"), APPROXIMATE)
def test_what_the_flow_lacks_is_said_or_refused(
    train: Callable[..., Run], override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("data=half_moons", "constraint=operator_norm", "trainer.max_steps=20", override)
    if "follow" in override:
        options = (*options, "data.batch_size=50")
    run = train(*options)
    assert run.summary["ode/deviation_max"] >= 0
    assert run.summary["ode/meaning"].startswith("approximate")
    assert words in run.summary["ode/meaning"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "approximate" in line]
    assert len(lines) == 1
    assert words in lines[0]
    with pytest.raises(UserError, match=words):
        train(*options, "callbacks.ode.approximate=false")


ABSENT = [
    (("optimizer=adam",), "RiemannianAdam"),
    (("constraint=frobenius", "model=deep_linear"), "no exact flow for 3 layers"),
    (("constraint=product", "model=deep_linear"), "no exact flow for 3 layers"),
]


@pytest.mark.parametrize(("overrides", "words"), ABSENT)
def test_where_there_is_no_flow_one_line_says_so(
    train: Callable[..., Run], overrides: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("data=half_moons", "trainer.max_steps=20", *overrides)
    summary = train(*options).summary
    assert not {"ode/deviation", "ode/time", "ode/flow"} & set(summary)
    assert summary["ode/meaning"].startswith("absent")
    assert words in summary["ode/meaning"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "exact dynamics" in line]
    assert len(lines) == 1
    assert words in lines[0]
    # asked for by name, it is an error
    with pytest.raises(UserError, match=f"callbacks.ode.follow=batches: .*{words}"):
        train(*options, "callbacks.ode.follow=batches")


def test_adam_is_compared_where_that_is_asked_for(train: Callable[..., Run]) -> None:
    options = ("data=half_moons", "trainer.max_steps=20", "optimizer=adam")
    summary = train(*options, "callbacks.ode.approximate=true").summary
    assert summary["ode/time"] == pytest.approx(20 * 1e-3)
    assert "the steps of RiemannianAdam" in summary["ode/meaning"]


def test_minibatches_see_every_triplet(train: Callable[..., Run]) -> None:
    run = train(
        "data=half_moons", "data.batch_size=40", "loss.reduction=mean", "trainer.max_steps=300",
        "callbacks.ode.approximate=true", "optimizer.lr=0.05",
    )  # fmt: skip
    assert run.summary["rank/effective"] > 1.7


def test_a_failed_run_leaves_its_reason(train: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs h ≥ d"):
        train("model.hidden=10", folder=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "model.hidden=64" in summary["reason"]


def test_a_folder_keeps_its_run(train: Callable[..., Run], tmp_path: Path) -> None:
    options = ("data=half_moons", "trainer.max_steps=5")
    first = train(*options, folder=tmp_path).summary["train/loss"]
    with pytest.raises(UserError, match="overwrite=true"):
        train(*options, "seed=1", folder=tmp_path)
    assert Run(tmp_path).summary["train/loss"] == first
    assert train(*options, "seed=1", "overwrite=true", folder=tmp_path).summary["train/loss"] != first


def test_load_run_says_what_is_missing(tmp_path: Path, train: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="needs h ≥ d"):
        train("model.hidden=10", folder=tmp_path)
    with pytest.raises(UserError, match=r"no checkpoints/last\.ckpt"):
        load_run(tmp_path).model  # noqa: B018


def test_a_damaged_checkpoint_is_one_message(train: Callable[..., Run]) -> None:
    run = train("data=half_moons", "trainer.max_steps=5")
    run.folder.checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_run(run.path).embed([[0.0, 0.0]])


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("64-true", torch.float64), ("32-true", torch.float32), ("bf16-mixed", torch.float32)],
)
def test_precisions(train: Callable[..., Run], precision: str, dtype: torch.dtype) -> None:
    run = train("data=half_moons", "trainer.max_steps=200", f"trainer.precision={precision}")
    assert run.model.weights[0].dtype == dtype
    assert run.summary["constraint/residual"] < (1e-13 if dtype == torch.float64 else 1e-5)
    assert run.summary["train/optimality_gap"] < 0.05


def test_mnist(train: Callable[..., Run], mnist_root: Any) -> None:
    run = train(
        "data=mnist", f"data.root={mnist_root}", "data.classes=[0,1]", "data.per_class=200", "model.hidden=1000",
        "trainer.max_steps=60",
    )  # fmt: skip
    assert (run.summary["dim"], run.summary["n"]) == (784, 400)
    assert run.summary["constraint/residual"] < 1e-5
    assert run.summary["ode/deviation_max"] < 0.1
