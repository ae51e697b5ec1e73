"""Figure 5: how far v1 … v3 lie in the span of q's columns, for z = 1, 2, 3."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.data import Array, HalfMoons
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem
from sslmanifold.reproduction.runs import solved
from sslmanifold.reproduction.statements.conjecture2 import projections
from sslmanifold.theory import rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# standard deviations of the coordinates added to the moons for z = 3: d = 5
NOISE = (0.5, 0.3, 0.2)


def with_noise_coordinates(settings: Settings) -> Array:
    """Half moons with independent Gaussian coordinates beside them, as a file the run can read."""
    samples = HalfMoons().load(settings.seed)
    random = np.random.default_rng([settings.seed, 5])
    noise = random.standard_normal((samples.n, len(NOISE))) * NOISE
    path = settings.run_folder("fig5_moons_with_noise.npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate([samples.train_x.numpy(), noise], 1))
    return Array(path=str(path))


def compute(settings: Settings) -> Result:
    """Solves Eq. 9 with ``sslmanifold dynamics`` for each z, long enough for the slowest rate."""
    arrays: dict[str, np.ndarray] = {}
    misses: list[float] = []
    dims, negative = {}, {}
    noisy = with_noise_coordinates(settings)
    for z in settings.track((1, 2, 3)):
        data = HalfMoons() if z < 3 else noisy
        scene = problem(data, settings.seed)
        d = scene.x.shape[1]
        dims[z], negative[z] = d, int((scene.eigvals < 0).sum())
        span = rates(scene.eigvals, z, 100, 0.0)
        end = 20.0 / span.slowest
        overrides = [f"model.embedding={z}", f"time={end}", f"points={settings.choose(301, 101)}"]
        if z == 3:
            overrides += ["data=array", f"data.path={noisy.path}"]
        run = solved(settings, "fig5", overrides, f"fig5_z{z}")
        m = torch.from_numpy(run.trajectory["ode_m"][:, 0])  # (T, d, z)
        q = scene.eigvecs.mT @ m
        eye: Tensor = torch.eye(d, dtype=torch.float64)[:, : min(3, d)]
        norms = projections(q, eye.expand(len(q), *eye.shape))
        arrays[f"time_{z}"] = run.trajectory["time"]
        arrays[f"norms_{z}"] = norms.numpy()
        misses.append(float((1 - norms[-1, :z]).max()))
        if d > z:
            arrays[f"rest_{z}"] = norms[-1, z:].numpy()
    counts = ", ".join(f"{negative[z]} for z = {z}" for z in (1, 2, 3))
    claims = [
        Claim(
            "Figure 5: the projections of v1 … vz onto span(q) reach norm 1, for z = 1, 2, 3",
            [
                Check("largest 1 − ‖P v_i‖, i ≤ z, at the end", max(misses), 1e-6),
            ],
            evidence="Figure 5; half moons have d = 2 and no v3: z = 3 has noise coordinates added, d = 5; negative "
            f"eigenvalues, of which the conjecture needs z: {counts}",
            command=settings.command("fig5"),
        )
    ]
    caption = (
        "Eq. 9 solved from Haar weights, h = 100, 1/n loss; half moons, n = 200 (d = 2, which has no "
        "v3) for z = 1, 2; for "
        f"z = 3 with three Gaussian coordinates of standard deviation {', '.join(map(str, NOISE))} added (d = 5)"
    )
    return Result(claims, arrays, {"dims": {str(z): d for z, d in dims.items()}}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """One panel a z."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    styles = (("blue", "-"), ("vermillion", "--"), ("green", "-."))
    for ax, z in zip(axes, (1, 2, 3), strict=True):
        norms = arrays[f"norms_{z}"]
        for index in range(norms.shape[1]):
            colour, style = styles[index]
            ax.plot(
                arrays[f"time_{z}"], norms[:, index], style, color=OKABE_ITO[colour], label=f"v{index + 1}"
            )
        noise = {2: " (their whole plane)", 3: " with noise coordinates"}.get(z, "")
        ax.set(xlabel="time t = Σ lr", title=f"z = {z}, half moons{noise}, d = {facts['dims'][str(z)]}")
        ax.set_ylim(-0.03, 1.05)
        settled = np.flatnonzero((norms[:, :z] < 0.9999).any(1))
        if settled.size:
            ax.set_xlim(0, 1.6 * arrays[f"time_{z}"][settled[-1]])
        ax.legend(loc="center right")
    axes[0].set_ylabel("‖projection of v_i onto span(q)‖")
    return {"fig5": figure}


PART = Part("fig5", "Figure 5: convergence to the leading eigenvectors", compute, draw)
