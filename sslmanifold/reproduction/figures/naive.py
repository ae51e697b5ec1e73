"""Eqs. 3–5 and Proposition 1: regression fits every output, the naive SSL dynamics collapse to one dimension."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.data import HalfMoons
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import Problem, problem, streams
from sslmanifold.theory.kernels import Kernel, KernelDynamics, kernel_dynamics, linear_kernel, rbf_kernel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = 3


def explicit_velocity(dynamics: KernelDynamics, scene: Problem, kernel: Kernel, u: Tensor, l: int) -> Tensor:
    """Eq. 5's right-hand side of component l at every point, summed term by term as printed, (N,)."""
    n = scene.x.shape[0]
    x = dynamics.points
    anchors, pos, neg = x[:n], x[n : 2 * n], x[2 * n :]
    u_x, u_pos, u_neg = u[:n, l], u[n : 2 * n, l], u[2 * n :, l]
    return kernel(x, anchors) @ (u_pos - u_neg) + (kernel(x, pos) - kernel(x, neg)) @ u_x


def regression(x: Tensor, y: Tensor, kernel: Kernel, u0: Tensor, times: Tensor) -> Tensor:
    """Eq. 3 with Lemma 1: u̇ = −K(u − Y) at the training points, exactly, (T, n, z)."""
    values, vectors = torch.linalg.eigh(kernel(x, x))
    decay = torch.exp(-values.clamp_min(0) * times[:, None])  # (T, n)
    return y + vectors @ (decay[..., None] * (vectors.mT @ (u0 - y)))


def compute(settings: Settings) -> Result:
    """Exact solutions of Eqs. 3 and 5 for linear and RBF kernels on half moons, float64."""
    scene = problem(HalfMoons(n=settings.choose(100, 40)), settings.seed, "sum")
    generator = streams(settings.seed, 1)[0]
    n, d = scene.x.shape
    kernels: dict[str, Kernel] = {"linear": linear_kernel, "RBF": rbf_kernel(1.0)}
    assert scene.batch.negatives is not None
    arrays: dict[str, np.ndarray] = {}
    identical, collapsed, growth, equation = [], [], [], []
    for name, kernel in settings.track(kernels.items()):
        dynamics = kernel_dynamics(scene.x, scene.batch.positives, scene.batch.negatives, kernel=kernel)
        theta = torch.randn(d, Z, generator=generator, dtype=torch.float64)
        if name == "linear":
            u0 = dynamics.points @ theta
        else:  # a function of the kernel's own space
            centres = torch.randn(10, d, generator=generator, dtype=torch.float64)
            u0 = kernel(dynamics.points, centres) @ torch.randn(
                10, Z, generator=generator, dtype=torch.float64
            )
        explicit = torch.stack([explicit_velocity(dynamics, scene, kernel, u0, i) for i in range(Z)], -1)
        equation.append(float((dynamics.velocity(u0) - explicit).abs().max() / explicit.abs().max()))
        # identical dynamics: exchanging two components at the start exchanges them for ever
        spectrum = np.sort(np.linalg.eigvals(dynamics.generator.numpy()).real)
        gap = spectrum[-1] - spectrum[-2]
        times = torch.linspace(0, 1, settings.choose(121, 61), dtype=torch.float64) * (20 / gap)
        directions = dynamics.directions(u0, times)  # (T, N, z), normalised
        exchanged = dynamics.directions(u0[:, [1, 0, 2]], times)[..., [1, 0, 2]]
        identical.append(float((directions - exchanged).abs().max()))
        sigma = torch.linalg.svdvals(directions)
        arrays[f"time_{name}"], arrays[f"sigma_{name}"] = times.numpy(), (sigma / sigma[:, :1]).numpy()
        collapsed.append(float(sigma[-1, 1] / sigma[-1, 0]))
        early = dynamics.solve(u0, [0.0, 6 / spectrum[-1]])
        growth.append(float(early[1].norm() / early[0].norm()))
    # Eq. 3: regression on z different targets
    x = scene.x
    angle = torch.atan2(x[:, 1], x[:, 0])
    y = torch.stack([torch.sin((k + 1) * angle) for k in range(Z)], -1)
    kernel = kernels["RBF"]
    top = float(torch.linalg.eigvalsh(kernel(x, x))[-1])
    times = torch.logspace(-2, 5, 71, dtype=torch.float64) / top
    path = regression(x, y, kernel, 0.1 * torch.randn(n, Z, generator=generator, dtype=torch.float64), times)
    sigma = torch.linalg.svdvals(path)
    arrays |= {"time_regression": times.numpy(), "sigma_regression": (sigma / sigma[:, :1]).numpy()}
    arrays["residual_regression"] = ((path - y).norm(dim=(-2, -1)) / y.norm()).numpy()
    kept = float(sigma[-1, -1] / sigma[-1, 0])

    command = settings.command("naive")
    evidence = f"exact solutions of Eq. 5, half moons, n = {n}, z = {Z}, linear and RBF kernel"
    claims = [
        Claim(
            "Eqs. 4–5, Proposition 1: every component of u has the same dynamics, with the printed right-hand side",
            [
                Check(
                    "Eq. 5 term by term against the package's linear system, relative", max(equation), 1e-12
                ),
                Check(
                    "exchanging two components at the start exchanges them for all time",
                    max(identical),
                    1e-10,
                ),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Proposition 1: as a consequence the output collapses to one dimension at convergence",
            [
                Check("σ2/σ1 of the outputs, late", max(collapsed), 1e-6),
                Check(
                    "‖u(t)‖/‖u(0)‖ at t = 6/μ, μ the top rate (bounded if it converges)", max(growth), 10.0
                ),
            ],
            [Check("σ2/σ1 of the normalised outputs, late", max(collapsed), 1e-6)],
            correction="there is no convergence, u grows like e^{μt}; normalised it collapses to one dimension",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Section 2: regression (Eq. 3) has targets that drive its outputs apart, SSL has none",
            [
                Check("regression: σ3/σ1 of the outputs, late", kept, 0.05, ">="),
                Check("SSL: σ2/σ1 of the outputs, late", max(collapsed), 1e-6),
            ],
            evidence=f"exact solutions of Eqs. 3 and 5, RBF kernel, three targets; residual "
            f"{arrays['residual_regression'][-1]:.3f}",
            command=command,
        ),
    ]
    caption = (
        f"Half moons, n = {n}, z = {Z}, Gaussian starts; exact solutions of Eq. 5 (contrastive, summed loss) and of "
        "Eq. 3"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Singular values relative to the first, on one scale: SSL with both kernels, regression."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.6, 3.8), layout="constrained", sharey=True)
    styles = (("blue", "-"), ("vermillion", "--"), ("green", "-."))
    titles = {
        "linear": "SSL (Eq. 5),\nlinear model",
        "RBF": "SSL (Eq. 5),\nRBF kernel",
        "regression": "regression (Eq. 3),\nRBF kernel",
    }
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        for index, (colour, style) in enumerate(styles):
            sigma = np.maximum(arrays[f"sigma_{name}"][:, index], 1e-16)
            if name == "linear" and index == 2:
                continue  # d = 2: the linear model's outputs have rank 2
            label = rf"$\sigma_{index + 1}/\sigma_1$"
            ax.plot(arrays[f"time_{name}"], sigma, style, color=OKABE_ITO[colour], label=label)
        ax.set_title(title)
        ax.set(yscale="log", xlabel="time t", ylim=(1e-10, 3))
    axes[2].set(xscale="log")
    axes[2].set_xticks(10.0 ** np.arange(-3, 4, 2))
    axes[2].minorticks_off()
    axes[2].plot(
        arrays["time_regression"],
        arrays["residual_regression"],
        ":",
        color="black",
        label=r"$\|u - y\| / \|y\|$",
    )
    for ax in axes:
        ax.legend(loc="lower left")
    axes[0].set_ylabel("singular values of the outputs")
    return {"naive": figure}


PART = Part("naive", "Eqs. 3–5 and Proposition 1: naive dynamics", compute, draw)
