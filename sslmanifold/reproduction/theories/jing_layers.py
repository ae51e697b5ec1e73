"""Dimensional collapse without strong augmentation: what two and three free layers hold back."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.losses.infonce_distance import infonce_distance_loss
from sslmanifold.metrics import effective_rank
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.contrast_flow import contrast_flow, product
from sslmanifold.reproduction.theories.training import trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import contrast_matrix, layer_balance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D, H = 4, 6
SIZES = (0.1, 0.06, 0.036, 0.02)  # singular values of the map at the start
DEPTHS = (1, 2, 3)


def aligned_layers(generator: torch.Generator, depth: int, left: Tensor, right: Tensor) -> list[Tensor]:
    """Balanced layers with the map left diag(SIZES) rightᵀ: each has the singular values' depth-th root."""
    root = torch.diag(torch.tensor(SIZES, dtype=torch.float64) ** (1 / depth))
    if depth == 1:
        return [left @ root @ right.mT]
    between = [
        torch.linalg.qr(torch.randn(H, D, generator=generator, dtype=torch.float64)).Q
        for _ in range(depth - 1)
    ]
    inner = [before @ root @ after.mT for before, after in pairwise(between)]
    return [between[0] @ root @ left.mT, *inner, between[-1] @ root @ right.mT]


def apart(w1: Tensor, w2: Tensor) -> float:
    """‖[W1W1ᵀ, W2W2ᵀ]‖/(‖W1W1ᵀ‖‖W2W2ᵀ‖): 0 where the layers' hidden singular vectors are aligned."""
    p, q = w1 @ w1.mT, w2 @ w2.mT
    return float((p @ q - q @ p).norm() / (p.norm() * q.norm()))


def compute(settings: Settings) -> Result:
    """One, two and three layers trained from the same small map under weak augmentation, beside their flows."""
    (generator,) = streams(settings.seed, 1)
    n, lr, end = settings.choose(80, 40), settings.choose(0.0125, 0.025), 60.0
    a, b = exact_views(generator, n, (1.0, 0.9, 0.8, 0.7), (0.01,) * D)
    left, right = torch.linalg.qr(torch.randn(2, D, D, generator=generator, dtype=torch.float64)).Q

    def loss(*weights: Tensor) -> Tensor:
        m = product(weights)
        return infonce_distance_loss(a @ m, b @ m)

    arrays: dict[str, np.ndarray] = {"times": np.linspace(0, end, 61)}
    early, late, share = {}, {}, {}
    for depth in settings.track(DEPTHS):
        start = aligned_layers(generator, depth, left, right)
        path = [product(w) for w in trained(loss, start, lr, round(end / lr))]
        sizes = torch.linalg.svdvals(torch.stack(path))
        early[depth] = sizes[
            int((sizes[:, 0] > 1.0).int().argmax())
        ]  # when the first direction has grown to 1
        late[depth] = sizes[-1]
        share[depth] = float(early[depth][-1] / early[depth][0])
        every = round(1 / lr)
        arrays[f"seen_{depth}"] = sizes[::every].numpy()
        arrays[f"rank_{depth}"] = effective_rank(a @ torch.stack(path[::every])).numpy()
        exact = contrast_flow(a, b, start, arrays["times"])
        arrays[f"exact_{depth}"] = torch.linalg.svdvals(exact).numpy()
    arrays["early"] = torch.stack([early[depth] / early[depth][0] for depth in DEPTHS]).numpy()

    # the balance of two random layers, and how far they are from aligned
    first = [0.15 * torch.randn(H, D, generator=generator, dtype=torch.float64) for _ in range(2)]
    held = layer_balance(*first)
    drifts, adam = [], []
    for rate in (0.02, 0.01):
        *_, last = trained(loss, first, rate, round(4 / rate))
        drifts.append(float((layer_balance(*last) - held).norm() / held.norm()))
        *_, other = trained(loss, first, rate, round(4 / rate), adam=True)
        adam.append(float((layer_balance(*other) - held).norm() / held.norm()))
    *_, grown = trained(loss, first, lr, round(end / lr))
    bound = 2 * float(held.norm() / (grown[1] @ grown[1].mT).norm())

    # Theorem 3 by one small step: σ̇₁ = σ₁σ₂² vᵀSv, the same for σ₂ where layers are balanced
    w1, w2 = aligned_layers(generator, 2, left, right)
    *_, stepped = trained(loss, [w1, w2], 1e-6, 1)
    root = torch.tensor(SIZES, dtype=torch.float64).sqrt()
    rates = root**3 * (left.mT @ contrast_matrix(a, b, product([w1, w2])) @ left).diagonal()
    theorem3 = max(
        float(((torch.linalg.svdvals(w) - root) / 1e-6 - rates).abs().max() / rates.abs().max())
        for w in stepped
    )

    command = settings.command("layers")
    evidence = (
        f"X of spectrum 1, 0.9, 0.8, 0.7, X′ = 0.01 I, n = {n} pairs, d = z = {D}, learning rate {lr:g}"
    )
    claims = [
        Claim(
            "Two layers conserve W1W1ᵀ − W2W2ᵀ",
            [
                Check("relative drift, t = 4", drifts[0], 0.05),
                Check("|drift at lr / drift at lr/2 − 2|", abs(drifts[0] / drifts[1] - 2), 0.1),
            ],
            evidence=f"{evidence}, but 0.02 and 0.01; random layers of entries 0.15",
            command=command,
        ),
        Claim(
            "The same under Adam",
            [
                Check("relative drift, t = 4", adam[0], 0.05),
                Check("|drift at lr / drift at lr/2 − 2|", abs(adam[0] / adam[1] - 2), 0.2),
            ],
            evidence=f"{evidence}, but 0.02 and 0.01; the drift does not fall with the step",
            command=command,
        ),
        Claim(
            "Theorem 2: the singular vectors of adjacent layers align",
            [Check("‖[W1W1ᵀ, W2W2ᵀ]‖/(‖W1W1ᵀ‖‖W2W2ᵀ‖) at the end", apart(*grown), 1e-6)],
            [
                Check("the same, against the start's", apart(*grown) / apart(*first), 0.2),
                Check(
                    "against the bound 2‖W1W1ᵀ − W2W2ᵀ‖/‖W2W2ᵀ‖ of the conserved balance",
                    apart(*grown) / bound,
                    1.01,
                ),
            ],
            correction="as far as the start was balanced: what the layers conserve keeps them from aligning exactly, "
            "and counts less as they grow",
            evidence=f"{evidence}, t = {end:g}; random layers of entries 0.15",
            command=command,
        ),
        Claim(
            "Theorem 3: singular values of aligned layers go by σ̇₁ = σ₁σ₂² vᵀSv, so small ones stay behind",
            [Check("growth in one step of 1e-6 against the formula, relative", theorem3, 1e-4)],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Corollary 2: two layers from a small start have low rank, where one layer from the same map has not",
            [Check("σ4/σ1 when σ1 reaches 1, over that of one layer", share[2] / share[1], 0.5)],
            evidence=f"figure layers; {evidence}, map of singular values {', '.join(map(str, SIZES))} in both",
            command=command,
        ),
        Claim(
            "The more layers, the lower the rank",
            [Check("σ4/σ1 when σ1 reaches 1, three layers over two", share[3] / share[2], 1.0)],
            evidence=f"figure layers; {evidence}, map of singular values {', '.join(map(str, SIZES))} in all",
            command=command,
        ),
        Claim(
            "The collapse of two layers is where training ends",
            [Check("σ3/σ1 of two layers at the end", float(late[2][2] / late[2][0]), 0.1)],
            [
                Check("σ3/σ1 of two layers when σ1 reaches 1", float(early[2][2] / early[2][0]), 0.1),
                Check("the same at the end", float(late[2][2] / late[2][0]), 0.3, ">="),
            ],
            correction="it is a stage: under weak augmentation directions that were held back are learned later, one "
            "by one",
            evidence=f"figure layers; {evidence}, t = {end:g}",
            command=command,
        ),
    ]
    caption = (
        f"X of spectrum 1, 0.9, 0.8, 0.7, X′ = 0.01 I, n = {n} pairs, d = z = {D}, h = {H}, balanced layers with the "
        f"same map, of singular values {', '.join(map(str, SIZES))}, learning rate {lr:g}; lines: exact flows, points: "
        "training"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Singular values over time for one, two and three layers; the spectrum when the first has grown."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15.5, 3.9), layout="constrained")
    colours = [OKABE_ITO[name] for name in ("blue", "sky", "orange", "vermillion")]
    for ax, depth in zip(axes, DEPTHS, strict=False):
        for j, colour in enumerate(colours):
            ax.plot(arrays["times"], arrays[f"exact_{depth}"][:, j], color=colour)
            ax.plot(arrays["times"][::3], arrays[f"seen_{depth}"][::3, j], ".", color=colour, markersize=6)
        ax.set(yscale="log", ylim=(5e-3, 30), xlabel="time (Σ lr)", title=f"{depth} layer{'s' * (depth > 1)}")
    axes[0].set_ylabel("singular values of the map")
    for depth, colour in zip(DEPTHS, ("vermillion", "purple", "black"), strict=True):
        row = arrays["early"][DEPTHS.index(depth)]
        axes[3].plot(
            np.arange(1, D + 1), row, "o-", color=OKABE_ITO[colour], label=f"{depth} layer{'s' * (depth > 1)}"
        )
    axes[3].set(yscale="log", xlabel="j", ylabel="σj/σ1", title="when σ1 reaches 1", xticks=range(1, D + 1))
    axes[3].legend()
    return {"layers": figure}


PART = Part("layers", "What more layers hold back", compute, draw)
