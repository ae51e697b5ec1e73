"""What the exact flow costs beside a training step, per loss and constraint: medians of interleaved steps on one core.

    python scripts/benchmark_any_loss.py [--steps 60] [--embedding 10] [--losses infonce,spectral]

Prints a table: the time of a training step (forward, backward, optimizer, retraction), of the flow's step beside it,
and their ratio. The data are the 1,797 digits; losses that go through the samples alone.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from sslmanifold.config.compose import composed, plain
from sslmanifold.constraints.step import take_step
from sslmanifold.theory import LossGradient, SampleLoss
from sslmanifold.training.experiment import Experiment


def measured(loss: str, constraint: str, steps: int, embedding: int) -> tuple[float, float]:
    """Median seconds of a training step and of the flow's, taken in turns."""
    line = ["data=digits", f"loss={loss}", f"constraint={constraint}", f"model.embedding={embedding}"]
    experiment = Experiment(plain(composed("train", line)))
    module = experiment.module
    weights = list(module.network.weights)
    optimizer = module.build_optimizer(weights)
    batch = experiment.datamodule.train_dataloader().batch(0)
    shape = module.network.shape
    dtype = weights[0].dtype
    samples = SampleLoss(module.loss, *batch, dtype=dtype)
    driving = LossGradient(samples, shape.dim, order=2, dtype=dtype)
    flow = experiment.constraint.flow(driving, shape)
    assert flow is not None
    state = flow.start(*(w.detach().double() for w in weights))
    training: list[float] = []
    following: list[float] = []

    def loss_of_batch() -> torch.Tensor:
        return module.loss(*(None if part is None else module.network(part) for part in batch))

    for _ in range(steps):
        begin = time.perf_counter()
        take_step(experiment.constraint, weights, optimizer, loss_of_batch)
        middle = time.perf_counter()
        state = flow.advance(state, experiment.learning_rate)
        training.append(middle - begin)
        following.append(time.perf_counter() - middle)
    return statistics.median(training), statistics.median(following)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--embedding", type=int, default=10)
    parser.add_argument("--losses", default="infonce,spectral")
    parser.add_argument("--constraints", default="orthogonal,none,frobenius,operator_norm,scaled,product")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'loss':14}{'constraint':15}{'step ms':>9}{'flow ms':>9}{'ratio':>7}")
    for loss in options.losses.split(","):
        for constraint in options.constraints.split(","):
            step, flow = measured(loss, constraint, options.steps, options.embedding)
            print(f"{loss:14}{constraint:15}{1e3 * step:9.2f}{1e3 * flow:9.2f}{flow / step:7.2f}", flush=True)


if __name__ == "__main__":
    main()
