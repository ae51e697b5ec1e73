"""Figure 2: the nonlinear output against the linear one during training, over widths and activations (Conjecture 1)."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape, make_constraint
from sslmanifold.data import HalfMoons, Triplets
from sslmanifold.models import activation
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import Loss, descend, moment_loss
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.theory.linearity import loglog_slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("sigmoid", "relu", "tanh")
ETA = 0.01
# a gap that stays has slope 0, one that falls at the rate of Theorem 1 has −0.5
NOT_VANISHING = -0.15
# untrained networks for the slopes at the start
DRAWS = 200
# replicas × points × width of one batch of trainings: larger ones are limited by memory, and slower
BATCH_ELEMENTS = 200_000


def repeated_negatives_loss(points: Tensor, n: int, indices: Tensor) -> Loss:
    """Eq. 1 / n where every negative is one of the anchors: their embeddings are looked up, not computed again.

    Args:
        points: anchors, then positives, (2n, d).
        n: number of anchors.
        indices: the anchor that is each anchor's negative, (n,).
    """

    def loss(network: ConstrainedNetwork) -> Tensor:
        u = network(points)  # (S, 2n, z)
        anchors = u[:, :n]
        return (anchors * (anchors[:, indices] - u[:, n:])).sum((-2, -1)) / n

    return loss


def gaps(u: Tensor, linear: Tensor) -> Tensor:
    """Root mean square of ‖u − u_lin‖ over the points, absolute and relative to ‖u_lin‖: (S, n, z) → (2, S)."""
    away, size = (part.norm(dim=(-2, -1)) / math.sqrt(u.shape[-2]) for part in (u - linear, linear))
    return torch.stack([away, away / size])


def starting_gaps(constraint: Constraint, widths: Sequence[int], x: Tensor, seed: int) -> dict[str, Tensor]:
    """Mean gaps of ``DRAWS`` untrained networks, activation → (2, widths): these cost nothing, so there are many."""
    means: dict[str, list[Tensor]] = {name: [] for name in ACTIVATIONS}
    for h in widths:
        weights = constraint.initial(NetworkShape(x.shape[-1], h, 2), streams(seed, DRAWS), x.dtype)
        pre = x @ weights[0].mT  # (S, n, h)
        for name in ACTIVATIONS:
            means[name].append(gaps(activation.ACTIVATIONS[name](pre) @ weights[1], pre @ weights[1]).mean(1))
    return {name: torch.stack(values, 1) for name, values in means.items()}


def compute(settings: Settings) -> Result:
    """Trains every width, activation and start twice, with φ and without, from the same weights (float32)."""
    widths = settings.choose((10, 20, 35, 60, 100, 180, 300, 500, 700, 1000), (10, 30, 60, 100, 300))
    # not fewer epochs in a quick run: wide nets leave their start last, and earlier every gap seems to shrink with h
    epochs, starts = 100, settings.choose(10, 8)
    data = HalfMoons()
    scene = problem(data, settings.seed)
    n = scene.x.shape[0]
    x = scene.x.float()
    points = torch.cat([x, scene.batch.positives.float()])
    indices = Triplets(scene.x, seed=settings.seed).negative_indices()[:, 0]
    loss = repeated_negatives_loss(points, n, indices)
    linear_loss = moment_loss(scene.moment.float())
    constraint = make_constraint("orthogonal", metric="euclidean", retraction="project")
    gap = {name: np.zeros((2, len(widths), starts, epochs + 1)) for name in ACTIVATIONS}
    jobs = [
        (index, h, first, min(first + step, starts))
        for index, h in enumerate(widths)
        for step in [max(1, BATCH_ELEMENTS // (2 * n * h))]
        for first in range(0, starts, step)
    ]
    for index, h, first, end in settings.track(jobs):
        shape = NetworkShape(2, h, 2)
        weights = constraint.initial(shape, streams(settings.seed, starts)[first:end], torch.float32)
        linear = [
            x @ network.map().detach()
            for network in descend(constraint, shape, weights, linear_loss, ETA, epochs)
        ]
        for name in ACTIVATIONS:
            for epoch, network in enumerate(descend(constraint, shape, weights, loss, ETA, epochs, name)):
                with torch.no_grad():
                    gap[name][:, index, first:end, epoch] = gaps(network(x), linear[epoch]).numpy()
    arrays = {f"gap_{name}": values.mean(2) for name, values in gap.items()}  # (2, widths, epochs + 1)
    arrays |= {f"spread_{name}": values[..., -1].std(2) for name, values in gap.items()}

    untrained = starting_gaps(constraint, widths, x, settings.seed)

    def start_slope(name: str, kind: int) -> float:
        return loglog_slope(widths, untrained[name][kind])

    def end_slope(name: str, kind: int) -> float:
        return loglog_slope(widths, torch.from_numpy(arrays[f"gap_{name}"][kind, :, -1]))

    # Conjecture 1 at the time when both outputs have left zero, t = log h/(8|λ1|) + const: later for wider nets
    lowest = float(-scene.eigvals[0])
    offset = ETA * epochs - math.log(widths[-1]) / (8 * lowest)
    matched = [min(max(round((math.log(h) / (8 * lowest) + offset) / ETA), 0), epochs) for h in widths]
    same_stage = [arrays["gap_tanh"][1, i, epoch] for i, epoch in enumerate(matched)]
    worst = arrays["gap_tanh"][0].max(-1)
    command = settings.command("fig2")
    grid = (
        f"{len(widths)} widths {widths[0]} … {widths[-1]}, {starts} starts, {epochs} epochs, η = {ETA} on the "
        "1/n loss"
    )
    evidence = f"Figure 2; half moons, {grid}, the orthogonality of Eq. 11"
    values = {name: arrays[f"gap_{name}"][0, :, -1] for name in ACTIVATIONS}
    claims = [
        Claim(
            "Conjecture 1: ‖u_t^φ − u_t^I‖ → 0 for all t > 0 as h → ∞ (tanh)",
            [
                Check("slope in log h of the mean gap after training", end_slope("tanh", 0), -0.3),
                Check("slope in log h of the largest mean gap on the way",
                      loglog_slope(widths, torch.from_numpy(worst)), -0.3),
                Check("slope of the relative gap, at t = log h/(8|λ1|) + const",
                      loglog_slope(widths, torch.tensor(same_stage)), -0.3),
            ],
            evidence=f"{evidence}; gap {values['tanh'][0]:.3f} → {values['tanh'][-1]:.4f}. At a fixed t the absolute "
            f"gap says "
            "little, since both outputs of a wide net are still near zero: the relative gap is checked too",
            command=command,
        ),
        Claim(
            "Section 3.2: ReLU shows the same picture as tanh, with slower convergence",
            [
                Check("slope in log h of the mean gap after training", end_slope("relu", 0), -0.1),
                Check("slope in log h of the mean relative gap after training", end_slope("relu", 1), -0.1),
            ],
            evidence=f"{evidence}; gap after training {values['relu'][0]:.3f} → {values['relu'][-1]:.3f}; at the "
            f"start the "
            f"absolute gap falls (slope {start_slope('relu', 0):.2f}), but only because both outputs shrink: "
            f"the relative one "
            f"does not (slope {start_slope('relu', 1):.2f})",
            command=command,
        ),
        Claim(
            "Section 3.2: for sigmoid the difference grows with the width",
            [Check("slope in log h of the mean gap after training", end_slope("sigmoid", 0), 0.1, ">=")],
            [
                Check("slope in log h of the mean gap after training, least",
                      end_slope("sigmoid", 0), NOT_VANISHING, ">="),
                Check(f"slope in log h of the relative gap of {DRAWS} untrained nets",
                      start_slope("sigmoid", 1), 0.3, ">="),
            ],
            correction="the difference does not vanish with the width: it stays as large in absolute terms and grows "
            "relative to the linear output",
            evidence=f"{evidence}; gap after training {values['sigmoid'][0]:.3f} → {values['sigmoid'][-1]:.3f}",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"Half moons, n = {n}, contrastive loss, z = 2, orthonormal weights; {grid}; means over starts "
        f"(bars: one standard "
        "deviation); root mean square over the training points"
    )
    return Result(claims, arrays, {"widths": list(widths), "starts": starts}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Gap against epochs per activation (the paper's) above; against width, absolute and relative, below."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import BoundaryNorm, ListedColormap

    widths = np.array(facts["widths"])
    figure = plt.figure(figsize=(7.6, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    shades = plt.get_cmap("cividis")(np.linspace(0.0, 0.92, len(widths)))
    titles = {"sigmoid": "sigmoid", "relu": "ReLU", "tanh": "tanh"}
    gap = r"$\|u^\varphi - u^{\mathrm{lin}}\|$"
    above: list[Any] = []
    for column, name in enumerate(ACTIVATIONS):
        ax = figure.add_subplot(grid[0, 2 * column : 2 * column + 2], sharey=above[0] if above else None)
        for index in range(len(widths)):
            ax.plot(arrays[f"gap_{name}"][0, index], color=shades[index], linewidth=1.5)
        ax.set_title(titles[name])
        ax.set(xlabel="epoch", yscale="log")
        ax.tick_params(labelleft=column == 0)
        above.append(ax)
    above[0].set_ylabel(gap)
    key = plt.cm.ScalarMappable(
        BoundaryNorm(np.arange(len(widths) + 1) - 0.5, len(widths)), ListedColormap(shades)
    )
    bar = figure.colorbar(key, ax=above, ticks=range(len(widths)), label="width h", pad=0.02)
    bar.ax.set_yticklabels(map(str, widths))
    bar.ax.tick_params(length=0, labelsize=8)
    for kind, title in ((0, gap), (1, gap + r" / $\|u^{\mathrm{lin}}\|$")):
        ax = figure.add_subplot(grid[1, 3 * kind : 3 * kind + 3])
        _against_width(ax, widths, arrays, titles, kind)
        ax.set_title(title)
        if kind == 0:
            ax.legend(fontsize=8, loc="lower left")
    return {"fig2": figure}


def _against_width(
    ax: Any, widths: np.ndarray, arrays: Mapping[str, np.ndarray], titles: Mapping[str, str], kind: int
) -> None:
    """Gaps at the start and after training, with one standard deviation over starts."""
    colours = {"sigmoid": OKABE_ITO["vermillion"], "relu": OKABE_ITO["orange"], "tanh": OKABE_ITO["blue"]}
    markers = {"sigmoid": "s", "relu": "^", "tanh": "o"}
    for name in ACTIVATIONS:
        ax.errorbar(
            widths,
            arrays[f"gap_{name}"][kind, :, -1],
            arrays[f"spread_{name}"][kind],
            color=colours[name],
            marker=markers[name],
            markersize=5,
            capsize=2,
            label=f"{titles[name]}, trained",
        )
        ax.plot(widths, arrays[f"gap_{name}"][kind, :, 0], ":", color=colours[name], linewidth=1.3)
    ax.plot([], [], ":", color="black", linewidth=1.3, label="at the start")
    ax.set(xscale="log", yscale="log", xlabel="width h")


PART = Part("fig2", "Figure 2: nonlinear against linear networks", compute, draw)
