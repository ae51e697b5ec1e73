"""Figure 5: how far v1 … v3 lie in the span of q's columns, for z = 1, 2, 3."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.data import Array, HalfMoons
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.experiments import solved
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem
from sslmanifold.reproduction.statements.conjecture2 import projections
from sslmanifold.theory import rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# standard deviations of the coordinates added to the moons: d = 5
NOISE = (0.5, 0.3, 0.2)
# half moons as they are, which have no v3, and with the noise coordinates beside them
PANELS = (("plain", 1), ("plain", 2), ("noise", 1), ("noise", 2), ("noise", 3))


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
    rest: list[float] = []
    dims, negative = {}, {}
    noisy = with_noise_coordinates(settings)
    for kind, z in settings.track(PANELS):
        scene = problem(noisy if kind == "noise" else HalfMoons(), settings.seed)
        d = scene.x.shape[1]
        dims[kind], negative[kind] = d, int((scene.eigvals < 0).sum())
        end = 20.0 / rates(scene.eigvals, z, 100, 0.0).slowest
        overrides = [f"model.embedding={z}", f"time={end}", f"points={settings.choose(301, 101)}"]
        if kind == "noise":
            overrides += ["data=array", f"data.path={noisy.path}"]
        run = solved(settings, "fig5", overrides, f"fig5_{kind}_z{z}")
        m = torch.from_numpy(run.trajectory["ode_m"][:, 0])  # (T, d, z)
        q = scene.eigvecs.mT @ m
        eye: Tensor = torch.eye(d, dtype=torch.float64)[:, : min(3, d)]
        norms = projections(q, eye.expand(len(q), *eye.shape))  # (T, 3)
        arrays[f"time_{kind}_{z}"] = run.trajectory["time"]
        arrays[f"norms_{kind}_{z}"] = norms.numpy()
        misses.append(float((1 - norms[-1, :z]).max()))
        if norms.shape[1] > z:
            rest.append(float(norms[-1, z:].max()))
    counts = f"{negative['plain']} of {dims['plain']} and {negative['noise']} of {dims['noise']}"
    claims = [
        Claim(
            "Figure 5: the projections of v1 … vz onto span(q) reach norm 1, for z = 1, 2, 3",
            [
                Check("largest 1 − ‖P v_i‖, i ≤ z, at the end", max(misses), 1e-6),
                Check("largest ‖P v_i‖, i > z, at the end", max(rest), 1e-6),
            ],
            evidence="Figure 5; half moons have d = 2 and no v3: as they are for z = 1, 2, and with noise coordinates "
            f"added, d = 5, for z = 1, 2, 3; negative eigenvalues, of which the conjecture needs z: {counts}",
            command=settings.command("fig5"),
        )
    ]
    caption = (
        "Eq. 9 solved from Haar weights, h = 100, 1/n loss; half moons, n = 200, as they are (d = 2) and with "
        f"three Gaussian coordinates of standard deviation {', '.join(map(str, NOISE))} added (d = 5); z = d = 2 is "
        "not drawn: span(q) is everything from the start"
    )
    return Result(claims, arrays, {"dims": dims}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """One panel a case that moves: at z = d the span is everything from the start."""
    import matplotlib.pyplot as plt

    moving = [(kind, z) for kind, z in PANELS if z < facts["dims"][kind]]
    rows = -(-len(moving) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(7.2, 2.9 * rows), layout="constrained", sharey=True)
    styles = (("blue", "-"), ("vermillion", "--"), ("green", "-."))
    names = {"plain": "half moons", "noise": "with noise"}
    for ax, (kind, z) in zip(axes.flat, moving, strict=True):
        time, norms = arrays[f"time_{kind}_{z}"], arrays[f"norms_{kind}_{z}"]
        for index in range(norms.shape[1]):
            colour, style = styles[index]
            ax.plot(time, norms[:, index], style, color=OKABE_ITO[colour], label=f"$v_{index + 1}$")
        ax.set_title(f"z = {z}, {names[kind]}, d = {facts['dims'][kind]}")
        ax.set(xlabel="time t = Σ lr", ylim=(-0.03, 1.05))
        unsettled = np.flatnonzero(np.abs(norms - norms[-1]).max(1) > 1e-3)
        if unsettled.size:
            ax.set_xlim(0, 1.6 * time[unsettled[-1]])
        ax.legend(loc="center right")
    for row in axes:
        row[0].set_ylabel(r"$\|P_{\mathrm{span}(q)} v_i\|$")
    return {"fig5": figure}


PART = Part("fig5", "Figure 5: convergence to the leading eigenvectors", compute, draw)
