"""Siamese networks with orthonormal online weights, beyond the paper: what the constraint replaces, and what not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.plots.style import OKABE_ITO, constraint_colour
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.siamese_training import siamese_training
from sslmanifold.reproduction.theories.training import halved
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import solve_siamese, view_moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = 2
# the last two directions hold next to no signal, and next to no noise
SIGNAL, NOISE = (2.0, 1.5, 1.0, 0.4, 0.05, 0.02), (0.5, 0.4, 0.3, 0.2, 0.01, 0.005)
DECAY = 0.02
RUNS: dict[str, dict[str, Any]] = {
    "free": {"weight_decay": DECAY},
    "orthonormal": {"weight_decay": DECAY, "orthonormal": True},
    "neither": {"orthonormal": True, "kind": "none", "stop_gradient": False},
    "no_predictor": {"orthonormal": True, "kind": "none"},
    "no_stop": {"orthonormal": True, "stop_gradient": False},
    "no_decay": {"orthonormal": True},
}
NAMES = {
    "free": "free W, predictor, stop-gradient, decay",
    "orthonormal": "orthonormal W, the same",
    "no_decay": "orthonormal W, no decay",
    "no_stop": "orthonormal W, no stop-gradient",
    "no_predictor": "orthonormal W, no predictor",
    "neither": "orthonormal W, neither",
}


def share(weight: Tensor, basis: Tensor) -> Tensor:
    """How much of the row space of W (…, z, d) lies in the span of a basis (d, k ≥ z): between 0 and 1, (…,)."""
    q = torch.linalg.qr(weight.mT).Q
    return (basis.mT @ q).square().sum((-2, -1)) / weight.shape[-2]


def compute(settings: Settings) -> Result:
    """Orthonormal rows trained with and without predictor, stop-gradient and decay, beside a free weight."""
    (generator,) = streams(settings.seed, 1)
    n, d, lr, end = settings.choose(100, 40), len(SIGNAL), settings.choose(0.05, 0.1), 300.0
    a, b = exact_views(generator, n, SIGNAL, NOISE)
    x, x_aug = view_moments(a, b)
    top, quiet = torch.linalg.eigh(x)[1][:, -Z:], torch.linalg.eigh(x_aug)[1][:, :Z]
    rows = torch.linalg.qr(torch.randn(d, Z, generator=generator, dtype=torch.float64)).Q.mT
    predictor = 0.5 * torch.eye(Z, dtype=torch.float64)
    arrays: dict[str, np.ndarray] = {}
    signal, noise, least, loss = {}, {}, {}, {}
    for name, kind in settings.track(RUNS.items()):
        start = 0.3 * rows if name == "free" else rows
        path = siamese_training(a, b, start, predictor, lr, round(end / lr), **kind)
        weights = torch.stack([w for w, _, _ in path])
        signal[name], noise[name] = float(share(weights[-1], top)), float(share(weights[-1], quiet))
        least[name] = float(torch.linalg.svdvals(weights[-1])[-1])
        loss[name] = float(torch.trace(weights[-1] @ x_aug @ weights[-1].mT))
        kept = torch.logspace(0, np.log10(len(weights) - 1), 60).long().unique()
        arrays[f"time_{name}"], arrays[f"share_{name}"] = kept.numpy() * lr, share(weights[kept], top).numpy()
    times = torch.logspace(np.log10(lr), np.log10(end), 120, dtype=torch.float64)
    arrays["time"] = times.numpy()
    for name, first in (("free", 0.3 * rows), ("orthonormal", rows), ("no_decay", rows)):
        solved = solve_siamese(
            x,
            x_aug,
            first,
            predictor,
            times,
            orthonormal=name != "free",
            weight_decay=RUNS[name].get("weight_decay", 0.0),
        )
        arrays[f"exact_{name}"] = share(solved.weight, top).numpy()
    exact = solve_siamese(x, x_aug, rows, predictor, [3.0], orthonormal=True, weight_decay=DECAY)

    def last(rate: float) -> Tensor:
        options = RUNS["orthonormal"]
        *_, (w, p, _) = siamese_training(a, b, rows, predictor, rate, round(3.0 / rate), **options)
        return torch.cat([w.flatten(), p.flatten()])

    ratio, rest = halved(last, torch.cat([exact.weight.flatten(), exact.predictor.flatten()]), 0.02)
    best = float(torch.linalg.eigvalsh(x_aug)[:Z].sum())

    command = settings.command("orthonormal")
    evidence = (
        f"figure orthonormal; X of spectrum {', '.join(map(str, SIGNAL))}, X′ of {', '.join(map(str, NOISE))}, "
        f"n = {n} pairs, z = {Z}, learning rate {lr:g}, t = {end:g}"
    )
    without = ("neither", "no_predictor", "no_stop")
    claims = [
        Claim(
            "An orthonormal online weight follows Ẇ = G − sym(GWᵀ)W with G = Pᵀ(WX − PW(X + X′))",
            [
                Check("|ratio of the distances at lr and lr/2 − 2|, t = 3", abs(ratio - 2), 0.1),
                Check("training extrapolated to lr → 0, relative", rest, 1e-3),
            ],
            evidence=f"{evidence}; learning rates 0.02 and 0.01, rows made orthonormal again after each step",
            command=command,
        ),
        Claim(
            "It does not collapse, with or without predictor and stop-gradient",
            [
                Check("|least singular value of W − 1|, all five", max(
                    abs(value - 1) for name, value in least.items() if name != "free"), 1e-9),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "With predictor, stop-gradient and decay it learns what a free weight learns",
            [
                Check("share of the top z directions of X, orthonormal", signal["orthonormal"], 0.99, ">="),
                Check("the same, free weight", signal["free"], 0.99, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "So the constraint makes predictor and stop-gradient unnecessary",
            [Check("least share of the top z directions of X without one or both", min(
                signal[name] for name in without), 0.99, ">=")],
            [
                Check("|least singular value of W − 1| without one or both", max(
                    abs(least[name] - 1) for name in without), 1e-9),
                Check("share of the z directions of least X′, without either", noise["neither"], 0.99, ">="),
                Check("largest share of the top z directions of X without one or both", max(
                    signal[name] for name in without), 0.01),
            ],
            correction="for the rank alone: without them W goes to the z directions in which views differ least, "
            "signal or not",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Without either the loss is Tr(WX′Wᵀ), and ends on the sum of the z least eigenvalues of X′",
            [Check("|Tr(WX′Wᵀ)/(λ1 + λ2) − 1|", abs(loss["neither"] / best - 1), 1e-3)],
            evidence=evidence,
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"X of spectrum {', '.join(map(str, SIGNAL))}, X′ of {', '.join(map(str, NOISE))}, n = {n} pairs, z = {Z}, "
        f"η = {DECAY} on free weights and predictor, learning rate {lr:g}; lines: exact flows, points: training"
    )
    return Result(claims, arrays, {"signal": signal, "noise": noise}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """How much of W lies in the signal over time, and in the end in the signal and in what is quiet."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    marks = {
        "free": "o",
        "orthonormal": "o",
        "no_decay": "s",
        "no_stop": "^",
        "no_predictor": "v",
        "neither": "x",
    }
    for name, label in NAMES.items():
        colour = constraint_colour("none" if name == "free" else "orthogonal")
        if f"exact_{name}" in arrays:
            axes[0].plot(arrays["time"], arrays[f"exact_{name}"], color=colour, linewidth=1.2)
        shown = {"color": colour, "linestyle": "none", "markersize": 4, "label": label}
        axes[0].plot(arrays[f"time_{name}"][::2], arrays[f"share_{name}"][::2], marks[name], **shown)
    axes[0].set(
        xscale="log", xlabel="time (Σ lr)", ylabel="share of the top z directions of X", ylim=(-0.03, 1.03)
    )
    axes[0].set_title("how much of W is signal")
    place = np.arange(len(NAMES))
    axes[1].barh(
        place + 0.2,
        [facts["signal"][n] for n in NAMES],
        0.38,
        color=OKABE_ITO["blue"],
        label="top directions of X",
    )
    axes[1].barh(place - 0.2, [facts["noise"][n] for n in NAMES], 0.38, color=OKABE_ITO["orange"],
                 label="directions of least X′")  # fmt: skip
    axes[1].set_yticks(place, list(NAMES.values()))
    axes[1].invert_yaxis()
    axes[1].set(xlabel="share of W at the end", title="what is learned")
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    axes[0].legend(fontsize=7.5, loc="upper left")
    return {"orthonormal": figure}


PART = Part("orthonormal", "An orthonormal online network", compute, draw)
