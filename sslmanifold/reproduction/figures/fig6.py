"""Figure 6: linear networks of two and three hidden layers converge to the embedding of one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.horizon import steps_to_arrive
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ETA, STARTS, HIDDEN = 0.01, 6, 30  # fig6.yaml's learning rate, replicas and width


def compute(settings: Settings) -> Result:
    """Trains half moons (z = 1, as Figure 3) and digits (z = 2) with L = 2, 3, 4 weight matrices."""
    scene = problem(HalfMoons(), settings.seed)
    constraint = make_constraint("orthogonal", metric="euclidean", retraction="project")  # as in fig6.yaml
    arrays: dict[str, np.ndarray] = {"v1": scene.eigvecs[:, 0].numpy()}
    ends: dict[int, torch.Tensor] = {}
    followed = []
    lengths = []
    for layers in settings.track((2, 3, 4)):
        shape = NetworkShape(scene.x.shape[1], HIDDEN, 1, layers)
        # a loss within 1e-10 leaves an angle of 1e-5 to v1, a tenth of what the claim below allows
        steps = steps_to_arrive(scene, constraint, shape, STARTS, settings.seed, lr=ETA, tolerance=1e-10)
        lengths.append(steps)
        run = trained(
            settings, "fig6", [f"model.layers={layers}", f"trainer.max_steps={steps}"], f"fig6_layers{layers}"
        )
        m = torch.from_numpy(run.trajectory["m"])  # (T, S, d, 1)
        arrays[f"steps_{layers}"] = run.trajectory["steps"]
        arrays[f"loss_{layers}"] = (m * (scene.moment @ m)).sum((-2, -1)).numpy()
        arrays[f"ode_{layers}"] = run.trajectory["ode_loss"]
        arrays[f"m_{layers}"] = m[..., 0].numpy()
        ends[layers] = scene.x @ m[-1]  # (S, n, 1)
        followed.append(float(run.summary["ode/deviation_max"]))

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        """‖a aᵀ − b bᵀ‖_F/‖b bᵀ‖_F, largest over starts: embeddings compared up to a rotation (a sign, z = 1)."""
        aa, bb = a @ a.mT, b @ b.mT
        return float(((aa - bb).norm(dim=(-2, -1)) / bb.norm(dim=(-2, -1))).max())

    digits = {}
    deep = settings.choose((3, 4), (3,))
    for layers in (2, *deep):
        overrides = [
            "~callbacks.ode",
            "data=digits",
            f"model.layers={layers}",
            "model.embedding=2",
            "model.hidden=70",
            "replicas=2",
        ]
        overrides += [
            f"trainer.max_steps={settings.choose(800, 400)}",
            "optimizer.lr=0.2",
            "trainer.log_every_n_steps=100",
        ]
        run = trained(settings, "fig6", overrides, f"fig6_digits_layers{layers}")
        digits[layers] = torch.from_numpy(run.trajectory["embedding_final"])
    command = settings.command("fig6")
    claims = [
        Claim(
            "Section 4.2, Figure 6: two and three hidden layers converge to the embedding of one",
            [
                Check(
                    "‖uuᵀ − u₁u₁ᵀ‖_F relative, half moons, z = 1, two or three hidden layers",
                    max(distance(ends[3], ends[2]), distance(ends[4], ends[2])),
                    1e-4,
                ),
                Check(
                    "‖uuᵀ − u₁u₁ᵀ‖_F relative, digits, z = 2, two or three hidden layers",
                    max(distance(digits[layers], digits[2]) for layers in deep),
                    1e-2,
                ),
            ],
            evidence="Figure 6; training by Eq. 11; half moons: six starts, "
            f"{', '.join(map(str, lengths))} steps; largest relative deviation from the exact deep flow "
            f"{max(followed):.3f}",
            command=command,
        )
    ]
    caption = (
        "Half moons, n = 200, contrastive 1/n loss, z = 1, h = 30, square hidden layers, orthonormal "
        "weights, η = 0.01, plain "
        "step and projection (κ = 1), six starts (loss: mean)"
    )
    return Result(claims, arrays, {"best": float(scene.eigvals[0])}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Loss against steps, and the outputs of two and of three hidden layers over those of one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.2), layout="constrained")
    grid = axes[0, 0].get_gridspec()
    for ax in axes[0]:
        ax.remove()
    upper = figure.add_subplot(grid[0, :])
    colours = {2: OKABE_ITO["blue"], 3: OKABE_ITO["orange"], 4: OKABE_ITO["purple"]}
    names = {2: "one hidden layer", 3: "two hidden layers", 4: "three hidden layers"}
    for layers, colour in colours.items():
        steps = arrays[f"steps_{layers}"]
        upper.plot(steps, arrays[f"loss_{layers}"].mean(1), color=colour, label=names[layers])
        upper.plot(
            steps, arrays[f"ode_{layers}"].mean(1), linestyle=(0, (3, 4)), color="black", linewidth=1.4
        )
    upper.plot([], [], linestyle=(0, (3, 4)), color="black", linewidth=1.4, label="exact flow of each")
    upper.axhline(facts["best"], color="#777777", linewidth=1, linestyle=":", label=r"optimum $\lambda_1$")
    upper.set(xlabel="step", ylabel="loss / n", title="loss, mean of six starts")
    upper.legend(loc="upper right")
    v1 = arrays["v1"]
    for ax, deep in zip(axes[1], (3, 4), strict=True):
        for layers, style, width in ((2, "-", 1.8), (deep, "--", 1.6)):
            path = arrays[f"m_{layers}"]
            for replica in range(path.shape[1]):
                label = names[layers] if replica == 0 else None
                ax.plot(
                    *path[:, replica].T, style, color=colours[layers], linewidth=width, alpha=0.8, label=label
                )
            ax.plot(*path[0].T, "o", color=colours[layers], markersize=4)
        ax.plot([v1[0], -v1[0]], [v1[1], -v1[1]], "*", color="black", markersize=13, label="$\\pm v_1$")
        ax.set(xlabel="$u(e_1)$", ylabel="$u(e_2)$", title=f"outputs, {names[deep]}")
        ax.set_aspect("equal")
        ax.set(xlim=(-1.15, 1.15), ylim=(-0.6, 1.3))
        ax.legend(fontsize=8, loc="upper right")
    return {"fig6": figure}


PART = Part("fig6", "Figure 6: deep linear networks", compute, draw)
