"""Replicas: one run of S initialisations is S runs, number for number, and no slower."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sslmanifold.constraints.step import after_step
from sslmanifold.data import TripletBatch
from sslmanifold.runs import Run
from sslmanifold.training import replica_chunks
from sslmanifold.training.experiment import Experiment

CASES = [
    ("none", "tanh"), ("frobenius", "linear"), ("operator_norm", "relu"), ("scaled", "tanh"),
    ("orthogonal", "sigmoid"), ("product", "linear"),
]  # fmt: skip


def experiment(compose_config: Callable[..., dict[str, Any]], *overrides: str) -> Experiment:
    return Experiment(
        compose_config(
            "data=half_moons", "callbacks=[]", "loss.evaluate=samples", "optimizer.lr=0.001",
                "trainer.precision=64-true",
            *overrides,
        )
    )  # fmt: skip


def trained_weights(run: Experiment, steps: int, pick: int | None = None) -> list[torch.Tensor]:
    """Weights after ``steps`` full-batch steps; of one replica alone where ``pick`` is given."""
    module = run.module
    batch = run.datamodule.train_dataloader().batch(0)
    if pick is not None:
        network = module.network
        kept = [w.detach()[pick : pick + 1].clone() for w in network.weights]
        module.network = type(network)(network.shape, module.constraint, kept, network.activation)
    optimizer = module.build_optimizer(list(module.network.weights))
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        module.objective(batch).sum().backward()
        optimizer.step()
        after_step(module.constraint, list(module.network.weights))
    return [w.detach() for w in module.network.weights]


@pytest.mark.parametrize(("constraint", "activation"), CASES)
@pytest.mark.parametrize("elements", [1, 20_000, 10**9])
def test_replicas_are_single_runs_with_the_same_initial_weights(
    compose_config: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    constraint: str,
    activation: str,
    elements: int,
) -> None:
    monkeypatch.setattr(replica_chunks, "CHUNK_ELEMENTS", elements)  # chunks of one, of some, and none at all
    choices = (f"constraint={constraint}", f"model.activation={activation}", "model.hidden=20", "replicas=5")
    together = trained_weights(experiment(compose_config, *choices), 15)
    for replica in (0, 3):
        alone = trained_weights(experiment(compose_config, *choices), 15, pick=replica)
        for whole, single in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[replica], single[0], rtol=1e-10, atol=1e-12)


def test_the_chunks_gradient_is_autograds(
    compose_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = experiment(
        compose_config, "model.activation=tanh", "model.hidden=16", "replicas=4", "constraint=scaled"
    )
    batch, weights = run.datamodule.train_dataloader().batch(0), list(run.module.network.weights)
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    whole = torch.autograd.grad((factors * run.module.objective(batch)).sum(), weights)
    monkeypatch.setattr(replica_chunks, "CHUNK_ELEMENTS", 1)
    assert replica_chunks.chunk_size(run.module.network, batch) == 1
    parts = torch.autograd.grad((factors * run.module.objective(batch)).sum(), weights)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_chunk_sizes(compose_config: Callable[..., dict[str, Any]]) -> None:
    network = experiment(compose_config, "model.hidden=100", "replicas=30").module.network
    x = torch.zeros(200, 2)
    assert replica_chunks.chunk_size(network, TripletBatch(x, x, x)) == 10
    assert replica_chunks.chunk_size(network, TripletBatch(x[:1], x[:1], None)) == 30
    assert replica_chunks.chunk_size(network, TripletBatch(torch.zeros(10**6, 2), x, x)) == 1


def test_replica_zero_and_its_columns_are_the_single_run(train: Callable[..., Run]) -> None:
    common = ("data=half_moons", "model.activation=tanh", "trainer.max_steps=30", "trainer.precision=64-true")
    many, one = train(*common, "replicas=3"), train(*common)
    np.testing.assert_allclose(many.metrics["train/loss_r0"], one.metrics["train/loss"], rtol=1e-9)
    losses = np.array([many.metrics[f"train/loss_r{i}"] for i in range(3)])
    np.testing.assert_allclose(many.metrics["train/loss"], losses.mean(0), rtol=1e-12)
    np.testing.assert_allclose(many.metrics["train/loss_std"], losses.std(0, ddof=1), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [10, 100, 1000])
def test_a_batch_of_replicas_is_not_slower_than_its_runs_in_turn(
    compose_config: Callable[..., dict[str, Any]], hidden: int
) -> None:
    torch.set_num_threads(1)
    replicas, steps = 10, 20
    choices = ("model.activation=tanh", f"model.hidden={hidden}", "trainer.precision=32-true")

    def seconds(count: int, runs: int) -> float:
        experiments = [
            experiment(compose_config, *choices, f"replicas={count}", f"seed={s}") for s in range(runs)
        ]
        for each in experiments:
            trained_weights(each, 3)
        best = float("inf")
        for _ in range(4):
            start = time.process_time()
            for each in experiments:
                trained_weights(each, steps)
            best = min(best, time.process_time() - start)
        return best

    together, apart = seconds(replicas, 1), seconds(1, replicas)
    assert together < 1.1 * apart, (together, apart)
