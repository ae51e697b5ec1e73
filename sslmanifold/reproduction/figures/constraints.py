"""Section 3 in one picture: loss and effective rank under every constraint, on every data set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sslmanifold.plots.style import constraint_colour
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.images import mnist_name
from sslmanifold.reproduction.part import Part, Result, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTRAINTS = ("none", "frobenius", "operator_norm", "scaled", "orthogonal")
COLLAPSING = ("none", "frobenius")
# the last three lie on each other: the dashes of the upper ones leave the lower ones to be seen
STYLES: dict[str, Any] = {
    "none": "-",
    "frobenius": "-",
    "orthogonal": "-",
    "operator_norm": (0, (3, 9)),
    "scaled": (6, (3, 9)),
}


def data_sets(settings: Settings) -> dict[str, list[str]]:
    """Name → overrides; images reduced to 20 principal components, MNIST where it is."""
    sets = {
        "half_moons": ["data=half_moons", "model.embedding=2"],
        "gaussian": ["data=gaussian", "data.spectrum=[1.0,0.8,0.6,0.4,0.3,0.2,0.1,0.1]"],
        "digits": ["data=digits", "data.pca=20"],
    }
    if settings.quick:
        del sets["gaussian"]
    elif settings.data == "mnist":
        sets["mnist"] = ["data=mnist", "data.per_class=50", "data.pca=20"]
        if settings.root:
            sets["mnist"].append(f"data.root={settings.root}")
    return sets


def compute(settings: Settings) -> Result:
    """One run for each constraint and data set, with the learning rate the package chooses."""
    sets = data_sets(settings)
    steps = settings.choose(800, 400)
    arrays: dict[str, np.ndarray] = {}
    rank: dict[str, dict[str, float]] = {name: {} for name in CONSTRAINTS}
    second: dict[str, dict[str, float]] = {name: {} for name in CONSTRAINTS}
    status: dict[str, dict[str, str]] = {name: {} for name in CONSTRAINTS}
    for name, constraint in settings.track([(n, c) for n in sets for c in CONSTRAINTS]):
        overrides = [*sets[name], f"constraint={constraint}", f"trainer.max_steps={steps}"]
        run = trained(settings, "constraints", overrides, f"constraints_{name}_{constraint}")
        spectra = run.trajectory["singular_values"][:, 0]  # (T, z)
        values = spectra[np.isfinite(spectra).all(1)][
            -1
        ]  # the last state that is finite, where a run diverged
        share = values / values.sum()
        rank[constraint][name] = float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))
        second[constraint][name] = float(values[1] / values[0])
        status[constraint][name] = run.summary["status"]
        arrays[f"loss_{name}_{constraint}"] = np.array(run.metrics["train/loss"])
        arrays[f"rank_{name}_{constraint}"] = np.array(run.metrics["rank/effective"])
        arrays[f"steps_{name}_{constraint}"] = np.array(run.metrics["step"])
        arrays[f"optimum_{name}"] = np.array(float(torch.from_numpy(run.trajectory["eigvals"])[0]))
    command = settings.command("constraints")
    evidence = (
        f"the constraint comparison; {', '.join(sets)}, z = 4 (half moons 2), {steps} steps of SSLModule"
    )

    def worst(names: tuple[str, ...]) -> float:
        return max(second[name][data] for name in names for data in sets)

    spreading = tuple(name for name in CONSTRAINTS if name not in COLLAPSING)
    claims = [
        Claim(
            "Section 3: without constraint and under Frobenius norms the embedding collapses, on every data set",
            [
                Check("largest σ2/σ1 of the embedding, none and Frobenius", worst(COLLAPSING), 0.1),
                Check("largest effective rank", max(rank[c][n] for c in COLLAPSING for n in sets), 1.3),
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Section 3: operator norms, the scaled loss and orthogonality avoid the collapse, on every data set",
            [
                Check("smallest effective rank over z", min(
                    rank[c][n] / (2 if n == "half_moons" else 4) for c in spreading for n in sets), 0.7, ">="),
                Check("smallest σ2/σ1 of the embedding",
                      min(second[c][n] for c in spreading for n in sets), 0.25, ">="),
            ],
            evidence=evidence,
            command=command,
        ),
    ]  # fmt: skip
    titles = {name: name.replace("_", " ") for name in sets}
    if "mnist" in sets:
        titles["mnist"] = mnist_name(settings.root)
    caption = (
        f"{', '.join(titles.values())} (images: 20 principal components), contrastive 1/n loss, linear network, z = "
        f"4 (half moons 2), "
        "learning rate 1/(20‖C‖)"
    )
    return Result(claims, arrays, {"sets": list(sets), "titles": titles, "status": status}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Loss left, effective rank right, one row a data set."""
    import matplotlib.pyplot as plt

    sets = facts["sets"]
    figure, axes = plt.subplots(
        len(sets), 2, figsize=(7.2, 2.1 * len(sets) + 0.6), layout="constrained", squeeze=False, sharex=True
    )
    for row, name in zip(axes, sets, strict=True):
        left, right = row
        floor = 0.0
        for constraint, style in STYLES.items():
            line = {"color": constraint_colour(constraint), "linestyle": style}
            steps, loss = arrays[f"steps_{name}_{constraint}"], arrays[f"loss_{name}_{constraint}"]
            left.plot(np.maximum(steps, 1), loss, label=constraint, **line)
            right.plot(np.maximum(steps, 1), arrays[f"rank_{name}_{constraint}"], **line)
            if constraint != "none":
                floor = min(floor, float(loss.min()))
        left.set(
            xscale="log", ylabel=f"{facts['titles'][name]}\nloss / n", ylim=(1.25 * floor, -0.08 * floor)
        )
        full = 2 if name == "half_moons" else 4
        right.set(ylabel="effective rank", ylim=(0.9, full + 0.12), yticks=range(1, full + 1))
        right.axhline(1, color="#777777", linewidth=1, linestyle=":")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    axes[0, 0].set_title("loss")
    axes[0, 1].set_title("effective rank; 1 is collapse")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(STYLES), columnspacing=1.2, handlelength=3
    )
    return {"constraints": figure}


PART = Part("constraints", "Section 3: every constraint on every data set", compute, draw)
