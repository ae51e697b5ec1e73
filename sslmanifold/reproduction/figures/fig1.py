"""Figure 1 and Example 1: without a constraint the embedding collapses, under the scaled loss it does not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sslmanifold.data import HalfMoons
from sslmanifold.plots.style import constraint_colour
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.part import Part, Result, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTRAINTS = ("unconstrained", "scaled", "orthogonal")
NAMES = {"unconstrained": "none", "scaled": "scaled", "orthogonal": "orthogonal"}


def compute(settings: Settings) -> Result:
    """Trains the three experiments of ``conf/experiment/fig1_*.yaml``, five starts each."""
    arrays: dict[str, np.ndarray] = {}
    rank: dict[str, np.ndarray] = {}
    loss: dict[str, np.ndarray] = {}
    replicas = 5
    for name in settings.track(CONSTRAINTS):
        steps = [] if name == "unconstrained" else [f"trainer.max_steps={settings.choose(500, 200)}"]
        run = trained(settings, f"fig1_{name}", steps)
        loss[name] = np.array([run.metrics[f"train/loss_r{i}"] for i in range(replicas)])  # (S, T)
        arrays[f"loss_{name}"] = loss[name]
        values = run.trajectory["singular_values"][-1]  # (S, z), centred
        share = values / values.sum(-1, keepdims=True)
        rank[name] = np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum(-1))
        arrays[f"embedding_{name}"] = run.trajectory["embedding_final"][0]
        if name == "unconstrained":
            arrays["embedding_initial"] = run.trajectory["embedding_initial"][0]
            arrays["labels"] = run.trajectory["labels"]
    samples = HalfMoons().load(settings.seed)
    arrays["x"] = samples.train_x.numpy()
    free = loss["unconstrained"]
    # converging: the last change is small against the size of the loss
    still = np.abs(free[:, -1] - free[:, -2]) / np.abs(free[:, -1])
    growth = np.abs(free[:, -1]) / np.abs(free).min(1).clip(1e-300)
    settled = {
        name: float((np.abs(loss[name][:, -1] - loss[name][:, -51]) / np.abs(loss[name][:, -1])).max())
        for name in ("scaled", "orthogonal")
    }
    command = settings.command("fig1")
    evidence = "Figure 1; half moons, tanh, h = 100, z = 2, five starts, lr 1e-3 on the summed loss"
    claims = [
        Claim(
            "Example 1, Figure 1a: the unconstrained loss does not converge",
            [
                Check("smallest |L30 − L29|/|L30|", float(still.min()), 0.02, ">="),
                Check("smallest |L30|/min |L|", float(growth.min()), 1e2, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Example 1, Figure 1b: dimension collapse without constraint after 30 epochs",
            [Check("largest effective rank", float(rank["unconstrained"].max()), 1.1)],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Example 1, Figure 1b: no collapse under the scaled loss (and under orthogonality) after 500 epochs",
            [
                Check("smallest effective rank, scaled loss", float(rank["scaled"].min()), 1.5, ">="),
                Check("smallest effective rank, orthogonal", float(rank["orthogonal"].min()), 1.5, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Example 1, Figure 1a: under a constraint the loss converges",
            [
                Check("largest |L_T − L_{T−50}|/|L_T|, scaled loss", settled["scaled"], 0.02),
                Check("largest |L_T − L_{T−50}|/|L_T|, orthogonal", settled["orthogonal"], 0.02),
            ],
            evidence=evidence
            + "; the bound is the one that the unconstrained loss has to exceed in one epoch",
            command=command,
        ),
    ]
    facts = {
        "ranks": {name: [float(value) for value in values] for name, values in rank.items()}
    }  # a start each
    caption = (
        "Half moons, n = 200, noise 0.05, x⁺ = x + N(0, 0.1 I), contrastive loss (sum), u = W2ᵀ tanh(W1 x), h = 100, "
        "z = 2, lr 1e-3, five starts (loss: mean and range; embeddings: the first)"
    )
    return Result(claims, arrays, facts, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Data and losses above (the paper's 1a), embeddings below (1b), each divided by its largest coordinate."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.6), layout="constrained")
    labels = arrays["labels"]

    def scatter(ax: Any, points: np.ndarray, title: str, names: tuple[str, str]) -> None:
        # black and grey: colours are constraints here
        for label, colour, marker in ((0, "#000000", "o"), (1, "#8C8C8C", "^")):
            chosen = labels == label
            ax.plot(*points[chosen].T, marker, color=colour, markersize=3.5, alpha=0.8, linestyle="none")
        ax.set_title(title)
        ax.set(xlabel=names[0], ylabel=names[1])
        ax.set_aspect("equal", adjustable="datalim")

    def embedding(ax: Any, name: str, title: str) -> None:
        points = arrays[f"embedding_{name}"]
        scatter(ax, points / np.abs(points).max(), title, ("$u_1$ / max|u|", "$u_2$ / max|u|"))

    scatter(axes[0, 0], arrays["x"], "data", ("$x_1$", "$x_2$"))
    _losses(axes[0, 1], arrays)
    embedding(axes[0, 2], "initial", "embedding at the start")
    for ax, name in zip(axes[1], CONSTRAINTS, strict=True):
        embedding(ax, name, f"{NAMES[name]}: effective\nrank {facts['ranks'][name][0]:.2f} of 2")
        ax.title.set_color(constraint_colour(NAMES[name]))
    return {"fig1": figure}


def _losses(ax: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Mean and range over starts of all three losses: one falls without end, the others settle."""
    for name, style in zip(CONSTRAINTS, ("-", "-", "--"), strict=True):
        loss, colour = arrays[f"loss_{name}"], constraint_colour(NAMES[name])
        epochs = np.arange(1, loss.shape[1] + 1)
        ax.plot(epochs, loss.mean(0), style, color=colour, label=NAMES[name])
        ax.fill_between(epochs, loss.min(0), loss.max(0), color=colour, alpha=0.25, linewidth=0)
    # linear as far as the constrained ones go; the free one falls by powers of powers
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=300, linscale=30)
    lowest = float(arrays["loss_unconstrained"].min())
    powers = [-(10.0**k) for k in range(20, 301, 20) if 10.0**k < abs(lowest)]
    ax.set_yticks(
        [0, -200, *powers], labels=["0", "−200", *(rf"$-10^{{{round(np.log10(-p))}}}$" for p in powers)]
    )
    ax.minorticks_off()
    ax.set_ylim(lowest, 20)
    ax.set_title("loss, five starts")
    ax.set(xlabel="epoch", ylabel="loss (sum)")
    ax.legend(loc="lower left", fontsize=8)


PART = Part("fig1", "Figure 1: dimension collapse", compute, draw)
