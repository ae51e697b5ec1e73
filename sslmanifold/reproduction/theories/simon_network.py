"""Stepwise learning watched on a network that is not linear, beside the prediction of its tangent kernel."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sslmanifold.losses.barlow_linear import barlow_linear_loss
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.simon_steps import COLOURS, crossings
from sslmanifold.reproduction.theories.training import trained
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import empirical_ntk, kernel_correlation, solve_stepwise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = 3
STARTS = {"usual": (1.0, 0.01), "both_small": (0.1, 0.1)}  # of the first and of the second layer


class Tanh(nn.Module):
    """u = W2ᵀ tanh(W1 x)/√h."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(w1), nn.Parameter(w2)

    def forward(self, x: Tensor) -> Tensor:
        return output(x, self.w1, self.w2)


def output(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """u (n, z) of x (n, d), with W1 (h, d) and W2 (h, z)."""
    return torch.tanh(x @ w1.mT) @ w2 / w1.shape[0] ** 0.5


def compute(settings: Settings) -> Result:
    """A tanh network trained on linear Barlow Twins from two starts, beside the kernel flow of its tangent kernel."""
    (generator,) = streams(settings.seed, 1)
    n, widths = settings.choose(40, 24), {"usual": settings.choose(400, 100), "both_small": 30}
    a, b = exact_views(generator, n, (2.0, 0.9, 0.4, 0.15), (0.02,) * 4)
    samples = torch.cat([a, b])
    arrays: dict[str, np.ndarray] = {}
    off, waiting, early = {}, {}, {}

    def loss(w1: Tensor, w2: Tensor) -> Tensor:
        return barlow_linear_loss(output(a, w1, w2), output(b, w1, w2))

    for name, scales in settings.track(STARTS.items()):
        weights = [
            scale * torch.randn(widths[name], k, generator=generator, dtype=torch.float64)
            for scale, k in zip(scales, (a.shape[1], Z), strict=True)
        ]
        ntk = empirical_ntk(Tanh(*weights), samples, samples)  # (2n, 2n, z, z)
        kernel = ntk.diagonal(dim1=-2, dim2=-1).mean(-1).double()
        correlation, root = kernel_correlation((kernel + kernel.mT) / 2)
        start = torch.linalg.pinv(root, rtol=1e-9) @ output(samples, *weights)
        taus = solve_stepwise(correlation, start, [0.0]).step_times
        end = 1.15 * float(taus.max())
        # where the kernel grows with small layers, the rate of its start would be too large in the end
        lr = 0.01 / float(torch.linalg.eigvalsh(correlation)[-1]) if name == "usual" else 0.1
        steps, values = round(end / lr), []
        for w1, w2 in trained(loss, weights, lr, steps):
            u, v = output(a, w1, w2), output(b, w1, w2)
            values.append(torch.linalg.eigvalsh(u.mT @ v + v.mT @ u).flip(0) / (2 * n))
        path, times = torch.stack(values), torch.arange(steps + 1, dtype=torch.float64) * lr
        seen = crossings(path, times)
        off[name] = float(((seen - taus).abs() / taus).nan_to_num(nan=1.0).max())
        waiting[name] = max(float(path[(times - t).abs().argmin(), j + 1]) for j, t in enumerate(seen[:-1]))
        early[name] = float((seen / taus).nan_to_num(nan=1.0).min())
        every = max(1, steps // 300)
        arrays |= {f"time_{name}": times[::every].numpy(), f"values_{name}": path[::every].numpy()}
        arrays[f"tau_{name}"] = taus.numpy()
        if name == "usual":
            grid = torch.linspace(0, end, 200, dtype=torch.float64)
            solved = solve_stepwise(correlation, start, grid).m
            arrays["exact_time"] = grid.numpy()
            arrays["exact"] = torch.linalg.eigvalsh(solved.mT @ correlation @ solved).flip(-1).numpy()

    command = settings.command("network")
    evidence = f"figure network; u = W2ᵀ tanh(W1x)/√h, z = {Z}, n = {n} pairs, both layers trained"
    claims = [
        Claim(
            "A network with a small output learns in the steps that its tangent kernel at the start predicts",
            [Check("largest |seen − τ_j|/τ_j", off["usual"], 0.05)],
            evidence=f"{evidence}; h = {widths['usual']}, entries of the first layer 1, of the second 0.01",
            command=command,
        ),
        Claim(
            "The same from small weights in both layers",
            [Check("largest |seen − τ_j|/τ_j", off["both_small"], 0.05)],
            [Check("least seen/τ_j", early["both_small"], 0.9),
             Check("largest eigenvalue j + 1 when eigenvalue j passes ½", waiting["both_small"], 0.2)],
            correction="eigenvalues still rise one after another, but earlier than the kernel of the start predicts: "
            "it grows with the weights",
            evidence=f"{evidence}; h = {widths['both_small']}, entries of both layers 0.1",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"u = W2ᵀ tanh(W1x)/√h, z = {Z}, n = {n} pairs in 4 dimensions, linear Barlow Twins, plain SGD; left h = "
        f"{widths['usual']}, entries of the first layer 1, of the second 0.01; right h = "
        f"{widths['both_small']}, all 0.1"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Eigenvalues of the network's outputs from both starts, with the kernel flow where it predicts them."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained", sharey=True)
    for j, colour in enumerate(COLOURS[:Z]):
        axes[0].plot(arrays["exact_time"], arrays["exact"][:, j], color=colour)
        axes[0].plot(
            arrays["time_usual"][::8], arrays["values_usual"][::8, j], ".", color=colour, markersize=5
        )
        axes[0].axvline(arrays["tau_usual"][j], color=colour, linestyle=":", linewidth=1.2)
        axes[1].plot(
            arrays["time_both_small"], arrays["values_both_small"][:, j], ".", color=colour, markersize=4
        )
        axes[1].axvline(arrays["tau_both_small"][j], color=colour, linestyle=":", linewidth=1.2)
    axes[0].set(title="small output: kernel flow and training", ylabel="eigenvalues of the outputs' Γ")
    axes[1].set(title="both layers small: training is ahead of the kernel")
    for ax in axes:
        ax.set_xlabel("time (Σ lr); dotted: τ_j of the kernel at the start")
    return {"network": figure}


PART = Part("network", "A network and its tangent kernel", compute, draw)
