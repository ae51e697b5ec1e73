"""Solving against training: the embedding at convergence, side by side in one process on one thread.

    uv run python scripts/benchmark_dynamics.py                    # MNIST two classes × 200, h = 1000, z = 10
    uv run python scripts/benchmark_dynamics.py data=digits full=true

Convergence is the time at which the span of the exact trajectory is within ``tolerance`` of its limit. Training
takes the default learning rate; a plain loop over the module's own objective and optimizer, without Lightning, so that
the comparison favours training. Its time is projected as steps to convergence × the median step, unless ``full=true``
runs them all.
"""

import os
import statistics
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sslmanifold.metrics import subspace_distance
from sslmanifold.training.experiment import Experiment


def experiment(metric: str, data: str, hidden: int, embedding: int) -> Experiment:
    """The run both sides share."""
    from hydra import compose, initialize_config_dir

    from sslmanifold.config.compose import plain
    from sslmanifold.config.location import config_dir

    overrides = [
        f"data={data}",
        f"model.embedding={embedding}",
        f"constraint.metric={metric}",
        "callbacks=[]",
    ]
    if data == "mnist":
        root = os.environ.get("SSLMANIFOLD_DATA", "data")
        overrides += [f"data.root={root}", "data.classes=[0,1]", "data.per_class=200"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose(
            "train", overrides=[*overrides, f"model.hidden={hidden}", "trainer.precision=64-true"]
        )
        return Experiment(plain(config))


def convergence_time(run: Experiment, weights: list[torch.Tensor], tolerance: float) -> float:
    """The time at which the exact span is within tolerance of its limit, by doubling and bisection."""
    assert run.moment is not None
    shape = run.module.network.shape
    limit = run.constraint.limit_subspace(run.moment, shape)

    def distance(t: float) -> float:
        solved = run.constraint.solve(run.moment, shape, weights, torch.tensor([t], dtype=torch.float64))
        return float(subspace_distance(solved.m[-1], limit).max())

    high = 100 * run.learning_rate
    while distance(high) > tolerance:
        high *= 2
    low = high / 2
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) > tolerance else (low, middle)
    return high


def train_steps(run: Experiment, steps: int) -> list[float]:
    """Seconds of each optimizer step."""
    module = run.module
    optimizer = module.build_optimizer(list(module.network.weights))
    batch: Any = None
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        optimizer.zero_grad()
        module.objective(batch).sum().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(
    metric: str, data: str, hidden: int, embedding: int, tolerance: float, full: bool, steps: int
) -> dict:
    """One row: time to converge by training and by solving, and how far apart they end."""
    run = experiment(metric, data, hidden, embedding)
    assert run.moment is not None
    shape = run.module.network.shape
    weights = [w.detach().double().clone() for w in run.module.network.weights]
    end = convergence_time(run, weights, tolerance)
    needed = round(end / run.learning_rate)
    taken = needed if full else min(steps, needed)
    solve_seconds, step_seconds = [], []
    for _ in range(3):  # interleaved
        started = time.perf_counter()
        times = torch.tensor([taken * run.learning_rate, needed * run.learning_rate], dtype=torch.float64)
        solved = run.constraint.solve(run.moment, shape, weights, times)
        solve_seconds.append(time.perf_counter() - started)
        if not full or not step_seconds:
            step_seconds += train_steps(run, taken if full else taken // 3)
    trained = run.module.network.map().detach().double()
    exact = solved.m[0] if full or taken % 3 == 0 else None
    training = sum(step_seconds) if full else needed * statistics.median(step_seconds)
    solving = statistics.median(solve_seconds)
    return {
        "metric": metric,
        "method": solved.method,
        "steps": needed,
        "train_seconds": training,
        "solve_seconds": solving,
        "ratio": training / solving,
        "distance": None if exact is None else float(subspace_distance(trained, exact).max()),
        "measured_steps": len(step_seconds),
    }


def main(
    data: str = "mnist", hidden: int = 1000, embedding: int = 10, tolerance: float = 1e-3, full: bool = False,
    steps: int = 300, metrics: str = "grassmann,euclidean,canonical",
) -> list[dict]:  # fmt: skip
    """Measure and print the table; returns its rows."""
    torch.set_num_threads(1)
    rows = [
        measure(
            metric,
            data,
            int(hidden),
            int(embedding),
            float(tolerance),
            str(full).lower() == "true",
            int(steps),
        )
        for metric in metrics.split(",")
    ]
    title = (
        f"{data}, h = {hidden}, z = {embedding}, span within {tolerance} of its limit, float64, one thread"
    )
    table = Table(title=title)
    for name in ("metric", "solved by", "steps", "training s", "solving s", "ratio", "span apart"):
        table.add_column(name, justify="left" if name in ("metric", "solved by") else "right")
    for row in rows:
        apart = "" if row["distance"] is None else f"{row['distance']:.1e}"
        seconds = f"{row['train_seconds']:.1f}" + (
            "" if row["measured_steps"] >= row["steps"] else " (projected)"
        )
        ratio = f"{row['ratio']:.0f}×"
        table.add_row(
            row["metric"],
            row["method"],
            str(row["steps"]),
            seconds,
            f"{row['solve_seconds']:.3f}",
            ratio,
            apart,
        )
    Console().print(table)
    return rows


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))  # type: ignore[arg-type]
