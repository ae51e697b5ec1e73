"""Theorem 1 and Lemma 2: at a Haar start a wide nonlinear network is close to its linear counterpart."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sslmanifold.data import HalfMoons
from sslmanifold.geometry import haar
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem, streams
from sslmanifold.theory.linearity import loglog_slope, theorem1_bound

# the K that the bound of the package uses (its derivation is in sslmanifold.theory.linearity)
K = 8.0
TANH_CURVATURE = 4 / (3 * math.sqrt(3))  # max |tanh''|


def gaps(activation: Callable[[Tensor], Tensor], w1: Tensor, w2: Tensor, x: Tensor) -> tuple[Tensor, float]:
    """‖u^φ(x) − u^lin(x)‖ for every draw and point, (S, n), and the largest pre-activation."""
    pre = x @ w1.mT  # (S, n, h)
    return ((activation(pre) - pre) @ w2).norm(dim=-1), float(pre.abs().max())


def compute(settings: Settings) -> Result:
    """Gaps and entries at Haar weights over widths, many draws each, float64."""
    generator = streams(settings.seed, 1)[0]
    x = problem(HalfMoons(n=100), settings.seed).x
    d, z = x.shape[1], 2
    widths = settings.choose((8, 32, 128, 512, 2048, 8192), (8, 64, 512, 2048))
    draws = 40
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        # φ'' = (2 + v) e^v: continuous at 0, no bound on the line
        "v e^v": lambda v: v * torch.exp(v),
        "sigmoid": torch.sigmoid,
    }
    squares = x.square().sum(-1)  # ‖x‖²
    mean: dict[str, list[float]] = {name: [] for name in activations}
    needed: dict[str, list[float]] = {name: [] for name in activations}
    for h in settings.track(widths):
        w1 = haar(draws, h, d, generator=generator, dtype=torch.float64)
        w2 = haar(draws, h, z, generator=generator, dtype=torch.float64)
        for name, activation in activations.items():
            gap, largest = gaps(activation, w1, w2, x)
            mean[name].append(float(gap.mean()))
            # the K c that Theorem 1 would need at this width, c where the pre-activations really are
            curvature = {"tanh": TANH_CURVATURE, "v e^v": (2 + largest) * math.exp(largest)}.get(name, 1.0)
            unit = theorem1_bound(h, d, 1.0, curvature, constant=1.0)
            needed[name].append(float((gap / (squares * unit)).max()))
    slopes = {name: loglog_slope(widths, torch.tensor(values)) for name, values in mean.items()}

    sides = settings.choose((8, 32, 128, 512), (8, 32, 128))
    above = []
    for h in sides:
        count = settings.choose(60, 40)
        entries = torch.stack(
            [haar(h, h, generator=generator, dtype=torch.float64).abs().max() for _ in range(count)]
        )
        above.append(float((entries >= math.log(h) / math.sqrt(h)).double().mean()))

    command = settings.command("theorem1")
    evidence = f"Haar weights, h = {widths[0]} … {widths[-1]}, {draws} draws, 100 half-moon points"
    claims = [
        Claim(
            "Theorem 1: ‖u^φ − u^lin‖ ≤ K c ‖x‖² d √(log⁴h/h) at a uniformly random orthogonal start (tanh)",
            [
                Check("largest K needed over widths, draws and points", max(needed["tanh"]), K),
                Check("slope of log mean gap in log h", slopes["tanh"], -0.5),
            ],
            evidence=f"{evidence}; the gap in fact falls like h^({slopes['tanh']:.2f})",
            command=command,
        ),
        Claim(
            "Theorem 1, footnote 3: |φ''| ≤ c can be weakened to φ'' continuous at 0 (φ(v) = v e^v)",
            [
                Check("largest K needed, c over the pre-activations met", max(needed["v e^v"]), K),
                Check("slope of log mean gap in log h", slopes["v e^v"], -0.5),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Section 3.2: the conditions on φ are necessary (sigmoid, φ(0) ≠ 0, does not approach its linear net)",
            [Check("slope of log mean gap in log h", slopes["sigmoid"], -0.1, ">=")],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Lemma 2: P(max |Q_ij| ≥ L log h/√h) → 0 for a uniformly random orthogonal Q",
            [
                Check(f"frequency at h = {sides[-1]}, L = 1", above[-1], 0.05),
                Check(
                    f"frequency at h = {sides[0]} minus that at {sides[-1]}", above[0] - above[-1], 0.5, ">="
                ),
            ],
            evidence=f"square Haar matrices, h = {', '.join(map(str, sides))}; frequencies "
            + ", ".join(f"{p:.2f}" for p in above),
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("theorem1", "Theorem 1, Lemma 2", compute)
