"""Whether everything holds on a CUDA device, and what a step costs there: one table.

    python scripts/gpu_check.py                  # on the first card
    python scripts/gpu_check.py --device cpu     # the same checks against the CPU itself: what the tests run

Checks: manifold steps and losses in float64 against the CPU's; feasibility after many float32 steps; training steps
that never wait for the device; whole runs against the CPU's, by constraint; encoders in float32, bf16-mixed and
16-mixed; then the time of a manifold step beside geoopt's. Exit status 1 where a bound is missed.
"""

import argparse
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslmanifold import losses, train
from sslmanifold.geometry import ManifoldParameter, RiemannianAdam, RiemannianSGD, Stiefel, haar, residual
from sslmanifold.geometry._geoopt import geoopt

METRICS = ("grassmann", "euclidean", "canonical")
LOSSES: dict[str, Any] = {
    "contrastive": losses.Contrastive(),
    "spectral": losses.SpectralContrastive(),
    "ntxent": losses.NTXent(),
    "vicreg": losses.VICReg(),
    "barlow": losses.BarlowTwins(),
    "infonce": losses.InfoNCE(),
}


@dataclass
class Check:
    """One line of the table: what was measured beside its bound; an error where it could not be."""

    name: str
    value: float
    bound: float | None
    unit: str = ""
    error: str = ""

    @property
    def holds(self) -> bool:
        return not self.error and (self.bound is None or self.value <= self.bound)

    def line(self) -> str:
        verdict = "" if self.bound is None and not self.error else ("holds" if self.holds else "FAILS")
        shown = self.error or f"{self.value:.3g}{self.unit}"
        return f"| {self.name} | {shown} | {'' if self.bound is None else f'{self.bound:g}'} | {verdict} |"


def _measured(name: str, bound: float | None, measure: Callable[[], float], unit: str = "") -> Check:
    try:
        return Check(name, float(measure()), bound, unit)
    except Exception as error:  # one failure must not hide the lines after it
        traceback.print_exc()
        return Check(name, float("nan"), bound, unit, " ".join(str(error).split())[:160] or repr(error))


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.cpu() - b.cpu()).norm() / b.cpu().norm())


def _stepped(kind: type, metric: str, device: str, dtype: torch.dtype, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    start = haar(64, 16, generator=generator, dtype=torch.float64)
    target = torch.randn(64, 16, generator=generator, dtype=torch.float64)
    weight = ManifoldParameter(start.to(device, dtype), Stiefel(metric))
    optimizer = kind([weight], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight * target.to(weight)).sum().backward()
        optimizer.step()
    return weight.detach()


def geometry(device: str) -> Iterator[Check]:
    """Steps of both optimizers under each metric."""
    for kind in (RiemannianSGD, RiemannianAdam):
        for metric in METRICS:
            name = f"{kind.__name__}, {metric}"
            yield _measured(
                f"{name}: 20 float64 steps against the CPU's",
                1e-10,
                lambda k=kind, m=metric: _distance(
                    _stepped(k, m, device, torch.float64, 20), _stepped(k, m, "cpu", torch.float64, 20)
                ),
            )
            yield _measured(
                f"{name}: residual after 500 float32 steps",
                1e-5,
                lambda k=kind, m=metric: float(
                    residual(_stepped(k, m, device, torch.float32, 500), Stiefel(m))
                ),
            )


def _value_and_gradient(loss: Any, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3, 1, 64, 8, generator=generator, dtype=torch.float64)
    leaves = [x.to(device).requires_grad_() for x in points.unbind(0)]
    value = loss(leaves[0], leaves[1], leaves[2] if loss.contrastive else None).sum()
    value.backward()
    gradients = [x.grad.flatten() for x in leaves if x.grad is not None]
    return torch.cat([value.detach().reshape(1), *gradients])


def loss_values(device: str) -> Iterator[Check]:
    """Value and gradient of every loss."""
    for name, loss in LOSSES.items():
        yield _measured(
            f"loss={name}: value and gradient against the CPU's, float64",
            1e-10,
            lambda made=loss: _distance(_value_and_gradient(made, device), _value_and_gradient(made, "cpu")),
        )


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """On a CUDA device an operation that waits for it is an error meanwhile."""
    if device != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _waits(device: str, kind: type, metric: str) -> float:
    weight = ManifoldParameter(haar(64, 16).to(device), Stiefel(metric))
    x = torch.randn(32, 64, device=device)
    optimizer = kind([weight], lr=0.01)
    for turn in range(4):  # the first step makes state and libraries ready
        with no_waiting(device if turn > 1 else "cpu"):
            optimizer.zero_grad()
            (x @ weight).square().sum().backward()
            optimizer.step()
    return 0.0


def synchronisation(device: str) -> Iterator[Check]:
    """Training steps that never wait for the device."""
    for kind in (RiemannianSGD, RiemannianAdam):
        for metric in METRICS:
            yield _measured(
                f"{kind.__name__}, {metric}: a step waits for the device (0: never)",
                0,
                lambda k=kind, m=metric: _waits(device, k, m),
            )


def _run(device: str, folder: Path, *lines: str) -> dict[str, Any]:
    accelerator = "gpu" if device == "cuda" else "cpu"
    summary = train(
        *lines, f"trainer.accelerator={accelerator}", "callbacks=[spectrum,ode]", run_dir=folder
    ).summary
    if summary["status"] != "completed":
        raise RuntimeError(f"{summary['status']}: {summary.get('reason')}")
    return summary


def runs(device: str, steps: int) -> Iterator[Check]:
    """Whole runs of two-layer networks, in float64, against the CPU's: loss, rank and ODE deviation."""
    for constraint in ("none", "frobenius", "operator_norm", "scaled", "product", "orthogonal"):
        # without a constraint this loss has no minimum: the weights leave the finite numbers soon
        count = min(steps, 20) if constraint == "none" else steps
        lines = (
            "data=half_moons", f"constraint={constraint}", f"trainer.max_steps={count}",
            "trainer.precision=64-true", "loss=noncontrastive",
        )  # fmt: skip

        def difference(given: tuple[str, ...] = lines) -> float:
            with tempfile.TemporaryDirectory() as folder:
                here = _run("cpu", Path(folder) / "here", *given)
                there = _run(device, Path(folder) / "there", *given)
            keys = ("train/loss", "rank/effective", "ode/deviation_max")
            return max(abs(here[key] - there[key]) / max(abs(here[key]), 1e-6) for key in keys)

        yield _measured(
            f"constraint={constraint}: loss, rank, deviation of {count} steps against the CPU's",
            1e-6,
            difference,
        )


def encoders(device: str, steps: int) -> Iterator[Check]:
    """Image encoders with all weights orthonormal, in three precisions: how far from feasible they end."""
    for precision in ("32-true", "bf16-mixed", "16-mixed"):

        def worst(kind: str = precision) -> float:
            with tempfile.TemporaryDirectory() as folder:
                lines = (
                    "data=digits", "model=encoder", "model.width=8", "loss=ntxent", "optimizer=adam",
                    "constraint=orthogonal", "model.constrain=all", f"trainer.max_steps={steps}",
                    "data.batch_size=128", f"trainer.precision={kind}",
                )  # fmt: skip
                return _run(device, Path(folder) / "run", *lines)["constraint/residual"]

        yield _measured(
            f"encoder, all weights orthonormal, {precision}: residual after {steps} steps", 1e-5, worst
        )


def _seconds(device: str, step: Callable[[], object], rounds: int) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for turn in range(rounds + 3):
        wait()
        start = time.perf_counter()
        step()
        wait()
        if turn >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _prepared(shape: tuple[int, ...], manifold: Any, make: type, device: str) -> Callable[[], object]:
    made = ManifoldParameter if make in (RiemannianSGD, RiemannianAdam) else geoopt.ManifoldParameter
    weight = made(haar(*shape).to(device), manifold)
    weight.grad = torch.randn_like(weight) / shape[-2] ** 0.5
    return make([weight], lr=0.01).step


def benchmark(device: str, rounds: int) -> Iterator[Check]:
    """Milliseconds of one manifold step, and of geoopt's."""
    for shape in ((512, 64), (1024, 128), (4096, 256)):
        name = "×".join(map(str, shape))
        methods = {
            "grassmann": (Stiefel("grassmann"), RiemannianSGD),
            "canonical": (Stiefel("canonical"), RiemannianSGD),
            "grassmann, Adam": (Stiefel("grassmann"), RiemannianAdam),
            "geoopt Euclidean": (geoopt.EuclideanStiefel(), geoopt.optim.RiemannianSGD),
            "geoopt canonical": (geoopt.CanonicalStiefel(), geoopt.optim.RiemannianSGD),
        }
        for method, (manifold, make) in methods.items():
            yield _measured(
                f"step {name}, {method}",
                None,
                lambda s=shape, f=manifold, k=make: (
                    1e3 * _seconds(device, _prepared(s, f, k, device), rounds)
                ),
                " ms",
            )


def main(arguments: Sequence[str] | None = None) -> list[Check]:
    """Run all parts, print the table line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=200, help="of the whole runs")
    parser.add_argument("--rounds", type=int, default=30, help="of each timing")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: --device cpu runs the same checks against the CPU itself")
    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(
        f"torch {torch.__version__}, {card}\n\n| check | measured | bound | |\n|---|---|---|---|", flush=True
    )
    device, checks = options.device, []
    for part in (
        geometry(device), loss_values(device), synchronisation(device), runs(device, options.steps),
        encoders(device, options.steps), benchmark(device, options.rounds),
    ):  # fmt: skip
        for check in part:
            checks.append(check)
            print(check.line(), flush=True)
    failed = [check for check in checks if not check.holds]
    print(f"\n{len(checks) - len(failed)} of {len(checks)} lines hold")
    return checks


if __name__ == "__main__":
    raise SystemExit(0 if all(check.holds for check in main()) else 1)
