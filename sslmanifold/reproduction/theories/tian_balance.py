"""Siamese networks: the flow, the balance law of predictor and weight, and the alignment of their eigenspaces."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.plots.style import OKABE_ITO, THEORY
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.siamese_training import siamese_batch_loss, siamese_training
from sslmanifold.reproduction.theories.training import halved
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import solve_siamese, view_moments
from sslmanifold.theory.siamese import SiameseState, balance, siamese_velocity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECAY, ALPHA = 0.05, 2.0
RUNS: dict[str, dict[str, Any]] = {"sgd": {}, "momentum": {"momentum": 0.9}, "adam": {"adam": True}}


def misaligned(weight: Tensor, predictor: Tensor, x: Tensor) -> Tensor:
    """‖FP − PF‖/(‖F‖‖P‖) of F = W X Wᵀ: 0 where both have the same eigenvectors; (…,)."""
    f = weight @ x @ weight.mT
    return (f @ predictor - predictor @ f).norm(dim=(-2, -1)) / (
        f.norm(dim=(-2, -1)) * predictor.norm(dim=(-2, -1))
    )


def compute(settings: Settings) -> Result:
    """Trainings by three optimizers beside the balance law; long flows on isotropic and on other data."""
    (generator,) = streams(settings.seed, 1)
    n, z, d = settings.choose(200, 40), 2, 4
    a, b = exact_views(generator, n, (1.5, 1.0, 0.7, 0.4), (0.3, 0.2, 0.15, 0.1), apart=True)
    x, x_aug = view_moments(a, b)
    weight = 0.3 * torch.randn(z, d, generator=generator, dtype=torch.float64)
    predictor = 0.5 * torch.eye(z, dtype=torch.float64)
    predictor = predictor + 0.1 * torch.randn(z, z, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {"predictor_rate": ALPHA, "weight_decay": DECAY}

    w, p = (t.clone().requires_grad_() for t in (weight, predictor))
    gradients = torch.autograd.grad(siamese_batch_loss(a, b, w, p, weight), (w, p))
    velocity = siamese_velocity(SiameseState(weight, predictor, weight), x, x_aug)
    equation = max(
        float((v + g).abs().max() / g.abs().max()) for v, g in zip(velocity[:2], gradients, strict=True)
    )

    end, lr = 3.0, settings.choose(0.0025, 0.005)
    exact = solve_siamese(x, x_aug, weight, predictor, [end], **options)

    def last(rate: float, time: float, **kind: Any) -> tuple[Tensor, Tensor]:
        *_, (w, p, _) = siamese_training(a, b, weight, predictor, rate, round(time / rate), **options, **kind)
        return w, p

    ratio, rest = halved(
        lambda rate: torch.cat([part.flatten() for part in last(rate, end)]),
        torch.cat([exact.weight.flatten(), exact.predictor.flatten()]),
        2 * lr,
    )
    first = balance(weight, predictor, ALPHA)
    law = math.exp(-2 * DECAY * end) * first
    of_flow = float((exact.balance(ALPHA)[0] - law).abs().max())
    arrays: dict[str, np.ndarray] = {}
    drift: dict[str, list[float]] = {}
    for name, kind in settings.track(RUNS.items()):
        share = 0.1 if name == "momentum" else 1.0  # 1 − μ: time of the flow is Σ lr/(1 − μ)
        drift[name] = []
        for rate in (lr, lr / 2):
            rate = rate / 4 if name == "momentum" else rate
            found = balance(*last(rate, end * share, **kind), ALPHA)
            drift[name].append(float((found - law).norm() / law.norm()))
        long, coarse = 20.0, 2 * lr
        steps = round(long * share / coarse)
        path = list(siamese_training(a, b, weight, predictor, coarse, steps, **options, **kind))
        path = path[:: max(1, steps // 60)]
        residual = [float(balance(w, p, ALPHA).norm()) for w, p, _ in path]
        arrays[f"balance_{name}"] = np.array(residual)
        arrays[f"time_{name}"] = np.linspace(0, long, len(residual))
    # without decay the balance is conserved, whatever the unit of time; with it every point at rest is balanced
    conserved: dict[str, list[float]] = {}
    for name in ("sgd", "adam"):
        conserved[name] = []
        for rate in (lr, lr / 2):
            *_, (w, p, _) = siamese_training(
                a, b, weight, predictor, rate, round(end / rate), predictor_rate=ALPHA, **RUNS[name]
            )
            conserved[name].append(float((balance(w, p, ALPHA) - first).norm() / first.norm()))
    # momentum compared at Σ lr itself, as the statement is printed
    unscaled = balance(*last(lr / 2, end, momentum=0.9), ALPHA)
    printed = float((unscaled - law).norm() / law.norm())

    times = torch.cat([torch.zeros(1), torch.logspace(-1, math.log10(200), 60)]).double()
    eye = torch.eye(d, dtype=torch.float64)
    still = {}
    for name, moments in {"isotropic": (eye, 0.2 * eye), "other": (x, x_aug)}.items():
        solved = solve_siamese(*moments, weight, predictor, times, **options)
        still[name] = misaligned(solved.weight, solved.predictor, moments[0])
        arrays[f"misaligned_{name}"] = still[name].numpy()
    ends = solve_siamese(x, x_aug, weight, predictor, [200.0], **options)
    kept = solve_siamese(x, x_aug, weight, predictor, [200.0], predictor_rate=ALPHA)
    balanced, imbalance = (
        float(s.balance(ALPHA)[0].norm() / (s.weight[0] @ s.weight[0].mT).norm()) for s in (ends, kept)
    )
    arrays |= {"time": times.numpy(), "first": np.array(float(first.norm()))}

    command = settings.command("balance")
    evidence = f"n = {n} pairs, d = {d}, z = {z}, α = {ALPHA:g}, η = {DECAY:g}, learning rate {lr:g}"
    claims = [
        Claim(
            "The gradient flow of predictor and weight under stop-gradient: Ẇ = Pᵀ(WX − PW(X + X′)) − ηW and "
            "Ṗ = α(WX − PW(X + X′))Wᵀ − ηP",
            [
                Check("both velocities against −∂L of the batch, relative", equation, 1e-12),
                Check("training against the flow: |ratio of the distances at lr and lr/2 − 2|", abs(ratio - 2), 0.1),
                Check("training extrapolated to lr → 0, relative, t = 3", rest, 1e-3),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 1: WWᵀ − PᵀP/α decays as e^{−2ηt}, whatever the data",
            [
                Check("largest entry of the difference along the flow, t = 3", of_flow, 1e-10),
                Check("training: relative drift", drift["sgd"][0], 0.01),
                Check("training: |drift at lr / drift at lr/2 − 2|", abs(drift["sgd"][0] / drift["sgd"][1] - 2), 0.1),
            ],
            evidence=f"figure balance; {evidence}",
            command=command,
        ),
        Claim(
            "So with weight decay predictor and weight come into balance, PᵀP = αWWᵀ; without it the imbalance of the "
            "start stays",
            [
                Check("‖WWᵀ − PᵀP/α‖/‖WWᵀ‖ at t = 200, η = 0.05", balanced, 1e-6),
                Check("the same without decay", imbalance, 0.01, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Theorem 1 for gradient descent with momentum 0.9, t = Σ lr",
            [Check("relative drift at t = Σ lr = 3", printed, 0.01)],
            [
                Check("relative drift at t = Σ lr/(1 − 0.9)", drift["momentum"][1], 0.02),
                Check("|drift at lr / drift at lr/2 − 2|", abs(drift["momentum"][0] / drift["momentum"][1] - 2), 0.2),
            ],
            correction="in units of t = Σ lr/(1 − μ), at first order again, with a drift many times as large",
            evidence=f"{evidence}, a quarter and an eighth of it with momentum",
            command=command,
        ),
        Claim(
            "Theorem 1 for Adam: without decay WWᵀ − PᵀP/α is conserved",
            [
                Check("relative drift, t = 3", conserved["adam"][0], 0.05),
                Check("|drift at lr / drift at lr/2 − 2|", abs(conserved["adam"][0] / conserved["adam"][1] - 2), 0.2),
            ],
            evidence=f"{evidence}, but η = 0 (plain SGD: drift {conserved['sgd'][0]:.1g}); the drift does not fall "
            "with the step: Adam follows another flow. With decay it comes into balance in a time of its own: figure "
            "balance",
            command=command,
        ),
        Claim(
            "Theorem 3: the eigenspaces of the predictor and of WXWᵀ align",
            [
                Check("‖FP − PF‖/(‖F‖‖P‖) at t = 200, isotropic data", float(still["isotropic"][-1]), 1e-10),
                Check("the same, X and X′ of different eigenvectors", float(still["other"][-1]), 1e-10),
            ],
            [
                Check("isotropic data", float(still["isotropic"][-1]), 1e-10),
                Check("X and X′ of different eigenvectors", float(still["other"][-1]), 0.05),
                Check("the same, against exact alignment", float(still["other"][-1]), 1e-6, ">="),
            ],
            correction="exactly for isotropic data, as the paper assumes; a small angle stays where X and X′ do not "
            "commute",
            evidence=f"figure balance; {evidence}; start that is not symmetric",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"n = {n} pairs, d = {d}, z = {z}, α = {ALPHA:g}, η = {DECAY:g}, learning rate {lr:g}; momentum 0.9 in units "
        "of Σ lr/(1 − 0.9); right: exact flows, X = I, X′ = 0.2 I or X and X′ with eigenvectors of their own"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """The balance over time under three optimizers beside the law; the misalignment of eigenspaces over time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained")
    time = arrays["time_sgd"]
    axes[0].plot(time, arrays["first"] * np.exp(-2 * DECAY * time), color=THEORY, label="law: e^{−2ηt}")
    looks = (("sgd", "blue", "o"), ("momentum", "green", "^"), ("adam", "vermillion", "x"))
    for name, colour, marker in looks:
        label = {"sgd": "plain SGD", "momentum": "momentum 0.9", "adam": "Adam"}[name]
        shown = {"color": OKABE_ITO[colour], "linestyle": "none", "markersize": 5, "label": label}
        axes[0].plot(arrays[f"time_{name}"][::2], arrays[f"balance_{name}"][::2], marker, **shown)
    axes[0].set(
        yscale="log",
        ylim=(1e-5, 1),
        xlabel="time (Σ lr)",
        ylabel="‖WWᵀ − PᵀP/α‖",
        title="the balance law in training",
    )
    axes[0].legend()
    for name, colour, label in (
        ("isotropic", "blue", "isotropic data"),
        ("other", "vermillion", "X, X′ do not commute"),
    ):
        shown_misaligned = np.maximum(arrays[f"misaligned_{name}"], 1e-16)
        axes[1].plot(arrays["time"][1:], shown_misaligned[1:], color=OKABE_ITO[colour], label=label)
    axes[1].set(
        xscale="log", yscale="log", ylim=(1e-12, 1), xlabel="time (Σ lr)", ylabel="‖FP − PF‖/(‖F‖‖P‖)"
    )
    axes[1].set_title("eigenspaces of F = WXWᵀ and P align")
    axes[1].legend()
    return {"balance": figure}


PART = Part("balance", "The balance law, and eigenspaces that align", compute, draw)
