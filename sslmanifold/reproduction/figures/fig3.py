"""Figure 3: training (Eq. 11) beside Eq. 12 as printed, Eq. 9 and the flow that training really follows (κ = 1)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.horizon import arrival_times, steps_to_arrive
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import Problem, problem
from sslmanifold.theory.integrate import euler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ETA = 0.01
STARTS = 6  # fig3.yaml's replicas
XLIM = 400  # steps that the figure shows
# over a solid line that it may lie on
DASHES = (0, (3, 4))
CURVES = {
    "printed": "Eq. 12 as printed",
    "eq9": "Eq. 9 (κ = 0)",
    "matched": "κ = 1, the same step",
    "exact": "κ = 1, exact flow",
}


def deviation(x: Tensor, m: Tensor, reference: Tensor) -> Tensor:
    """‖X(m − m_ref)‖_F/‖X m_ref‖_F at every step and replica: (T, S, d, z) twice → (T, S)."""
    return torch.linalg.matrix_norm(x @ (m - reference)) / torch.linalg.matrix_norm(x @ reference)


def loss_of(scene: Problem, m: Tensor) -> Tensor:
    """Tr(mᵀCm), (T, S)."""
    return (m * (scene.moment @ m)).sum((-2, -1))


def first_below(gap: Tensor, tolerance: float) -> Tensor:
    """First step of each replica at which the gap (T, S) is at most the tolerance, (S,); NaN if never."""
    below = gap <= tolerance
    steps = below.double().argmax(0).double()
    return torch.where(below.any(0), steps, torch.nan)


def compute(settings: Settings) -> Result:
    """Trains each width with SSLModule at η and η/2, and steps the equations from the same starts."""
    scene = problem(HalfMoons(), settings.seed)
    projected = make_constraint("orthogonal", metric="euclidean", retraction="project")  # as in fig3.yaml
    grassmann = make_constraint("orthogonal", metric="grassmann")
    best = float(scene.eigvals[0])
    arrays: dict[str, np.ndarray] = {"v1": scene.eigvecs[:, 0].numpy(), "eigvals": scene.eigvals.numpy()}
    worst: dict[str, list[float]] = {f"{name}_{k}": [] for name in CURVES for k in (1, 2)}
    ratio, expected, final, miss, training_steps, printed_steps = [], [], [], [], [], []
    to_zero: list[float] = []
    by_step: dict[tuple[int, int], Tensor] = {}
    widths = settings.choose((10, 100, 1000), (10, 100))
    shapes = {h: NetworkShape(scene.x.shape[1], h, 1) for h in widths}
    # long enough that training and Eq. 12, with twice the steps, end where the claims below look for them
    lengths = {}
    for h, shape in shapes.items():
        needed = [
            steps_to_arrive(scene, constraint, shape, STARTS, settings.seed, lr=ETA, tolerance=tolerance)
            for constraint, tolerance in ((projected, 1e-7), (grassmann, 1e-5))
        ]
        lengths[h] = max(XLIM, *needed)
    for hidden, halving in settings.track([(h, k) for h in widths for k in (1, 2)]):
        steps = lengths[hidden]
        overrides = [f"model.hidden={hidden}", f"trainer.max_steps={steps * halving}"]
        overrides += [f"optimizer.lr={ETA / halving}", f"trainer.log_every_n_steps={halving}"]
        run = trained(settings, "fig3", overrides, f"fig3_h{hidden}_lr{halving}")
        m = torch.from_numpy(run.trajectory["m"])  # (T, S, d, 1)
        q0, eta = scene.eigvecs.mT @ m[0], ETA / halving
        twice = 2 * steps * halving  # the printed equation needs twice the steps
        printed = euler(q0, scene.eigvals, eta, twice, printed=True)
        paths = {
            "printed": printed,
            "eq9": euler(q0, scene.eigvals, eta, steps * halving),
            "matched": euler(q0, scene.eigvals, eta, steps * halving, kappa=1.0),
        }
        maps = {name: scene.eigvecs @ q[::halving][: len(m)] for name, q in paths.items()}
        maps["exact"] = torch.from_numpy(run.trajectory["ode_m"])
        by_step[hidden, halving] = m
        if halving == 2:  # Richardson: 2 m(η/2) − m(η) is training without its first-order term in η
            limit = 2 * m - by_step[hidden, 1]
            to_zero.append(float(deviation(scene.x, limit, maps["exact"]).max()))
        for name, reference in maps.items():
            away = deviation(scene.x, m, reference)
            worst[f"{name}_{halving}"].append(float(away.max()))
            arrays[f"deviation_{name}_{hidden}_{halving}"] = away.amax(1).numpy()
        if halving == 1:
            gap = (loss_of(scene, m) - best) / abs(best)
            slow = (loss_of(scene, scene.eigvecs @ printed) - best) / abs(best)
            training_steps.append(float(first_below(gap, 1e-2).mean()))
            printed_steps.append(float(first_below(slow, 1e-2).mean()))
            ratio.append(printed_steps[-1] / training_steps[-1])
            # Eq. 12 as printed is κ = 0 at half speed
            half, full = (
                arrival_times(scene, constraint, shapes[hidden], STARTS, settings.seed, 1e-2).mean()
                for constraint in (grassmann, projected)
            )
            expected.append(float(2 * half / full))
            final += [float(gap[-1].abs().max()), float(slow[-1].abs().max())]
            along = (scene.eigvecs.mT @ m[-1])[:, 0, 0].abs()  # |v1ᵀm|
            miss.append(float((1 - along).abs().max()))
            arrays[f"loss_training_{hidden}"] = loss_of(scene, m).mean(1).numpy()
            for name, reference in maps.items():
                arrays[f"loss_{name}_{hidden}"] = loss_of(scene, reference).mean(1).numpy()
                arrays[f"m_{name}_{hidden}"] = reference[..., 0].numpy()
            arrays[f"m_training_{hidden}"] = m[..., 0].numpy()
    command = settings.command("fig3")
    evidence = (
        f"Figure 3; half moons, h = {', '.join(map(str, widths))}, six starts each, η = {ETA} on the 1/n loss"
    )
    halves = [a / b for a, b in zip(worst["matched_1"], worst["matched_2"], strict=True)]
    halves += [a / b for a, b in zip(worst["exact_1"], worst["exact_2"], strict=True)]
    claims = [
        Claim(
            "Section 4.2, Figure 3: training by Eq. 11 and the dynamics of Eq. 12 stay close to each other",
            [
                Check(
                    "largest relative deviation of training from Eq. 12 as printed",
                    max(worst["printed_1"]),
                    0.02,
                )
            ],
            [
                Check(
                    "largest relative deviation from κ = 1 stepped with the same η",
                    max(worst["matched_1"]),
                    0.02,
                ),
                Check("deviation at η over that at η/2, least", min(halves), 1.8, ">="),
                Check("deviation at η over that at η/2, most", max(halves), 2.2),
                Check(
                    "deviation of training, extrapolated to η → 0 from η and η/2, from the exact κ = 1 flow",
                    max(to_zero),
                    0.02,
                ),
            ],
            correction="a plain step with projection follows the κ = 1 flow, and Eq. 12 lacks a factor 2; stepped as "
            f"Eq. 12 is, κ = 1 stays within {max(worst['matched_1']):.4f} of training. The exact flow in continuous "
            f"time is {max(worst['exact_1']):.3f} away at η and {max(worst['exact_2']):.3f} at η/2, the step error of "
            "training itself",
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Section 4.2, Figure 3: the loss decays slightly slower under Eq. 12, to the same final value",
            [
                Check("steps of Eq. 12 over steps of training to 1 % of the optimum, most", max(ratio), 1.25),
                Check("largest |L − L*|/|L*| at the end, both", max(final), 1e-4),
            ],
            [
                # growing from a small start both flows run alike, so half speed costs 2; near the limit the span
                # closes at (2 + κ)(λ2 − λ1), 3 against 2/2; steps add a few percent of η·4|λ1|
                Check("steps of Eq. 12 over steps of training, least", min(ratio), 1.9, ">="),
                Check("steps of Eq. 12 over steps of training, most", max(ratio), 3.15),
                Check(
                    "that ratio against the exact flows' (κ = 0 at half speed, κ = 1), largest |· − 1|",
                    max(abs(a / b - 1) for a, b in zip(ratio, expected, strict=True)),
                    0.05,
                ),
                Check("largest |L − L*|/|L*| at the end, both", max(final), 1e-4),
            ],
            correction="about twice as slow: Eq. 12 lacks the factor 2 of Eq. 9",
            evidence=evidence
            + "; steps "
            + ", ".join(
                f"{p:.0f} against {t:.0f}" for p, t in zip(printed_steps, training_steps, strict=True)
            ),
            command=command,
        ),
        Claim(
            "Section 4.1 and 4.2: whatever the initialisation the outputs converge to one of two points, ±v1",
            [Check("largest 1 − |v1ᵀq| at the end of training", max(miss), 1e-6)],
            evidence=evidence,
            command=command,
        ),
    ]
    caption = (
        f"Half moons, n = 200, x⁺ = x + N(0, 0.1 I), contrastive 1/n loss, z = 1, six starts, η = {ETA}; "
        f"loss: mean over "
        f"starts; deviation: largest over starts. Eq. 12 as printed takes {np.mean(ratio):.2f} times the steps of "
        "training"
    )
    facts = {"widths": list(widths), "ratio": float(np.mean(ratio)), "best": best}
    return Result(claims, arrays, facts, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Loss, outputs and deviation."""
    widths = facts["widths"]
    colours = dict(zip(widths, (OKABE_ITO["orange"], OKABE_ITO["green"], OKABE_ITO["blue"]), strict=False))
    figure, (left, middle, right) = _panels()

    for h in widths:
        loss = arrays[f"loss_training_{h}"]
        left.plot(loss, color=colours[h], label=f"training, h = {h}")
        left.plot(arrays[f"loss_matched_{h}"], color="black", linestyle=DASHES, linewidth=1.4)
        left.plot(arrays[f"loss_printed_{h}"], color=colours[h], linestyle=":", linewidth=1.6)
    left.plot([], [], color="black", linestyle=DASHES, linewidth=1.4, label="κ = 1, the same step")
    left.plot([], [], color="black", linestyle=":", linewidth=1.6, label="Eq. 12 as printed")
    left.axhline(facts["best"], color="#777777", linewidth=1)
    left.set(
        xlabel="step",
        ylabel="loss / n",
        xlim=(0, XLIM),
        title="loss: Eq. 12 as printed lags",
    )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)

    h = 100
    v1 = arrays["v1"]
    for name, style, colour, width in (
        ("training", "-", colours[h], 1.8),
        ("matched", DASHES, "black", 1.4),
        ("printed", ":", colours[h], 1.8),
    ):
        path = arrays[f"m_{name}_{h}"]
        for replica in range(path.shape[1]):
            middle.plot(
                path[:, replica, 0],
                path[:, replica, 1],
                linestyle=style,
                color=colour,
                linewidth=width,
            )
    start = arrays[f"m_training_{h}"][0]
    middle.plot(start[:, 0], start[:, 1], "o", color="#555555", markersize=4, label="six starts")
    middle.plot([v1[0], -v1[0]], [v1[1], -v1[1]], "*", color="black", markersize=13, label="$\\pm v_1$")
    middle.set(xlabel="$u(e_1)$", ylabel="$u(e_2)$", title=f"outputs, h = {h}: one of two points")
    middle.set(xlim=(-1.15, 1.15), ylim=(-0.8, 1.1))
    middle.set_aspect("equal")
    middle.legend(loc="upper right")

    h = widths[0]
    styles = {
        "printed": (OKABE_ITO["vermillion"], ":"),
        "eq9": (OKABE_ITO["purple"], "-."),
        "exact": (OKABE_ITO["sky"], "-"),
        "matched": ("black", "--"),
    }
    for name, (colour, style) in styles.items():
        for halving, alpha in ((1, 1.0), (2, 0.5)):
            y = np.maximum(arrays[f"deviation_{name}_{h}_{halving}"], 1e-9)
            legend = CURVES[name] if halving == 1 else None
            right.semilogy(y, style, color=colour, alpha=alpha, linewidth=2.2 - halving * 0.4, label=legend)
    right.axhline(0.02, color="#777777", linewidth=1)
    right.text(XLIM - 2, 0.022, "2 %", fontsize=9, color="#555555", ha="right")
    right.plot([], [], color="#555555", alpha=0.5, linewidth=1.4, label="paler: η/2, at the same time")
    right.set(
        xlabel="step of η (time = 0.01 × step)",
        ylabel="relative deviation of the outputs",
        ylim=(1e-7, 10),
        xlim=(0, XLIM),
    )
    right.set_title(f"distance of training from each, h = {h}")
    right.legend(fontsize=8, loc="lower right", ncols=2)
    return {"fig3": figure}


def _panels() -> Any:
    """Two panels above, a wide one below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.6, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    return figure, tuple(figure.add_subplot(grid[where]) for where in ((0, 0), (0, 1), (1, slice(None))))


PART = Part("fig3", "Figure 3: training and its differential equation", compute, draw)
