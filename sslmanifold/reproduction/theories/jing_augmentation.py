"""Dimensional collapse by strong augmentation: which singular values of one layer die under InfoNCE."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.losses.infonce_distance import infonce_distance_loss
from sslmanifold.plots.style import OKABE_ITO, constraint_colour
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.contrast_flow import contrast_flow
from sslmanifold.reproduction.theories.training import Weights, halved, trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import contrast_matrix, view_moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D = 4
# X′ of the views, whose last directions are moved more and more; X is I
NOISES = {
    "weak": (0.02, 0.02, 0.02, 0.02),
    "medium": (0.02, 0.02, 0.3, 0.6),
    "strong": (0.02, 0.02, 0.3, 3.0),
}
# singular values below this share of the largest have died; eigenvalues of S below this are negative
DEAD, NEGATIVE = 1e-3, -0.01


def polar_(weights: Weights) -> None:
    """Each weight (d, z) to the nearest one with orthonormal columns, in place."""
    for w in weights:
        u, _, vh = torch.linalg.svd(w, full_matrices=False)
        w.copy_(u @ vh)


def compute(settings: Settings) -> Result:
    """One free layer trained under weak to strong augmentation, beside ṁ = S m; the same with orthonormal columns."""
    (generator,) = streams(settings.seed, 1)
    n, lr, end = settings.choose(80, 40), settings.choose(0.025, 0.05), 80.0
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    arrays: dict[str, np.ndarray] = {}
    wrong, wrong_at_end, died, ratios = [], [], {}, {}

    def loss(a: Tensor, b: Tensor) -> Any:
        return lambda m: infonce_distance_loss(a @ m, b @ m)

    pairs = {name: exact_views(generator, n, (1.0,) * D, noise) for name, noise in NOISES.items()}
    times = np.linspace(0, end, 81)
    for name, (a, b) in settings.track(pairs.items()):
        start = turn
        path = torch.stack([m for (m,) in trained(loss(a, b), [start], lr, round(end / lr))])
        sizes = torch.linalg.svdvals(path)
        ratios[name] = float(sizes[-1, -1] / sizes[-1, 0])
        died[name] = int((sizes[-1] < DEAD * sizes[-1, 0]).sum())
        negative = [
            int((torch.linalg.eigvalsh(contrast_matrix(a, b, m)) < NEGATIVE).sum()) for m in (start, path[-1])
        ]
        wrong.append(abs(died[name] - negative[0]))
        wrong_at_end.append(abs(died[name] - negative[1]))
        exact = contrast_flow(a, b, [start], times)
        arrays[f"exact_{name}"] = torch.linalg.svdvals(exact).numpy()
        arrays[f"seen_{name}"] = sizes[:: round(1 / lr)].numpy()
        arrays[f"eigenvalues_{name}"] = torch.linalg.eigvalsh(contrast_matrix(a, b, exact)).numpy()

    a, b = pairs["strong"]
    point = torch.randn(D, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(a, b)(point), point)
    equation = float(
        (contrast_matrix(a, b, point.detach()) @ point.detach() + gradient).abs().max() / gradient.abs().max()
    )
    ratio, rest = halved(
        lambda rate: list(trained(loss(a, b), [turn], rate, round(2.0 / rate)))[-1][0],
        contrast_flow(a, b, [turn], np.array([0.0, 2.0]))[-1],
        0.02,
    )

    # how strong it must be: the share of the least singular value over the noise of one direction
    strengths, shares = np.array([0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0]), []
    for strength in strengths:
        c, e = exact_views(generator, n, (1.0,) * D, (0.02, 0.02, 0.02, float(strength)))
        *_, (m,) = trained(loss(c, e), [turn], 2 * lr, round(end / (2 * lr)))
        sizes = torch.linalg.svdvals(m)
        shares.append(float(sizes[-1] / sizes[0]))
    held = torch.linalg.qr(turn[:, :2]).Q
    *_, (frame,) = trained(loss(a, b), [held], lr, round(end / lr), after=polar_)
    least = float(torch.linalg.svdvals(frame)[-1])
    moved = torch.linalg.eigh((a - b).mT @ (a - b))[1]
    loudest = float((moved[:, -1:].mT @ frame).square().sum())
    x, x_aug = view_moments(a, b)
    expected = 2 * x - 2 * (1 - 2 / n) * x_aug
    small = float((contrast_matrix(a, b, 1e-6 * turn) - expected).abs().max() / expected.abs().max())
    arrays |= {"times": times, "strengths": strengths, "shares": np.array(shares)}

    command = settings.command("augmentation")
    evidence = (
        f"X = I, X′ of {len(NOISES)} strengths, d = z = {D}, n = {n} pairs, learning rate {lr:g}, t = {end:g}"
    )
    claims = [
        Claim(
            "Lemma: the gradient of InfoNCE on squared distances is −S W, S the contrast matrix of the augmented batch",
            [Check("S m against −∂L/∂m of the batch, relative", equation, 1e-12)],
            evidence=f"n = {n} pairs, strong augmentation, random map",
            command=command,
        ),
        Claim(
            "One free layer follows ṁ = S m",
            [
                Check("|ratio of the distances at lr and lr/2 − 2|, t = 2", abs(ratio - 2), 0.1),
                Check("training extrapolated to lr → 0, relative", rest, 1e-3),
            ],
            evidence=f"strong augmentation, n = {n} pairs, learning rates 0.02 and 0.01; the flow by DOP853",
            command=command,
        ),
        Claim(
            "Corollary 1: under strong augmentation S has negative eigenvalues and singular values die",
            [Check("singular values that have died under strong augmentation", float(died["strong"]), 1.0, ">=")],
            evidence=f"figure augmentation; {evidence}",
            command=command,
        ),
        Claim(
            "As many singular values die as S has negative eigenvalues",
            [Check("largest |died − negative eigenvalues of S at the start|", float(max(wrong)), 0.0)],
            [Check("largest |died − negative eigenvalues of S at the end|", float(max(wrong_at_end)), 0.0)],
            correction="of S at the end: S changes with the map, and directions that shrink at first stop where the "
            "softmax weights have come to favour the positives",
            evidence=f"figure augmentation; {evidence}",
            command=command,
        ),
        Claim(
            "Under weak augmentation one layer keeps all its singular values",
            [Check("σ4/σ1", ratios["weak"], 0.2, ">=")],
            evidence=f"figure augmentation; {evidence}",
            command=command,
        ),
        Claim(
            "At a small map S is 2X − 2X′, so directions shrink that views move by more than samples differ in them",
            [Check("S at a map of 1e-6 against 2X − 2X′(1 − 2/n), relative", small, 1e-9)],
            evidence=f"{evidence}, strong augmentation",
            command=command,
        ),
        Claim(
            "With orthonormal columns none dies under the strongest augmentation, and the loudest direction stays out",
            [
                Check("|least singular value − 1|", abs(least - 1), 1e-9),
                Check("share of the loudest direction in the map", loudest, 1e-3),
            ],
            evidence=f"z = 2, X′ of spectrum {', '.join(map(str, NOISES['strong']))}, n = {n} pairs, t = {end:g}",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"X = I, X′ of spectrum {'; '.join(', '.join(map(str, noise)) for noise in NOISES.values())}, n = {n} pairs, "
        f"d = z = {D}, orthonormal start, learning rate {lr:g}; lines: ṁ = S m, points: training; right: training with "
        "X′ = 0.02 but for one direction"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Singular values over time above, eigenvalues of S below, for each strength; what is left over the strength."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 6.2), layout="constrained")
    colours = [OKABE_ITO[name] for name in ("blue", "sky", "orange", "vermillion")]
    for column, name in enumerate(NOISES):
        for j, colour in enumerate(colours):
            axes[0, column].plot(
                arrays["times"], np.maximum(arrays[f"exact_{name}"][:, j], 1e-9), color=colour
            )
            seen = np.maximum(arrays[f"seen_{name}"][::4, j], 1e-9)
            axes[0, column].plot(np.arange(len(seen)) * 4, seen, ".", color=colour, markersize=6)
            axes[1, column].plot(arrays["times"], arrays[f"eigenvalues_{name}"][:, D - 1 - j], color=colour)
        axes[0, column].set(yscale="log", ylim=(1e-6, 20), title=f"{name} augmentation")
        axes[1, column].axhline(0, color="#777777", linewidth=1)
        axes[1, column].set(xlabel="time (Σ lr)", yscale="symlog", ylim=(-20, 2))
        axes[1, column].set_yscale("symlog", linthresh=0.01)
    axes[0, 0].set_ylabel("singular values of the map")
    axes[1, 0].set_ylabel("eigenvalues of S")
    axes[0, 3].plot(
        arrays["strengths"], np.maximum(arrays["shares"], 1e-9), "o-", color=constraint_colour("none")
    )
    axes[0, 3].set(
        yscale="log", ylim=(1e-6, 1), xlabel="X′ of one direction (X is 1)", ylabel="σ4/σ1 at the end"
    )
    axes[0, 3].set_title("how strong it must be")
    axes[1, 3].axis("off")
    return {"augmentation": figure}


PART = Part("augmentation", "Which singular values die under strong augmentation", compute, draw)
