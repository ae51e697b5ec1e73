"""Siamese networks: what collapses without a predictor or without stop-gradient, and what EMA and decay change."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.siamese_training import siamese_training
from sslmanifold.reproduction.theories.training import halved
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import solve_siamese_modes, view_moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA2, DECAY, BETA = 0.25, 0.05, 0.3
P0, W0 = 0.5, 0.6
SETTINGS: dict[str, dict[str, Any]] = {
    "both": {},
    "ema": {"ema_rate": BETA},
    "no_decay": {"weight_decay": 0.0},
    "ema_alone": {"kind": "none", "ema_rate": BETA},
    "no_predictor": {"kind": "none"},
    "no_stop": {"stop_gradient": False},
    "neither": {"kind": "none", "stop_gradient": False},
}
NAMES = {
    "both": "predictor, stop-gradient",
    "ema": "predictor, EMA target",
    "no_decay": "the first, η = 0",
    "ema_alone": "EMA target alone",
    "no_predictor": "stop-gradient alone",
    "no_stop": "predictor alone",
    "neither": "neither",
}
LOOKS = dict(zip(NAMES, ("blue", "sky", "green", "orange", "vermillion", "purple", "black"), strict=True))


def mode_sizes(name: str, times: np.ndarray) -> np.ndarray:
    """Singular value of W predicted for each setting on isotropic data, from the aligned start P = P0 I, (T,).

    With stop-gradient √s of the decoupled modes; without a predictor a linear system; without stop-gradient the flow of
    the mode's own loss ½[(1 + p²)(1 + σ²) − 2p]w² (p = 1 where there is no predictor).
    """
    total = 1 + SIGMA2
    if name in ("both", "ema", "no_decay"):
        kind = SETTINGS[name]
        decay = kind.get("weight_decay", DECAY)
        modes = solve_siamese_modes(
            P0,
            W0**2,
            torch.from_numpy(times),
            augmentation=SIGMA2,
            weight_decay=decay,
            ema_rate=kind.get("ema_rate"),
        )
        return modes.s.clamp_min(0).sqrt().numpy()
    if name == "no_predictor":
        return W0 * np.exp(-(SIGMA2 + DECAY) * times)
    if name == "neither":
        return W0 * np.exp(-(2 * SIGMA2 + DECAY) * times)
    if name == "ema_alone":
        system = np.array([[-(total + DECAY), 1.0], [BETA, -BETA]])
        values, vectors = np.linalg.eig(system)
        start = np.linalg.solve(vectors, [W0, W0])
        return (vectors * start @ np.exp(np.outer(values, times)))[0]

    def velocity(_: float, state: np.ndarray) -> list[float]:
        w, p = state
        return [-w * ((1 + p**2) * total - 2 * p) - DECAY * w, -(w**2) * (total * p - 1) - DECAY * p]

    solved = solve_ivp(velocity, (0, times[-1]), [W0, P0], "DOP853", times, rtol=1e-12, atol=1e-14)
    return solved.y[0]


def compute(settings: Settings) -> Result:
    """Every combination of predictor, stop-gradient, slow target and decay from one start, beside its forecast."""
    (generator,) = streams(settings.seed, 1)
    n, z, d = settings.choose(100, 30), 2, 3
    a, b = exact_views(generator, n, (1.0,) * d, (SIGMA2,) * d)
    weight = W0 * torch.linalg.qr(torch.randn(d, z, generator=generator, dtype=torch.float64)).Q.mT
    predictor = P0 * torch.eye(z, dtype=torch.float64)
    lr, end = settings.choose(0.02, 0.05), 40.0
    arrays: dict[str, np.ndarray] = {}
    last: dict[str, float] = {}
    off: dict[str, float] = {}

    def sizes(name: str, rate: float, time: float) -> Tensor:
        kind = {"weight_decay": DECAY} | SETTINGS[name]
        path = list(siamese_training(a, b, weight, predictor, rate, round(time / rate), **kind))
        return torch.linalg.svdvals(torch.stack([w for w, _, _ in path]))

    def ended(name: str, rate: float) -> Tensor:
        return sizes(name, rate, 4.0)[-1]

    ratios, rests = [], []
    for name in settings.track(SETTINGS):
        values = sizes(name, lr, end)
        times = np.arange(len(values)) * lr
        last[name] = float(values[-1, -1])
        off[name] = float((values[-1] - mode_sizes(name, times)[-1]).abs().max())
        every = len(values) // 40
        arrays[f"seen_{name}"], arrays["seen_time"] = values[::every, -1].numpy(), times[::every]
        arrays["time"] = np.linspace(0, end, 200)
        arrays[f"exact_{name}"] = mode_sizes(name, arrays["time"])
        exact = torch.full((z,), float(mode_sizes(name, np.array([0.0, 4.0]))[-1]), dtype=torch.float64)
        ratio, rest = halved(partial(ended, name), exact, lr)
        ratios.append(abs(ratio - 2))
        rests.append(rest)

    # no predictor, other data, a direction in which views do not differ
    noise = (0.4, 0.2, 0.0)
    c, e = exact_views(generator, n, (1.0, 0.8, 0.6), noise)
    x_aug = view_moments(c, e)[1]
    ends = {}
    for decay in (0.0, DECAY):
        *_, (w, _, _) = siamese_training(
            c, e, weight, None, lr, round(end / lr), kind="none", weight_decay=decay
        )
        ends[decay] = w
    propagated = weight @ torch.linalg.matrix_exp(-x_aug * end)
    still = float(torch.linalg.matrix_norm(ends[0.0], 2))
    formula = float((ends[0.0] - propagated).norm() / weight.norm())

    command = settings.command("collapse")
    evidence = (
        f"figure collapse; X = I, X′ = {SIGMA2} I, n = {n} pairs, z = {z}, η = {DECAY}, start W = {W0} of orthonormal "
        f"rows, P = {P0} I, learning rate {lr:g}, t = {end:g}"
    )
    small, kept = "least singular value of W", 0.5
    claims = [
        Claim(
            "Predictor and stop-gradient together (SimSiam) do not collapse, nor with a slow target (BYOL)",
            [
                Check(f"{small}, stop-gradient", last["both"], kept, ">="),
                Check(f"{small}, EMA target", last["ema"], kept, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 2: without a predictor W goes to 0, stop-gradient or not",
            [
                Check(f"{small}, stop-gradient alone", last["no_predictor"], 1e-3),
                Check(f"{small}, neither", last["neither"], 1e-3),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 2: without stop-gradient W goes to 0, predictor or not",
            [
                Check(f"{small}, predictor alone", last["no_stop"], 1e-3),
                Check(f"{small}, neither", last["neither"], 1e-3),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "A slow target in place of a predictor prevents the collapse",
            [Check(f"{small}, EMA target alone", last["ema_alone"], kept, ">=")],
            evidence=f"{evidence}; with β = {BETA} it is slower than stop-gradient alone, and goes on: figure collapse",
            command=command,
        ),
        Claim(
            "Weight decay is what prevents the collapse",
            [Check(f"{small}, η = 0", last["no_decay"], 1e-3)],
            [
                Check(f"{small}, η = 0", last["no_decay"], kept, ">="),
                Check("largest |singular value − forecast|, η = 0", off["no_decay"], 1e-3),
            ],
            correction="without it there is no collapse either; it brings balance, and lets small modes die",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 2 without weight decay: W goes to 0 where there is no predictor",
            [Check("‖W‖₂, X′ of spectrum 0.4, 0.2, 0, η = 0", still, 1e-2)],
            [
                Check("training against W(0)e^{−X′t}, relative to ‖W(0)‖", formula, 0.02),
                Check("‖W‖₂ with η = 0.05", float(torch.linalg.matrix_norm(ends[DECAY], 2)), 0.2),
            ],
            correction="W(t) = W(0)e^{−(X′ + η)t}: without decay the directions in which views do not differ stay",
            evidence=f"n = {n} pairs, X of spectrum 1, 0.8, 0.6, learning rate {lr:g}, t = {end:g}",
            command=command,
        ),
        Claim(
            "Each of the seven settings goes as its modes do",
            [
                Check("largest |ratio of the distances at lr and lr/2 − 2|, t = 4", max(ratios), 0.1),
                Check("largest relative distance extrapolated to lr → 0", max(rests), 2e-3),
            ],
            evidence=evidence,
            command=command,
        ),
    ]
    caption = (
        f"X = I, X′ = {SIGMA2} I, n = {n} pairs, z = {z}, η = {DECAY}, β = {BETA}, learning rate {lr:g}, one start; "
        "lines: the flow of each mode, points: training on the batch"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """The least singular value of W over time, one colour a setting."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for ax in axes:
        for name, colour in LOOKS.items():
            ax.plot(arrays["time"], arrays[f"exact_{name}"], color=OKABE_ITO[colour], label=NAMES[name])
            ax.plot(arrays["seen_time"], arrays[f"seen_{name}"], ".", color=OKABE_ITO[colour], markersize=6)
        ax.set(xlabel="time (Σ lr)")
    axes[0].set(ylabel="least singular value of W", title="what keeps the weight")
    axes[1].set(yscale="log", ylim=(1e-8, 2), title="the same, logarithmic")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return {"collapse": figure}


PART = Part("collapse", "What collapses without predictor, stop-gradient or decay", compute, draw)
