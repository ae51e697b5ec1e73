"""Siamese networks mode by mode: which starts and which decay a mode survives, what α, EMA and DirectPred do."""

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
from sslmanifold.reproduction.theories.siamese_training import siamese_training
from sslmanifold.reproduction.theories.training import halved
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import solve_siamese_modes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA2 = 0.25
Z = 2
THRESHOLD = 1 / (4 * (1 + SIGMA2))  # of η, beyond which p²(1 − (1 + σ²)p) = ηp has no solution but 0


def fixed_points(decay: float) -> tuple[float, float]:
    """p∓ = (1 ∓ √(1 − 4η(1 + σ²)))/(2(1 + σ²)): a balanced mode that starts above p₋ goes to p₊, one below it to 0."""
    root = math.sqrt(1 - 4 * decay * (1 + SIGMA2))
    return (1 - root) / (2 * (1 + SIGMA2)), (1 + root) / (2 * (1 + SIGMA2))


def compute(settings: Settings) -> Result:
    """Trainings on isotropic data from aligned starts, beside the decoupled modes and their fixed points."""
    (generator,) = streams(settings.seed, 1)
    n, d = settings.choose(60, 20), 3
    a, b = exact_views(generator, n, (1.0,) * d, (SIGMA2,) * d)
    rows = torch.linalg.qr(torch.randn(d, Z, generator=generator, dtype=torch.float64)).Q.mT
    turn = torch.linalg.qr(torch.randn(Z, Z, generator=generator, dtype=torch.float64)).Q
    lr = settings.choose(0.05, 0.2)

    def train(p: Any, s: Any, rate: float, time: float, **options: Any) -> tuple[Tensor, Tensor]:
        """Eigenvalues (T, z) of P and W Wᵀ in the basis of the start, for eigenvalues p and s at the start."""
        p, s = (torch.as_tensor(v, dtype=torch.float64).expand(Z) for v in (p, s))
        weight, predictor = turn * s.sqrt() @ rows, turn * p @ turn.mT
        path = siamese_training(a, b, weight, predictor, rate, round(time / rate), **options)
        ws, ps = (torch.stack(part) for part in list(zip(*path, strict=True))[:2])
        in_basis = [turn.mT @ m @ turn for m in (ps, ws @ ws.mT)]
        return in_basis[0].diagonal(dim1=-2, dim2=-1), in_basis[1].diagonal(dim1=-2, dim2=-1)

    # two modes of BYOL at once, beside the decoupled equations
    byol: dict[str, Any] = {"predictor_rate": 1.5, "ema_rate": 0.4, "weight_decay": 0.1}
    starts = torch.tensor([0.4, 0.9], dtype=torch.float64), torch.tensor([0.5, 0.2], dtype=torch.float64)
    exact = solve_siamese_modes(*starts, [3.0], augmentation=SIGMA2, **byol)
    ratio, rest = halved(
        lambda rate: torch.cat([part[-1] for part in train(*starts, rate, 3.0, **byol)]),
        torch.cat([exact.p[0], exact.s[0]]),
        0.02,
    )

    # decay across its threshold, from the p of the fixed point at the threshold
    decays, time = THRESHOLD * torch.tensor([0.25, 0.5, 0.75, 0.9, 1.1, 1.3]), 300.0
    top = 0.9 / (1 + SIGMA2)
    survived = [
        float(train(top, top**2, lr, time, weight_decay=float(eta))[0][-1, 0])
        for eta in settings.track(decays)
    ]
    forecast = [fixed_points(float(eta))[1] if eta < THRESHOLD else 0.0 for eta in decays]
    decay_error = max(abs(x - y) for x, y in zip(survived, forecast, strict=True))

    # starts across p₋ at one decay
    eta = 0.1
    low, high = fixed_points(eta)
    arrays: dict[str, np.ndarray] = {"decays": decays.numpy(), "survived": np.array(survived)}
    shares, ends = (0.8, 0.95, 1.05, 1.5), []
    arrays["times"] = np.linspace(0, 150, 151)
    for share in shares:
        p = train(share * low, (share * low) ** 2, lr, 150.0, weight_decay=eta)[0][:, 0]
        ends.append(float(p[-1]))
        solved = solve_siamese_modes(
            share * low, (share * low) ** 2, arrays["times"].tolist(), augmentation=SIGMA2, weight_decay=eta
        )
        arrays[f"exact_{share}"], arrays[f"seen_{share}"] = solved.p.numpy(), p[:: len(p) // 30].numpy()
    arrays["seen_times"] = np.arange(len(p))[:: len(p) // 30] * lr
    balanced_error = max(
        abs(end - (high if share > 1 else 0.0)) for end, share in zip(ends, shares, strict=True)
    )

    # a start that plain stop-gradient loses
    poor: dict[str, Any] = {"p": 0.05, "s": 0.02}
    alphas, betas = (0.5, 1.0, 2.0, 5.0), (0.1, 1.0)
    by_alpha = [
        float(train(**poor, rate=lr / 2, time=150.0, weight_decay=eta, predictor_rate=alpha)[0][-1, 0])
        for alpha in alphas
    ]
    by_beta = [
        float(train(**poor, rate=lr, time=150.0, weight_decay=eta, ema_rate=beta)[0][-1, 0]) for beta in betas
    ]
    arrays |= {"alphas": np.array(alphas), "by_alpha": np.array(by_alpha), "high": np.array(high)}

    # DirectPred: W alone is trained; from balance its predictor is the one that gradients would come to
    start = torch.tensor([0.3, 0.7], dtype=torch.float64)
    moved = solve_siamese_modes(start, start**2, [5.0], augmentation=SIGMA2, weight_decay=eta)
    direct_ratio, direct_rest = halved(
        lambda rate: train(start, start**2, rate, 5.0, weight_decay=eta, kind="direct")[1][-1],
        moved.s[0],
        0.02,
    )
    direct_end = float(train(start, start**2, lr, 100.0, weight_decay=eta, kind="direct")[0][-1].min())

    command = settings.command("modes")
    evidence = f"X = I, X′ = {SIGMA2} I, n = {n} pairs, z = {Z}, learning rate {lr:g}"
    claims = [
        Claim(
            "With isotropic data and aligned eigenspaces every mode goes by itself: ṗ = αs(τ − (1 + σ²)p) − ηp, "
            "ṡ = 2ps(τ − (1 + σ²)p) − 2ηs, τ̇ = β(1 − τ) − τṡ/2s",
            [
                Check("|ratio of the distances at lr and lr/2 − 2|", abs(ratio - 2), 0.1),
                Check("training extrapolated to lr → 0, relative, t = 3", rest, 1e-3),
            ],
            evidence=f"{evidence}; α = 1.5, β = 0.4, η = 0.1, learning rates 0.02 and 0.01",
            command=command,
        ),
        Claim(
            "A mode survives weight decay up to η = 1/4(1 + σ²), where it ends on p₊, and dies above",
            [Check("largest |p − forecast| at t = 300, six values of η", decay_error, 0.01)],
            evidence=f"figure modes; {evidence}, start {top:g}",
            command=command,
        ),
        Claim(
            "A balanced start below p₋ is lost, one above it goes to p₊",
            [
                Check(
                    "largest |p − forecast| at t = 150, four starts from 0.8 p₋ to 1.5 p₋",
                    balanced_error,
                    0.01,
                )
            ],
            evidence=f"figure modes; {evidence}, η = {eta}",
            command=command,
        ),
        Claim(
            "A predictor that learns faster than the weight (α > 1) keeps starts that are lost otherwise",
            [
                Check("p at t = 150, α = 2 and 5", min(by_alpha[2:]), 0.9 * high, ">="),
                Check("the same, α = 0.5 and 1", max(by_alpha[:2]), 0.05),
            ],
            evidence=f"figure modes; {evidence}, η = {eta}, p(0) = {poor['p']}, s(0) = {poor['s']}",
            command=command,
        ),
        Claim(
            "So does a slow target",
            [
                Check("p at t = 150, β = 0.1", by_beta[0], 0.9 * high, ">="),
                Check("the same, β = 1", by_beta[1], 0.9 * high, ">="),
            ],
            [
                Check("p at t = 150, β = 0.1", by_beta[0], 0.9 * high, ">="),
                Check("the same, β = 1", by_beta[1], 0.05),
            ],
            correction="where it is slow enough: β = 0.1 keeps this start, β = 1 loses it as stop-gradient does",
            evidence=f"{evidence}, η = {eta}, p(0) = {poor['p']}, s(0) = {poor['s']}",
            command=command,
        ),
        Claim(
            "DirectPred: the predictor set to √(WWᵀ) does as well as the one that is trained",
            [
                Check(
                    "|ratio of the distances to the trained modes at lr and lr/2 − 2|",
                    abs(direct_ratio - 2),
                    0.1,
                ),
                Check("extrapolated to lr → 0, relative, t = 5", direct_rest, 1e-3),
                Check("p₊ − smallest p at t = 100", high - direct_end, 0.01),
            ],
            evidence=f"{evidence}, η = {eta}, α = 1, balanced start",
            command=command,
        ),
    ]
    caption = (
        f"X = I, X′ = {SIGMA2} I, n = {n} pairs, z = {Z}, learning rate {lr:g}; middle and right η = {eta}"
    )
    return Result(claims, arrays, {"shares": list(shares), "low": low}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """The end of a mode over weight decay; its way from starts around p₋; what a faster predictor keeps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13.5, 3.9), layout="constrained")
    below = np.linspace(0, THRESHOLD, 300)
    axes[0].plot(below, [fixed_points(eta)[1] for eta in below], color=THEORY, label="p₊")
    axes[0].plot(below, [fixed_points(eta)[0] for eta in below], ":", color=THEORY, label="p₋")
    axes[0].plot([THRESHOLD, 1.4 * THRESHOLD], [0, 0], color=THEORY)
    axes[0].plot(
        arrays["decays"], arrays["survived"], "o", color=OKABE_ITO["blue"], label="training, t = 300"
    )
    axes[0].set(
        xlabel="weight decay η",
        ylabel="eigenvalue p of the predictor",
        title="a mode survives up to 1/4(1 + σ²)",
    )
    axes[0].legend()
    for share, colour in zip(facts["shares"], ("vermillion", "orange", "sky", "blue"), strict=True):
        axes[1].plot(
            arrays["times"], arrays[f"exact_{share}"], color=OKABE_ITO[colour], label=f"p(0) = {share:g} p₋"
        )
        axes[1].plot(
            arrays["seen_times"], arrays[f"seen_{share}"], ".", color=OKABE_ITO[colour], markersize=6
        )
    axes[1].axhline(facts["low"], color=THEORY, linestyle=":", linewidth=1.2)
    axes[1].set(
        xlabel="time (Σ lr)", title="balanced starts around p₋: modes and training", ylim=(-0.03, 0.8)
    )
    axes[1].legend(loc="center right")
    axes[2].axhline(float(arrays["high"]), color=THEORY, linewidth=1.2, label="p₊")
    axes[2].plot(
        arrays["alphas"], arrays["by_alpha"], "o", color=OKABE_ITO["blue"], label="training, t = 150"
    )
    axes[2].set(xscale="log", xlabel="predictor rate α", title="p(0) = 0.05, s(0) = 0.02", ylim=(-0.03, 0.8))
    axes[2].set_xticks(arrays["alphas"], [f"{alpha:g}" for alpha in arrays["alphas"]])
    axes[2].minorticks_off()
    axes[2].legend()
    return {"modes": figure}


PART = Part("modes", "Which modes survive, and DirectPred", compute, draw)
