"""Remark 2 as exact flows: which losses collapse without a constraint, from which start, and under which constraint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.errors import UserError
from sslmanifold.losses import (
    BarlowTwins,
    Contrastive,
    InfoNCE,
    NonContrastive,
    NTXent,
    SpectralContrastive,
    VICReg,
)
from sslmanifold.metrics import effective_rank
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import Problem, problem, streams
from sslmanifold.theory import SampleLoss, blow_up_time
from sslmanifold.theory.flows.base import FlowBlowUp
from sslmanifold.training.forecast_drive import Limited

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES: dict[str, Any] = {
    "contrastive": Contrastive(reduction="mean"),
    "noncontrastive": NonContrastive(reduction="mean"),
    "infonce": InfoNCE(reduction="mean"),
    "spectral": SpectralContrastive(reduction="mean"),
    "vicreg": VICReg(),
    "ntxent": NTXent(),
    "barlow": BarlowTwins(),
}
# several lie on each other: dashes and dots leave the solid line below to be seen
STYLES: dict[str, dict[str, Any]] = {
    "contrastive": {"color": OKABE_ITO["vermillion"], "linewidth": 1.8},
    "noncontrastive": {"color": OKABE_ITO["orange"], "linewidth": 1.8, "linestyle": (0, (3, 9))},
    "infonce": {"color": OKABE_ITO["blue"], "linewidth": 1.8, "linestyle": (4, (3, 9))},
    "spectral": {"color": OKABE_ITO["green"], "linewidth": 1.8, "linestyle": (8, (3, 9))},
    "vicreg": {"color": OKABE_ITO["purple"], "linewidth": 1.8, "linestyle": "-."},
    "ntxent": {"color": OKABE_ITO["sky"], "linewidth": 2, "linestyle": (0, (4, 2))},
    "barlow": {"color": OKABE_ITO["black"], "linewidth": 1.4, "linestyle": ":"},
}
NAMES = {
    "contrastive": "contrastive, Eq. 1",
    "noncontrastive": "non-contrastive, Eq. 2",
    "infonce": "InfoNCE",
    "spectral": "spectral contrastive",
    "vicreg": "VICReg",
    "ntxent": "NT-Xent",
    "barlow": "Barlow Twins",
}
# without batch normalisation or a sphere: their loss sees the size of the map
UNNORMALISED = ("contrastive", "noncontrastive", "infonce", "spectral", "vicreg")
SMALL = 0.1
# evaluations of a loss on one path; VICReg settles on its hinge, a kink, where no number would do
_LIMIT, _LIMIT_SMALL = 3000, 6000


def path(
    constraint: Constraint, scene: Problem, loss: Any, weights: list[Tensor], times: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """Those of the times (T,) that the flow of the loss reaches, and the embedding's effective rank there."""
    batch = scene.batch if loss.contrastive else scene.batch[:2]
    d = scene.x.shape[1]
    gradient = Limited(SampleLoss(loss, *batch), d, limit)
    shape = NetworkShape(dim=d, hidden=weights[0].shape[-2], embedding=weights[1].shape[-1])
    flow = constraint.flow(gradient, shape)
    assert flow is not None
    state, now, ranks = flow.start(*weights), 0.0, []
    for t in times.tolist():
        try:
            state = flow.advance(state, t - now)
        except (FlowBlowUp, UserError):
            break
        now = t
        ranks.append(effective_rank(scene.x @ state.m[0]))
    return times[: len(ranks)], torch.stack(ranks)


def compute(settings: Settings) -> Result:
    """Exact flows of seven losses on half moons from the same weights, z = 2."""
    n, points, z = settings.choose(100, 60), settings.choose(81, 31), 2
    far, far_small = settings.choose(50.0, 15.0), settings.choose(4.0, 1.5)
    scene = problem(HalfMoons(n=n), settings.seed)
    pulled = problem(HalfMoons(n=n), settings.seed, contrastive=False).moment
    d = scene.x.shape[1]
    shape = NetworkShape(dim=d, hidden=d + z, embedding=z)
    arrays: dict[str, np.ndarray] = {}
    ranks: dict[str, Tensor] = {}

    def follow(panel: str, name: str, constraint: str, size: float, unit: float, grid: Tensor) -> None:
        made = make_constraint(constraint)
        limit = _LIMIT_SMALL if size < 1 else _LIMIT
        weights = [size * w for w in made.initial(shape, streams(settings.seed, 1))]
        when, rank = path(made, scene, LOSSES[name], weights, unit * grid, limit)
        ranks[f"{panel}_{name}"] = rank
        arrays[f"time_{panel}_{name}"] = (when / unit).numpy()
        arrays[f"rank_{panel}_{name}"] = rank.numpy()

    # C of a loss to second order in a small map: InfoNCE is half of Eq. 1, the spectral loss twice Eq. 2
    quadratic = {
        "contrastive": scene.moment,
        "noncontrastive": pulled,
        "infonce": scene.moment / 2,
        "spectral": 2 * pulled,
    }
    draw = make_constraint("none").initial(shape, streams(settings.seed, 1))
    whole = torch.linspace(0, 1, points, dtype=torch.float64) ** 2
    # halved again and again towards 1, where the quadratic losses blow up
    near = 1 - 0.5 ** torch.arange(1, 13, dtype=torch.float64)
    about = torch.cat([torch.linspace(0, far_small, points, dtype=torch.float64), near]).unique()
    for name in settings.track(LOSSES):
        batch = scene.batch if LOSSES[name].contrastive else scene.batch[:2]
        rate = Limited(SampleLoss(LOSSES[name], *batch), d, _LIMIT).norm(draw[0].mT @ draw[1])
        for constraint in ("none", "frobenius", "orthogonal"):
            grid = whole
            if constraint == "none" and LOSSES[name].quadratic:
                ends = blow_up_time(quadratic[name], *(w[0] for w in draw)) * rate / far
                grid = torch.cat([whole, ends * near]).unique()
            follow(constraint, name, constraint, 1.0, far / rate, grid)
        if name in quadratic:
            start = [SMALL * w[0] for w in draw]
            follow("small", name, "none", SMALL, blow_up_time(quadratic[name], *start), about)

    def least(panel: str, *names: str) -> float:
        return max(float(ranks[f"{panel}_{name}"].min()) for name in names)

    def last(panel: str, name: str) -> float:
        return float(ranks[f"{panel}_{name}"][-1])

    others = ("noncontrastive", "infonce", "spectral")
    command = settings.command("losses")
    evidence = f"exact flows of each loss, half moons, n = {n}, z = {z}, linear network, one start"
    late = "effective rank of 2, free, late, from orthonormal weights"
    small = f"least effective rank, free, from weights of norm {SMALL:g}"
    claims = [
        Claim(
            "Remark 2: dimension collapse would also happen for InfoNCE, and for the non-contrastive loss",
            [
                Check(f"{small}: Eqs. 1 and 2", least("small", "contrastive", "noncontrastive"), 1.05),
                Check(f"InfoNCE: {late}", last("none", "infonce"), 1.3),
            ],
            [
                Check(f"{small}: Eqs. 1 and 2", least("small", "contrastive", "noncontrastive"), 1.05),
                Check(f"{small}: InfoNCE", least("small", "infonce"), 1.1),
                Check(f"InfoNCE: {late}", last("none", "infonce"), 1.5, ">="),
            ],
            correction="InfoNCE collapses while its similarities are small, on the way from a small start; from "
            "orthonormal weights, free, it keeps its rank: the softmax weights couple the outputs",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Remark 2: under the spectral contrastive loss, whose output dimensions stay coupled, there need be no "
            "collapse",
            [
                Check(late, last("none", "spectral"), 1.5, ">="),
                Check(f"{small}", least("small", "spectral"), 1.5, ">="),
                Check("effective rank of 2, ‖W_i‖_F ≤ 1, late", last("frobenius", "spectral"), 1.5, ">="),
            ],
            [
                Check(late, last("none", "spectral"), 1.5, ">="),
                Check(f"{small}", least("small", "spectral"), 1.1),
                Check("effective rank of 2, ‖W_i‖_F ≤ 1, late", last("frobenius", "spectral"), 1.05),
            ],
            correction="the coupling is quartic in the map: free weights of norm one keep their rank, a small map "
            "collapses on its way as under Eq. 2, and under ‖W_i‖_F ≤ 1 it stays collapsed",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Section 3 for the losses of Remark 2: Frobenius norms do not prevent the collapse, orthogonality does",
            [
                Check("largest effective rank of 2, ‖W_i‖_F ≤ 1, late",
                      max(last("frobenius", n) for n in others), 1.05),
                Check("smallest effective rank of 2, orthonormal columns, late",
                      min(last("orthogonal", n) for n in others), 1.7, ">="),
            ],
            evidence=f"{evidence}: {', '.join(NAMES[name] for name in others)}",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"Half moons, n = {n}, linear network, z = {z}, exact flow of every loss from the same orthonormal weights "
        f"(for ‖W_i‖_F ≤ 1 their projection; second panel: {SMALL:g} of them). Time in units of 1/(½‖∂²L/∂m²‖₂) at the "
        "start; second panel: of the time at which the loss to second order in m blows up. VICReg ends, free, on its "
        "hinge; crosses: no flow beyond"
    )
    return Result(claims, arrays, {"far": far, "far_small": far_small}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Effective rank over time, one panel a constraint or start, one line a loss."""
    import matplotlib.pyplot as plt

    panels = {
        "none": "no constraint",
        "small": f"no constraint, small start ({SMALL:g})",
        "frobenius": "Frobenius norms ≤ 1",
        "orthogonal": "orthonormal columns",
    }
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.4), layout="constrained", sharey=True)
    for ax, (panel, title) in zip(axes.flat, panels.items(), strict=True):
        for name, style in STYLES.items():
            if f"rank_{panel}_{name}" not in arrays:
                continue
            time, rank = arrays[f"time_{panel}_{name}"], arrays[f"rank_{panel}_{name}"]
            scale = 1.0 if panel == "small" else facts["far"]
            ax.plot(scale * time, rank, label=NAMES[name], **style)
            if time[-1] < 0.99 * (facts["far_small"] if panel == "small" else 1.0):
                ax.plot(scale * time[-1], rank[-1], marker="x", color=style["color"], markersize=8, mew=2)
        ax.axhline(1, color="#777777", linewidth=1, linestyle=":")
        if panel == "small":
            ax.set(xlabel="time / blow-up of the quadratic part")
        else:
            ax.set_xscale("function", functions=(_root, np.square))  # most of what happens, happens early
            ax.set(xlabel="time × curvature at the start", xlim=(0, facts["far"]))
            ax.set_xticks([tick for tick in (0, 1, 5, 10, 25, 50) if tick <= facts["far"]])
        ax.set(title=title, ylim=(0.95, 2.05))
    for ax in axes[:, 0]:
        ax.set_ylabel("effective rank of 2")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.2, handlelength=3)
    return {"losses": figure}


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


PART = Part("losses", "Remark 2: which losses collapse, and under which constraint", compute, draw)
