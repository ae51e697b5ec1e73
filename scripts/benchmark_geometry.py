"""Time of one optimizer step and of one whole training iteration, next to the alternatives.

    python scripts/benchmark_geometry.py                # full table, about five minutes
    python scripts/benchmark_geometry.py quick=true     # small shapes, seconds
    python scripts/benchmark_geometry.py out=DIR        # also DIR/geometry_benchmark.{png,md,json}

One process, one CPU thread, float32. The methods take turns, one call each a round, in shuffled order, so
that other load on the machine hits all alike, and what is taken is the processor time of the process, in
which waiting for the processor does not count; the medians are compared. A step is timed alone with a gradient
set beforehand; an iteration is forward, backward and step of a two-layer net on two views of 256 points.
torch's orthogonal parametrisation (and geotorch's, where it is installed) moves the work into forward and
backward, so it appears among the iterations only.
"""

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslmanifold.errors import UserError
from sslmanifold.geometry import ManifoldParameter, RiemannianSGD, Stiefel, haar
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.plots.style import OKABE_ITO, figure_style

LR = 0.01
VIEW = 256
EMBEDDING = 16

FULL = {"steps": [(512, 64), (1024, 128), (4096, 256), (8, 512, 64)], "iterations": [(512, 64), (4096, 256)]}
QUICK = {"steps": [(128, 16), (4, 64, 16)], "iterations": [(128, 16)]}


@dataclass
class Timing:
    """Median processor seconds of one method at one shape; ``kind`` is step or iteration.

    ``low`` and ``high`` are the first and last decile of the calls.
    """

    kind: str
    shape: str
    method: str
    seconds: float
    calls: int
    low: float
    high: float


@dataclass
class Bound:
    """A promised ratio: ``other``/``ours`` at least ``limit``; ours/other at most, if ``at_most``."""

    kind: str
    shape: str
    ours: str
    other: str
    limit: float
    at_most: bool = False


BOUNDS = [
    Bound("step", "512×64", "canonical", "geoopt canonical", 10),
    Bound("step", "4096×256", "canonical", "geoopt canonical", 35),
    *(Bound("step", s, "euclidean", "geoopt Euclidean", 1.4) for s in ("512×64", "1024×128", "4096×256")),
    *(Bound("step", s, "project", "SVD projection", 2.5) for s in ("512×64", "1024×128", "4096×256")),
    Bound("step", "8×512×64", "canonical", "geoopt canonical", 15),
    Bound("iteration", "512×64", "grassmann", "plain SGD", 1.35, at_most=True),
    Bound("iteration", "4096×256", "grassmann", "plain SGD", 1.9, at_most=True),
]


def name_of(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def step_methods(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """One optimizer step on a weight of this shape, by method; leading dimensions are a batch."""
    start = haar(*shape)
    grad = torch.randn(*shape) / shape[-2] ** 0.5

    def prepared(param: nn.Parameter, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def step() -> object:
            return optimizer.step()

        param.grad = grad.clone()
        return step

    def ours(manifold: Stiefel, **kwargs: float) -> Callable[[], object]:
        p = ManifoldParameter(start.clone(), manifold, batch=True)
        return prepared(p, RiemannianSGD([p], lr=LR, **kwargs))

    def theirs(manifold: geoopt.Manifold, **kwargs: float) -> Callable[[], object]:
        p = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
        return prepared(p, geoopt.optim.RiemannianSGD([p], lr=LR, **kwargs))

    plain = nn.Parameter(start.clone())
    weight = start.clone()

    @torch.no_grad()
    def svd_projection() -> None:
        u, _, vt = torch.linalg.svd(weight - LR * grad, full_matrices=False)
        weight.copy_(u @ vt)

    return {
        "grassmann": ours(Stiefel("grassmann")),
        "euclidean": ours(Stiefel("euclidean")),
        "canonical": ours(Stiefel("canonical")),
        "project": ours(Stiefel("euclidean", retraction="project")),
        "cholesky_qr": ours(Stiefel("grassmann", retraction="cholesky_qr")),
        "cayley": ours(Stiefel("canonical", retraction="cayley")),
        "grassmann, momentum": ours(Stiefel("grassmann"), momentum=0.9),
        "geoopt canonical": theirs(geoopt.CanonicalStiefel()),
        "geoopt Euclidean": theirs(geoopt.EuclideanStiefel()),
        "geoopt Euclidean, momentum": theirs(geoopt.EuclideanStiefel(), momentum=0.9),
        "SVD projection": svd_projection,
        "plain SGD": prepared(plain, torch.optim.SGD([plain], lr=LR)),
    }


class _TwoLayer(nn.Module):
    """u(x) = W2ᵀ φ(W1 x), W1 (h×d), W2 (h×z)."""

    def __init__(self, first: nn.Parameter, second: nn.Parameter, tanh: bool) -> None:
        super().__init__()
        self.first, self.second, self.tanh = first, second, tanh

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.first.mT  # (n, h)
        return (hidden.tanh() if self.tanh else hidden) @ self.second  # (n, z)


class _Parametrised(nn.Module):
    """The same net with a weight that torch or geotorch computes from a free one."""

    def __init__(
        self, shape: tuple[int, ...], second: nn.Parameter, constrain: Callable[..., object]
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[1], shape[0], bias=False)
        constrain(self.layer, "weight")
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() @ self.second


def iteration_methods(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """Forward, backward and step on two views of 256 points, by method; W1 has this shape."""
    h, d = shape
    x = torch.randn(VIEW, d) / d**0.5
    views = torch.cat((x, x + 0.1 * torch.randn_like(x) / d**0.5))  # (512, d)
    w1, w2 = haar(h, d), haar(h, EMBEDDING)

    def iteration(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def run() -> None:
            optimizer.zero_grad()
            u = net(views)
            (-(u[:VIEW] * u[VIEW:]).sum() / VIEW).backward()
            optimizer.step()

        return run

    def ours(manifold: Stiefel, tanh: bool = True, **kwargs: float) -> Callable[[], object]:
        net = _TwoLayer(
            ManifoldParameter(w1.clone(), manifold), ManifoldParameter(w2.clone(), manifold), tanh=tanh
        )
        return iteration(net, RiemannianSGD(net.parameters(), lr=LR, **kwargs))

    def theirs(manifold: geoopt.Manifold) -> Callable[[], object]:
        net = _TwoLayer(
            geoopt.ManifoldParameter(w1.clone(), manifold=manifold),
            geoopt.ManifoldParameter(w2.clone(), manifold=manifold),
            tanh=True,
        )
        return iteration(net, geoopt.optim.RiemannianSGD(net.parameters(), lr=LR))

    def plain(tanh: bool = True) -> Callable[[], object]:
        net = _TwoLayer(nn.Parameter(w1.clone()), nn.Parameter(w2.clone()), tanh=tanh)
        return iteration(net, torch.optim.SGD(net.parameters(), lr=LR))

    def parametrised(constrain: Callable[..., object]) -> Callable[[], object]:
        net = _Parametrised(shape, nn.Parameter(w2.clone()), constrain)
        return iteration(net, torch.optim.SGD(net.parameters(), lr=LR))

    orthogonal = nn.utils.parametrizations.orthogonal
    methods = {
        "grassmann": ours(Stiefel("grassmann")),
        "euclidean": ours(Stiefel("euclidean")),
        "canonical": ours(Stiefel("canonical")),
        "project": ours(Stiefel("euclidean", retraction="project")),
        "grassmann, momentum": ours(Stiefel("grassmann"), momentum=0.9),
        "grassmann, linear net": ours(Stiefel("grassmann"), tanh=False),
        "geoopt Euclidean": theirs(geoopt.EuclideanStiefel()),
        "geoopt canonical": theirs(geoopt.CanonicalStiefel()),
        "torch orthogonal, Householder": parametrised(
            lambda m, n: orthogonal(m, n, orthogonal_map="householder")
        ),
        "plain SGD": plain(),
        "plain SGD, linear net": plain(tanh=False),
    }
    try:
        import geotorch
    except ImportError:
        pass
    else:
        methods["geotorch"] = parametrised(geotorch.orthogonal)
    return methods


def measure(methods: dict[str, Callable[[], object]], rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds of every timed call of each method; methods take turns.

    Args:
        methods: what to call.
        rounds: most calls of each.
        budget: seconds for the whole; a method too slow for its share is called less often: at least 3 times,
            or only once if a call takes more than 5 seconds.
    """
    first = {}
    for name, call in methods.items():
        for _ in range(2):  # state is created in the first call, which is not timed unless it is very slow
            begin = time.process_time()
            call()
            first[name] = time.process_time() - begin
            if first[name] > 5:
                break
    share = budget / len(methods)
    slow = {name: seconds for name, seconds in first.items() if seconds > 5}
    calls = {n: max(3, min(rounds, int(share / seconds))) for n, seconds in first.items() if n not in slow}
    times: dict[str, list[float]] = {name: [slow[name]] if name in slow else [] for name in methods}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    for i in range(rounds):
        shuffle(order)
        for name in order:
            # Spread the fewer calls of slow methods evenly over the rounds.
            if (i * calls[name]) // rounds == ((i + 1) * calls[name]) // rounds:
                continue
            begin = time.process_time()
            methods[name]()
            times[name].append(time.process_time() - begin)
    return times


def benchmark(quick: bool) -> list[Timing]:
    """Every timing, in the order of the table."""
    plan = QUICK if quick else FULL
    rounds, budget = (5, 2.0) if quick else (200, 12.0)
    out = []
    for kind, make in (("steps", step_methods), ("iterations", iteration_methods)):
        for shape in plan[kind]:
            torch.manual_seed(0)
            for method, times in measure(make(shape), rounds, budget).items():
                low, high = (
                    (deciles[0], deciles[-1]) if (deciles := _deciles(times)) else (times[0], times[0])
                )
                middle = statistics.median(times)
                out.append(
                    Timing(kind.removesuffix("s"), name_of(shape), method, middle, len(times), low, high)
                )
    return out


def _deciles(times: list[float]) -> list[float]:
    """The nine deciles; none of a single call."""
    return statistics.quantiles(times, n=10, method="inclusive") if len(times) > 1 else []


def check(timings: list[Timing]) -> list[tuple[Bound, float, bool]]:
    """Each promised ratio that was measured: (bound, ratio, held)."""
    seconds = {(t.kind, t.shape, t.method): t.seconds for t in timings}
    out = []
    for b in BOUNDS:
        ours, other = (seconds.get((b.kind, b.shape, m)) for m in (b.ours, b.other))
        if ours is None or other is None:
            continue
        ratio = ours / other if b.at_most else other / ours
        out.append((b, ratio, ratio <= b.limit if b.at_most else ratio >= b.limit))
    return out


def rows(timings: list[Timing]) -> tuple[list[str], list[list[str]]]:
    """The table: one row a method, one column a shape, milliseconds and the ratio to plain SGD."""
    columns = list(dict.fromkeys((t.kind, t.shape) for t in timings))
    seconds = {(t.kind, t.shape, t.method): t.seconds for t in timings}
    head = ["method", *(f"{kind} {shape}" for kind, shape in columns)]
    body = []
    for method in dict.fromkeys(t.method for t in timings):
        line = [method]
        for kind, shape in columns:
            value = seconds.get((kind, shape, method))
            base = seconds[kind, shape, "plain SGD"]
            line.append("" if value is None else f"{value * 1e3:.3g} ms ({value / base:.3g}×)")
        body.append(line)
    return head, body


def bound_rows(timings: list[Timing]) -> tuple[list[str], list[list[str]]]:
    """The promised ratios, as measured."""
    head = ["what", "shape", "against", "promised", "measured", "held"]
    body = []
    for b, ratio, held in check(timings):
        promised = f"≤ {b.limit:g}× the time" if b.at_most else f"≥ {b.limit:g}× faster"
        body.append(
            [f"{b.kind}, {b.ours}", b.shape, b.other, promised, f"{ratio:.3g}×", "yes" if held else "no"]
        )
    return head, body


def show(title: str, head: list[str], body: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, column in enumerate(head):
        table.add_column(column, justify="left" if i == 0 else "right")
    for line in body:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def markdown(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(line) + " |" for line in body]
    return "\n".join(lines) + "\n"


def figure(timings: list[Timing], path: Path) -> None:
    """A dot a method at its median, a line from the first to the last decile of its calls; one panel a shape."""
    with figure_style():
        from matplotlib import pyplot as plt

        panels = list(dict.fromkeys((t.kind, t.shape) for t in timings))
        columns = min(2, len(panels))
        lines = -(-len(panels) // columns)
        fig, axes = plt.subplots(
            lines, columns, figsize=(4.4 * columns, 3.2 * lines), squeeze=False, layout="constrained"
        )
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(axes.flat, panels, strict=False):
            _panel(ax, [t for t in timings if (t.kind, t.shape) == panel])
            ax.set_title(f"{panel[0]}, {panel[1]}")
        for ax in axes[-1]:
            ax.set_xlabel("processor time (ms)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        fig.legend(named.values(), named, loc="outside upper center", ncols=len(named))
        fig.savefig(path, dpi=150)
        plt.close(fig)


def _panel(ax: Any, timings: list[Timing]) -> None:
    """The methods of one panel, the fastest on top."""
    chosen = sorted(timings, key=lambda t: -t.seconds)
    for row, t in enumerate(chosen):
        other = t.method.startswith(("geoopt", "SVD", "plain", "torch", "geotorch"))
        colour, marker = (OKABE_ITO["black"], "s") if other else (OKABE_ITO["blue"], "o")
        label = "others" if other else "sslmanifold"
        ax.plot([t.low * 1e3, t.high * 1e3], [row, row], color=colour, linewidth=1.4)
        ax.plot(t.seconds * 1e3, row, marker, color=colour, markersize=5, linestyle="none", label=label)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    # a decade at least, from one power of ten to another: its ticks have labels
    ax.set_xlim(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
    ax.set_yticks(range(len(chosen)), [t.method for t in chosen], fontsize=8)


def main(argv: list[str] | None = None) -> list[Timing]:
    """Run, print, and with ``out=DIR`` save; returns the timings."""
    options = {"quick": "false", "out": ""}
    for word in sys.argv[1:] if argv is None else argv:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            raise UserError(f"cannot read {word!r}: write quick=true or out=DIR")
        options[key] = value
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings = benchmark(quick=options["quick"].lower() in ("true", "1", "yes"))
    finally:
        torch.set_num_threads(threads)
    show("Median processor time (and ratio to plain SGD), one CPU thread, float32", *rows(timings))
    if check(timings):
        show("Promised ratios", *bound_rows(timings))
    if not any(t.method == "geotorch" for t in timings):
        print("geotorch is not installed: left out.")
    if options["out"]:
        folder = Path(options["out"])
        folder.mkdir(parents=True, exist_ok=True)
        figure(timings, folder / "geometry_benchmark.png")
        text = markdown(*rows(timings)) + ("\n" + markdown(*bound_rows(timings)) if check(timings) else "")
        (folder / "geometry_benchmark.md").write_text(text)
        (folder / "geometry_benchmark.json").write_text(json.dumps([asdict(t) for t in timings], indent=1))
        print(f"wrote {folder}/geometry_benchmark.png, .md and .json")
    return timings


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
