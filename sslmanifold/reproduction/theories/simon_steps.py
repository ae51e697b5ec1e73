"""Stepwise learning: the flow, its closed form, when each eigenvalue rises, and which starts and optimizers do so."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.losses.barlow_linear import barlow_linear_loss
from sslmanifold.plots.style import OKABE_ITO, THEORY
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.training import halved, trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import pair_correlation, solve_stepwise
from sslmanifold.theory.stepwise import stepwise_velocity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = 4
SIGNAL = (1.05, 0.6, 0.35, 0.21, 0.09, 0.06, 0.04, 0.03)
NOISE = (0.05, 0.05, 0.05, 0.05, 0.04, 0.03, 0.02, 0.01)
COLOURS = tuple(OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple"))


def learned(gamma: Tensor, maps: Tensor) -> Tensor:
    """Eigenvalues of mᵀΓm, largest first: maps (…, d, z) → (…, z); 1 for a mode that is learned."""
    return torch.linalg.eigvalsh(maps.mT @ gamma @ maps).flip(-1)


def crossings(values: Tensor, times: Tensor) -> Tensor:
    """When each column of values (T, z) first passes ½, interpolated between the times (T,); NaN where it does not."""
    above = values >= 0.5
    index = above.int().argmax(0).clamp_min(1)
    late, early = values.gather(0, index[None])[0], values.gather(0, index[None] - 1)[0]
    share = (0.5 - early) / (late - early)
    found = times[index - 1] + share * (times[index] - times[index - 1])
    return torch.where(above.any(0), found, torch.nan)


def compute(settings: Settings) -> Result:
    """Training on pairs with known moments against the closed form, from aligned and from random starts."""
    (generator,) = streams(settings.seed, 1)
    n = settings.choose(400, 60)
    a, b = exact_views(generator, n, SIGNAL, NOISE)
    gamma = pair_correlation(a, b)
    vectors = torch.linalg.eigh(gamma)[1].flip(-1)

    def loss(m: Tensor) -> Tensor:
        return barlow_linear_loss(a @ m, b @ m)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def train(start: Tensor, end: float, lr: float, momentum: float = 0.0) -> tuple[Tensor, Tensor]:
        steps = round(end / lr)
        path = torch.stack([m for (m,) in trained(loss, [start], lr, steps, momentum=momentum)])
        return torch.arange(steps + 1, dtype=torch.float64) * lr, path

    # the flow's velocity against automatic differentiation of the loss of the batch
    point = normal(len(SIGNAL), Z).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    velocity = stepwise_velocity(gamma, point.detach())
    equation = float((velocity + gradient).abs().max() / gradient.abs().max())

    size, lr = 1e-4, settings.choose(0.005, 0.01)
    aligned = vectors[:, :Z] * size @ torch.linalg.qr(normal(Z, Z)).Q
    taus = solve_stepwise(gamma, aligned, [0.0]).step_times
    end = 1.35 * float(taus[-1])
    ratio, rest = halved(
        lambda step: train(aligned, 4.0, step)[1][-1], solve_stepwise(gamma, aligned, [4.0]).m[0], lr
    )
    times, path = train(aligned, end, lr)
    values = learned(gamma, path)
    seen = crossings(values, times)
    exact = solve_stepwise(gamma, aligned, times[::5])
    losses = (torch.diag_embed(values) - torch.eye(Z, dtype=torch.float64)).square().sum((-2, -1))
    middles = torch.cat([(taus[1:] + taus[:-1]) / 2, taus[-1:] * 1.3])
    plateaus = [float(losses[(times - t).abs().argmin()]) for t in middles]
    plateau_error = max(abs(value - (Z - 1 - j)) for j, value in enumerate(plateaus))

    # random starts, smaller and smaller
    direction, sizes, off = normal(len(SIGNAL), Z), (1.0, 0.1, 0.01, 0.001), []
    for scale in settings.track(sizes):
        predicted = solve_stepwise(gamma, scale * direction, [0.0]).step_times
        clock, run = train(scale * direction, 1.2 * float(predicted.clamp_min(2.0).max()), lr)
        found = crossings(learned(gamma, run), clock)
        off.append(float(((found - predicted).abs() / predicted.abs()).nan_to_num(nan=1.0).max()))
    small_clock, small_path, small_taus = clock, run, predicted

    # its growth is that of plain steps of lr/(1 − μ) up to lr·4γ/(1 − μ)²: small steps, and the first two modes alone
    momentum, slow, first = 0.9, lr / 50, taus[:2]
    heavy_clock, heavy = train(aligned, 1.15 * float(first[-1]) * (1 - momentum), slow, momentum)
    heavy_seen = crossings(learned(gamma, heavy)[:, :2], heavy_clock)
    as_printed = float(((heavy_seen - first).abs() / first).max())
    scaled = float(((heavy_seen / (1 - momentum) - first).abs() / first).max())

    command = settings.command("steps")
    evidence = (
        f"n = {n} pairs, d = {len(SIGNAL)}, z = {Z}, learning rate {lr:g}, trained on the batch by autograd"
    )
    claims = [
        Claim(
            "Linear Barlow Twins with λ = 1 is ‖WΓWᵀ − I‖², and its gradient flow is Ẇ = −4(WΓWᵀ − I)WΓ",
            [Check("velocity against −∂L/∂W of the batch, relative", equation, 1e-12)],
            evidence=f"{evidence}; random weights",
            command=command,
        ),
        Claim(
            "Exact solution from an aligned start: s_j(t) = e^{4γ_j t}/√(s_j(0)⁻² + γ_j(e^{8γ_j t} − 1))",
            [
                Check("|ratio of the distances at lr and lr/2 − 2|", abs(ratio - 2), 0.1),
                Check("training extrapolated to lr → 0 against the closed form, relative, t = 4", rest, 1e-3),
            ],
            evidence=f"{evidence}; start {size:g} of the top eigenvectors, turned",
            command=command,
        ),
        Claim(
            "Eigenvalues of the embedding rise one after another, at τ_j = −log(s_j(0)²γ_j)/(8γ_j)",
            [
                Check("largest |seen − τ_j|/τ_j", float(((seen - taus).abs() / taus).max()), 0.03),
                Check("largest eigenvalue j + 1 when eigenvalue j passes ½", float(
                    max(values[(times - t).abs().argmin(), j + 1] for j, t in enumerate(seen[:-1]))), 0.1),
            ],
            evidence=f"figure steps; {evidence}",
            command=command,
        ),
        Claim(
            "The loss falls in steps: between two of them it is the number of modes that are not learned yet",
            [Check("largest distance from a whole number half-way between steps", plateau_error, 0.05)],
            evidence=f"figure steps; {evidence}",
            command=command,
        ),
        Claim(
            "From any small start training goes as from an aligned one, with s_j(0) read off the start",
            [Check("largest |seen − τ_j|/τ_j from a random start of size 0.001", off[3], 0.03),
             Check("the same from 0.01", off[2], 0.05)],
            evidence=f"figure steps; {evidence}; s_j(0) the part of v_jᵀm(0) orthogonal to the modes before it",
            command=command,
        ),
        Claim(
            "Where it breaks: a start of the size of the solution has no such steps",
            [Check("largest |seen − τ_j|/|τ_j| from a random start of size 1", off[0], 0.3, ">=")],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Step times are in units of Σ lr, for gradient descent of any kind",
            [Check("momentum 0.9: largest |seen − τ_j|/τ_j", as_printed, 0.1)],
            [Check("momentum 0.9: largest |seen − (1 − 0.9)τ_j|/((1 − 0.9)τ_j)", scaled, 0.1)],
            correction="with momentum μ they are (1 − μ)τ_j",
            evidence=f"{evidence}, a fiftieth of it with momentum; the first two modes",
            command=command,
        ),
    ]  # fmt: skip
    every = max(1, len(times) // 300)
    small_every = max(1, len(small_clock) // 300)
    arrays = {
        "time": times[::every], "values": values[::every], "loss": losses[::every], "tau": taus,
        "exact_time": exact.times, "exact": learned(gamma, exact.m), "exact_loss": exact.loss,
        "small_time": small_clock[::small_every], "small_tau": small_taus,
        "small": learned(gamma, small_path)[::small_every],
        "sizes": torch.tensor(sizes), "off": torch.tensor(off),
    }  # fmt: skip
    caption = (
        f"Pairs with Γ of spectrum {', '.join(f'{s - e:.2g}' for s, e in zip(SIGNAL, NOISE, strict=True))}, n = {n}, "
        f"z = {Z}, learning rate {lr:g}; left and middle from {size:g} of the top eigenvectors, right from random "
        "starts, of which the least error is that of training's steps"
    )
    return Result(claims, {key: value.numpy() for key, value in arrays.items()}, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Eigenvalues and loss with their predicted steps; a random start; the error of the step times over the start."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15.5, 3.9), layout="constrained")
    for j, colour in enumerate(COLOURS):
        axes[0].plot(arrays["exact_time"], arrays["exact"][:, j], color=colour)
        axes[0].plot(arrays["time"][::8], arrays["values"][::8, j], ".", color=colour, markersize=5)
        axes[2].plot(arrays["small_time"], arrays["small"][:, j], color=colour)
        for ax, key in ((axes[0], "tau"), (axes[1], "tau"), (axes[2], "small_tau")):
            ax.axvline(arrays[key][j], color=colour, linestyle=":", linewidth=1.2)
    axes[1].plot(arrays["exact_time"], arrays["exact_loss"], color=THEORY, label="closed form")
    axes[1].plot(arrays["time"][::8], arrays["loss"][::8], ".", color=OKABE_ITO["orange"], label="training")
    axes[1].legend()
    axes[0].set(title="aligned start: closed form and training", ylabel="eigenvalues of the embedding's Γ")
    axes[1].set(title="the loss falls in steps", ylabel="‖mᵀΓm − I‖²")
    axes[2].set(title="training from a random start of 0.001")
    for ax in axes[:3]:
        ax.set_xlabel("time (Σ lr); dotted: predicted τ_j")
    axes[3].plot(arrays["sizes"], arrays["off"], "o-", color=OKABE_ITO["blue"])
    axes[3].set(xscale="log", yscale="log", xlabel="size of the start", ylabel="largest |seen − τ_j|/|τ_j|")
    axes[3].set_title("step times need a small start")
    return {"steps": figure}


PART = Part("steps", "Eigenvalues rise one after another", compute, draw)
