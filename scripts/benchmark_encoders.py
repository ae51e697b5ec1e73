"""What constrained layers cost an image encoder: an iteration of RiemannianAdam beside one of torch's AdamW.

    python scripts/benchmark_encoders.py                                # small_resnet and resnet18, on the CPU
    python scripts/benchmark_encoders.py --device cuda --rounds 30

One process. An iteration is forward and backward of NT-Xent on two views of a batch of 32×32 images, and the step
of the optimizer. The variants take turns, one call each a round, in shuffled order; the medians of their wall-clock
times are compared, so other load on the machine hits all alike.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sslmanifold.constraints import Constraint, Orthogonal, Unconstrained
from sslmanifold.geometry import RiemannianAdam
from sslmanifold.losses import NTXent
from sslmanifold.models.encoder import Encoder, EncoderNetwork
from sslmanifold.training.allocator import keep_freed_memory
from sslmanifold.training.parameter_groups import parameter_groups

# promised: variant → largest ratio to AdamW, by backbone
BOUNDS = {
    "small_resnet": {"projector": 1.05, "all": 1.15},
    "resnet18": {"projector": 1.05, "all": 1.3},
}


@dataclass
class Row:
    """Median seconds of an iteration of one variant, and its ratio to plain AdamW."""

    backbone: str
    variant: str
    seconds: float
    ratio: float
    bound: float | None

    @property
    def holds(self) -> bool:
        return self.bound is None or self.ratio <= self.bound


def _network(backbone: str, width: int, constraint: Constraint, where: str) -> EncoderNetwork:
    spec = Encoder(backbone=backbone, width=width, constrain=where)
    generator = torch.Generator().manual_seed(0)
    return spec.build(32, torch.full((3,), 0.5), torch.full((3,), 0.25), constraint, generator)


def iteration(
    backbone: str, variant: str, *, batch: int, device: str, width: int = 16
) -> Callable[[], object]:
    """One training iteration of a variant: adamw (torch's), none, projector or all (weights constrained)."""
    where = variant if variant in ("projector", "all") else "projector"
    constraint = Orthogonal() if variant in ("projector", "all") else Unconstrained()
    network = _network(backbone, width, constraint, where).to(device)
    if variant == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    else:
        groups = parameter_groups(network, RiemannianAdam, lr=3e-3, weight_decay=0.01)
        optimizer = RiemannianAdam(groups, lr=3e-3)
    views = torch.rand(2 * batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(device)
    loss = NTXent(temperature=0.2)

    def step() -> None:
        optimizer.zero_grad()
        u = network(views).reshape(2, 1, batch, -1)  # (2b, z) -> (2, 1, b, z)
        loss(u[0], u[1]).sum().backward()
        optimizer.step()

    return step


def measure(
    backbone: str, *, batch: int, device: str, rounds: int, width: int = 16, warmup: int = 2
) -> list[Row]:
    """The four variants of one backbone, interleaved."""
    variants = ("adamw", "none", "projector", "all")
    steps = {name: iteration(backbone, name, batch=batch, device=device, width=width) for name in variants}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + warmup):
        for name in random.Random(turn).sample(variants, len(variants)):
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["adamw"])
    bounds = BOUNDS.get(backbone, {})
    return [
        Row(backbone, name, statistics.median(times[name]), statistics.median(times[name]) / base, bounds.get(name))
        for name in variants
    ]  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """A line a variant."""
    lines = ["| backbone | constrained | ms an iteration | of AdamW's | promised |", "|---|---|---|---|---|"]
    for row in rows:
        bound = "" if row.bound is None else f"≤ {row.bound}{'' if row.holds else ' (not held)'}"
        lines.append(
            f"| {row.backbone} | {row.variant} | {1000 * row.seconds:.3g} | {row.ratio:.3f} | {bound} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="*", default=["small_resnet", "resnet18"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=16, help="of small_resnet")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = []
    for backbone in options.backbones:
        rows += measure(
            backbone, batch=options.batch, device=options.device, rounds=options.rounds, width=options.width
        )
    print(markdown(rows))
    return rows


if __name__ == "__main__":
    main()
