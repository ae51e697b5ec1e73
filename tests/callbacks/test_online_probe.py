"""Probes while training change nothing, and find what scikit-learn finds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from sslmanifold.callbacks.online_probe import least_squares_labels, neighbour_labels
from sslmanifold.probes.labelled import labelled
from sslmanifold.runs import Run

OPTIONS = (
    "data.batch_size=100",
    "loss.reduction=mean",
    "trainer.max_steps=60",
    "replicas=2",
    "model.embedding=4",
)


@pytest.fixture(scope="module")
def probed(train: Callable[..., Run]) -> Run:
    return train(*OPTIONS, "callbacks.online_probe.every_n_epochs=2", callbacks="[spectrum,online_probe]")


def test_training_is_bit_identical_without(probed: Run, train: Callable[..., Run]) -> None:
    plain = train(*OPTIONS, callbacks="[spectrum]")
    for weight, expected in zip(probed.model.weights, plain.model.weights, strict=True):
        assert torch.equal(weight, expected)
    for key, values in plain.metrics.items():
        np.testing.assert_array_equal(probed.metrics[key], values, err_msg=key)


def test_values_appear_when_due(probed: Run) -> None:
    """1,347 anchors in batches of 100: a pass is 14 steps, rows are every 10."""
    values = probed.metrics["probe/linear/accuracy"]
    due = [step for step, value in zip(probed.metrics["step"], values, strict=True) if np.isfinite(value)]
    assert due == [0, 30, 60]
    assert {"probe/knn/accuracy", "probe/linear/accuracy_r1", "probe/linear/accuracy_std"} <= set(
        probed.summary
    )


def test_values_are_those_of_scikit_learn(probed: Run) -> None:
    data = labelled(probed)
    linear, knn = [], []
    for train, test in zip(
        probed.model(data.train_x.float()).double().numpy(),
        probed.model(data.test_x.float()).double().numpy(),
        strict=True,
    ):
        mean = train.mean(0)
        scale = np.sqrt(((train - mean) ** 2).mean())
        a, b = (train - mean) / scale, (test - mean) / scale
        linear.append(RidgeClassifier(alpha=1.0).fit(a, data.train_y).score(b, data.test_y))
        knn.append(KNeighborsClassifier(10).fit(a, data.train_y).score(b, data.test_y))
    assert [probed.summary[f"probe/linear/accuracy_r{i}"] for i in range(2)] == pytest.approx(
        linear, abs=0.003
    )
    assert [probed.summary[f"probe/knn/accuracy_r{i}"] for i in range(2)] == pytest.approx(knn, abs=0.005)
    assert probed.summary["probe/linear/accuracy"] == pytest.approx(np.mean(linear), abs=0.003)


def test_without_labels_a_line_says_that_there_are_no_probes(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 3)))
    options = ("data=array", f"data.path='{tmp_path / 'x.npy'}'", "trainer.max_steps=5")
    run = train(*options, callbacks="[spectrum,online_probe]")
    assert not [key for key in run.summary if key.startswith("probe/")]
    assert capsys.readouterr().err.count("no probes (callbacks.online_probe): data=array") == 1


def test_a_diverged_scale_is_no_obstacle() -> None:
    generator = torch.Generator().manual_seed(0)
    train, y = torch.randn(1, 60, 3, generator=generator, dtype=torch.float64), torch.arange(60) % 3
    train[0] += 4 * torch.eye(3)[y].double()
    for size in (1.0, 1e250):
        assert (least_squares_labels(train * size, y, train * size, 3, 1.0)[0] == y).double().mean() > 0.9
    assert neighbour_labels(train, y, train, 3, 1)[0].equal(y)
