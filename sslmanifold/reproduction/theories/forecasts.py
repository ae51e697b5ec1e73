"""Forecasts compared: effective rank over time under each theory's loss and under each constraint, beside training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.losses import BarlowLinear, InfoNCEDistance, NonContrastive
from sslmanifold.metrics import effective_rank
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.plots.style import constraint_colour
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import descend
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import streams
from sslmanifold.reproduction.theories.siamese_training import siamese_training
from sslmanifold.reproduction.theories.views import exact_views
from sslmanifold.theory import SampleLoss, solve_siamese, view_moments
from sslmanifold.training.forecast_drive import Limited

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Z = 3
SIGNAL, NOISE = (2.0, 1.0, 0.5, 0.3, 0.15), (0.1, 0.2, 0.05, 0.15, 0.02)
CONSTRAINTS = ("none", "frobenius", "operator_norm", "orthogonal")
SMALL = 0.002  # of an orthonormal map: where free maps and those in a ball start
LOSSES: dict[str, Any] = {
    "noncontrastive": NonContrastive(reduction="mean"),
    "stepwise": BarlowLinear(),
    "collapse": InfoNCEDistance(),
}
TITLES = {
    "noncontrastive": "non-contrastive, Eq. 2",
    "stepwise": "linear Barlow Twins",
    "siamese": "siamese, predictor or none",
    "collapse": "InfoNCE on squared distances",
}
ENDS = {"noncontrastive": 5.0, "stepwise": 7.0, "siamese": 60.0, "collapse": 10.0}
DECAY = 0.02
SIAMESE: dict[str, dict[str, Any]] = {
    "none": {"weight_decay": DECAY},
    "none_alone": {"weight_decay": DECAY, "kind": "none"},
    "orthogonal": {"weight_decay": DECAY, "orthonormal": True},
}


def head_ranks(
    a: Tensor, b: Tensor, loss: Any, constraint: str, start: Tensor, times: Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Effective rank of u = mᵀx of one layer along the exact flow of a loss and along its training, (T,) each.

    Args:
        a, b: views (n, d).
        loss: of embeddings u, u⁺.
        constraint: a constraint's name.
        start: m (d, z) at time 0.
        times: (T,), evenly spaced from 0.
        steps: of training between two of the times.
    """
    made, shape = make_constraint(constraint), NetworkShape(a.shape[-1], None, Z, layers=1)
    flow = made.flow(Limited(SampleLoss(loss, a, b), a.shape[-1], 20_000), shape)
    assert flow is not None
    piece = float(times[1] - times[0])
    state, exact = flow.start(start), []
    for _ in times:
        exact.append(float(effective_rank(a @ state.m)))
        state = flow.advance(state, piece)

    def batch_loss(network: ConstrainedNetwork) -> Tensor:
        return loss(network(a), network(b))

    total = steps * (len(times) - 1)
    path = descend(made, shape, [start[None]], batch_loss, piece / steps, total)
    seen = [float(effective_rank(a @ net.map()[0].detach())) for i, net in enumerate(path) if i % steps == 0]
    return np.array(exact), np.array(seen)


def siamese_ranks(
    a: Tensor, b: Tensor, name: str, start: Tensor, times: Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a siamese network's u = W x, free or with orthonormal rows, with its predictor or without."""
    x, x_aug = view_moments(a, b)
    options, predictor = SIAMESE[name], 0.5 * torch.eye(Z, dtype=torch.float64)
    if options.get("kind") == "none":
        rate = x_aug + DECAY * torch.eye(len(x), dtype=torch.float64)
        weights: Sequence[Tensor] = [start @ torch.linalg.matrix_exp(-rate * t) for t in times]
    else:
        free = {key: value for key, value in options.items() if key != "kind"}
        weights = list(solve_siamese(x, x_aug, start, predictor, times, **free).weight)
    piece = float(times[1] - times[0])
    path = siamese_training(a, b, start, predictor, piece / steps, steps * (len(times) - 1), **options)
    seen = [float(effective_rank(a @ w.mT)) for i, (w, _, _) in enumerate(path) if i % steps == 0]
    return np.array([float(effective_rank(a @ w.mT)) for w in weights]), np.array(seen)


def compute(settings: Settings) -> Result:
    """Four theories on the same pairs: exact flows and trainings under every constraint that each has a flow for."""
    (generator,) = streams(settings.seed, 1)
    n = settings.choose(120, 40)
    a, b = exact_views(generator, n, SIGNAL, NOISE)
    frame = torch.linalg.qr(torch.randn(len(SIGNAL), Z, generator=generator, dtype=torch.float64)).Q
    points, steps = 31, {"siamese": settings.choose(80, 40)}
    arrays: dict[str, np.ndarray] = {}
    off: dict[str, float] = {}
    lows: dict[str, float] = {}
    names = [(t, c) for t in TITLES for c in (SIAMESE if t == "siamese" else CONSTRAINTS)]
    for theory, constraint in settings.track(names):
        times = torch.linspace(0, ENDS[theory], points, dtype=torch.float64)
        many = steps.get(theory, settings.choose(200, 60))
        key = f"{theory}_{constraint}"
        if theory == "siamese":
            start = frame.mT if constraint == "orthogonal" else 0.5 * frame.mT
            exact, seen = siamese_ranks(a, b, constraint, start, times, many)
        else:
            start = frame if constraint == "orthogonal" else SMALL * frame
            exact, seen = head_ranks(a, b, LOSSES[theory], constraint, start, times, many)
        arrays |= {f"exact_{key}": exact, f"seen_{key}": seen, f"time_{theory}": times.numpy()}
        off[key], lows[key] = float(np.abs(exact - seen).max()), float(seen.min())

    def worst(theory: str) -> float:
        return max(value for key, value in off.items() if key.startswith(theory))

    command = settings.command("forecasts")
    evidence = f"figure forecasts; n = {n} pairs, d = {len(SIGNAL)}, z = {Z}, {points} times"
    settings_of = {
        "noncontrastive": "Eq. 2, one layer under four constraints",
        "stepwise": "linear Barlow Twins, one layer under four constraints",
        "siamese": "SimSiam, stop-gradient alone, and orthonormal SimSiam",
        "collapse": "InfoNCE on squared distances, one layer under four constraints",
    }
    claims = [
        Claim(
            f"The forecast is what training does: {what}",
            [Check(f"largest |effective rank of training − forecast|, of {Z}", worst(theory), 0.05)],
            evidence=evidence,
            command=command,
        )
        for theory, what in settings_of.items()
    ]
    free = {"noncontrastive": "none", "stepwise": "none", "siamese": "none_alone"}
    claims += [
        Claim(
            "Free, each theory has a way to lose rank: without end (Eq. 2, stop-gradient alone) or for a time (steps)",
            [
                Check(f"least effective rank, {TITLES[theory]}", lows[f"{theory}_{name}"], 2.0)
                for theory, name in free.items()
            ],
            evidence=evidence,
            command=command,
        ),
        Claim(
            "Under orthogonality none does",
            [
                Check(f"least effective rank, {title}", lows[f"{theory}_orthogonal"], 2.3, ">=")
                for theory, title in TITLES.items()
            ],
            evidence=evidence,
            command=command,
        ),
    ]
    caption = (
        f"X of spectrum {', '.join(map(str, SIGNAL))}, X′ of {', '.join(map(str, NOISE))}, n = {n} pairs, u = mᵀx with "
        f"z = {Z}; free maps and those in a ball start from {SMALL:g} of the orthonormal one (siamese: from half "
        f"of it, P = I/2, η = {DECAY}); lines: exact flows, points: training"
    )
    return Result(claims, arrays, {}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Effective rank over time, a panel a theory, a colour a constraint."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), layout="constrained", sharey=True)
    for ax, (theory, title) in zip(axes, TITLES.items(), strict=True):
        for constraint in SIAMESE if theory == "siamese" else CONSTRAINTS:
            colour = constraint_colour(constraint.removesuffix("_alone"))
            alone = constraint.endswith("_alone")
            label = "none, no predictor" if alone else constraint
            width = 4.5 if constraint == "none" and theory != "siamese" else 1.8  # others lie on it
            see_through = 0.45 if width > 2 else 1.0
            time, key = arrays[f"time_{theory}"], f"{theory}_{constraint}"
            look: dict[str, Any] = {"color": colour, "label": label, "linewidth": width, "alpha": see_through}
            ax.plot(time, arrays[f"exact_{key}"], "--" if alone else "-", **look)
            ax.plot(time, arrays[f"seen_{key}"], ".", color=colour, markersize=5)
        ax.axhline(1, color="#777777", linewidth=1, linestyle=":")
        ax.set(title=title, xlabel="time (Σ lr)", ylim=(0.9, Z + 0.1))
    axes[0].legend(loc="upper right", bbox_to_anchor=(1.0, 0.87), fontsize=9)
    axes[2].legend(loc="lower left", bbox_to_anchor=(0.0, 0.08), fontsize=9)
    axes[0].set_ylabel(f"effective rank of the embedding (of {Z})")
    return {"forecasts": figure}


PART = Part("forecasts", "Effective rank over time: every theory and constraint", compute, draw)
