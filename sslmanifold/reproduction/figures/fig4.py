"""Figure 4: time per step of training and of the differential equation over widths; SVM accuracy on both embeddings."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import MNIST, Digits, PairData, TripletBatch
from sslmanifold.data.samples import Samples
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import Loss, descend, moment_loss, triplet_loss
from sslmanifold.reproduction.experiments import trained
from sslmanifold.reproduction.images import mnist_name
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import Problem, problem, streams
from sslmanifold.theory import orthogonal_flow
from sslmanifold.theory.linearity import loglog_slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = [4, 9]
Z = 10


def seconds(step: Callable[[], Any], repeats: int, inner: int = 1) -> float:
    """Least processor time of one call over ``repeats`` blocks of ``inner``.

    Processor time, not the clock: on a machine that others use too, the clock measures them as well.
    """
    step()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(inner):
            step()
        best = min(best, (time.process_time() - start) / inner)
    return best


def training_step(scene: Problem, hidden: int, loss: Loss, seed: int) -> tuple[Callable[[], Any], Tensor]:
    """One step of Eq. 11 (gradient step and projection; orthonormal rows where h < d), float32, and the map."""
    d = scene.x.shape[1]
    if hidden >= d:
        constraint = make_constraint("orthogonal", metric="euclidean", retraction="project")
    else:
        constraint = make_constraint("orthogonal", w1="rows")
    shape = NetworkShape(d, hidden, Z)
    weights = constraint.initial(shape, streams(seed, 1), torch.float32)
    # more steps than will be timed; a small rate keeps every step alike
    networks = descend(constraint, shape, weights, loss, 1e-3, 10_000)
    network = next(networks)
    return lambda: next(networks), network.map().detach()[0].double()


def ode_step(scene: Problem, m: Tensor) -> Callable[[], Any]:
    """One step of Eq. 12 (with the factor 2) from this map, float64: q ← q + η q̇."""
    state = {"q": scene.eigvecs.mT @ m}

    def step() -> None:
        state["q"] = state["q"] + 1e-3 * orthogonal_flow(state["q"], scene.eigvals, 0.0)

    return step


def svm_accuracy(samples: Samples, m: Tensor) -> float:
    """Test accuracy of a linear SVM on the embeddings u = Xm, standardised, fitted on the training points."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    assert samples.train_y is not None
    assert samples.test_y is not None
    model = make_pipeline(StandardScaler(), LinearSVC(dual=False, tol=1e-6, max_iter=5000))
    model.fit((samples.train_x @ m).numpy(), samples.train_y.numpy())
    return float(model.score((samples.test_x @ m).numpy(), samples.test_y.numpy()))


def images(settings: Settings) -> tuple[PairData, list[str]]:
    """The data set and the overrides that choose it in a run."""
    if settings.data == "mnist":
        data: PairData = MNIST(root=settings.root, classes=CLASSES, per_class=200)
        return data, [f"data.root={settings.root}"] if settings.root else []
    return Digits(classes=CLASSES, per_class=130), [
        "data=digits",
        f"data.classes={CLASSES}",
        "data.per_class=130",
    ]


def compute(settings: Settings) -> Result:
    """Times single steps side by side, then trains h = 1000 with SSLModule and fits SVMs along the way."""
    data, chosen = images(settings)
    scene = problem(data, settings.seed)
    n, d = scene.x.shape
    widths = settings.choose((800, 1000, 2000, 4000), (800, 1000, 2000))
    narrow = (d // 4, d // 2)
    assert scene.batch.negatives is not None
    batch = TripletBatch(scene.x.float(), scene.batch.positives.float(), scene.batch.negatives.float())
    by_samples, by_moment = triplet_loss(batch), moment_loss(scene.moment.float())
    repeats, starts = settings.choose((4, 3), (2, 2))
    grid = (*narrow, *widths)
    spent: dict[str, list[list[float]]] = {"samples": [], "moment": [], "ode": []}  # by width, by start
    odes: dict[tuple[int, int], Callable[[], Any]] = {}
    for h in settings.track(grid):
        for loss in spent:
            spent[loss].append([])
        for start in range(starts):
            seed = settings.seed + start
            step, m = training_step(scene, h, by_samples, seed)
            odes[h, start] = ode_step(scene, m)
            spent["samples"][-1].append(seconds(step, repeats))
            spent["moment"][-1].append(seconds(training_step(scene, h, by_moment, seed)[0], repeats))
    # in rounds over the widths, so that a busy moment of the machine meets them all
    rounds = [{key: seconds(step, 1, 50) for key, step in odes.items()} for _ in range(10)]
    spent["ode"] = [[min(each[h, start] for each in rounds) for start in range(starts)] for h in grid]
    least = {key: [min(values) for values in spent[key]] for key in spent}
    times = {key: values[len(narrow) :] for key, values in least.items()}
    at = widths.index(1000)
    ratio = times["samples"][at] / times["ode"][at]
    fastest = min(times["samples"][at], times["moment"][at]) / times["ode"][at]
    slope = loglog_slope(widths, torch.tensor(times["samples"]))
    growth = float(times["samples"][-1] / times["samples"][0])
    ode_growth = float(max(times["ode"]) / min(times["ode"]))

    steps = settings.choose(75, 60)
    overrides = [
        *chosen,
        f"optimizer.lr={0.2 / scene.norm}",
        f"trainer.max_steps={steps}",
    ]
    overrides += [f"trainer.log_every_n_steps={steps // 10}", f"model.hidden={settings.choose(1000, 800)}"]
    overrides.append(f"replicas={starts}")
    run = trained(settings, "fig4", overrides, "fig4")
    trained_width = run.summary["hidden"]
    paths = (torch.from_numpy(run.trajectory[key]) for key in ("m", "ode_m"))  # (T, S, d, z) each
    accuracy = np.array([[[svm_accuracy(scene.samples, m) for m in maps] for maps in path] for path in paths])
    ends = accuracy[:, -1].mean(1)
    arrays: dict[str, np.ndarray] = {"h": np.array(grid, dtype=float), "accuracy": accuracy}
    arrays |= {f"time_{key}": np.array(values) for key, values in spent.items()}
    arrays["steps"] = run.trajectory["steps"]
    name = (
        mnist_name(settings.root)
        if settings.data == "mnist"
        else "scikit-learn's 8×8 digits (MNIST's files are not there)"
    )
    command = settings.command("fig4")
    setting = f"Figure 4; {name}, classes {CLASSES[0]} and {CLASSES[1]}, n = {n}, d = {d}, z = {Z}"
    evidence = (
        f"{setting}; least processor time of {repeats} and {starts} starts, one thread, one step through the "
        "data and projection (float32) against one Euler step (float64)"
    )
    claims = [
        Claim(
            "Section 4.2, Figure 4: a step of the differential equation is significantly faster than a training step",
            [
                Check("training step over ODE step at h = 1000, through the data",
                      ratio, 100.0 if d > 500 else 10.0, ">="),
                Check("least ratio over all widths, through the data or through C", min(a / b for a, b in zip(
                    least["samples"] + least["moment"], 2 * least["ode"], strict=True)),
                    1.0, ">="),
            ],
            evidence=f"{evidence}; against the fastest training, through C, the ratio at h = 1000 is {fastest:.0f}",
            command=command,
        ),
        Claim(
            "Section 4.2, Figure 4: the time of a training step grows linearly in h",
            [
                Check("slope of log time in log h, at least", slope, 0.6, ">="),
                Check("slope of log time in log h, at most", slope, 1.4),
            ],
            evidence=f"{evidence}; {growth:.1f} times as long at h = {widths[-1]} as at {widths[0]}",
            command=command,
        ),
        Claim(
            "Section 4.2, Figure 4: the time of an ODE step does not depend on h",
            [Check("longest over shortest over widths", ode_growth, 1.5)],
            evidence=f"{evidence}; h is nowhere in Eq. 9",
            command=command,
        ),
        Claim(
            "Section 4.2, Figure 4: a linear SVM does as well on the ODE's embedding as on the trained one",
            [
                Check("largest difference of test accuracies at convergence",
                      float(np.abs(accuracy[0, -1] - accuracy[1, -1]).max()), 0.01),
                Check("largest relative deviation of the embeddings", float(run.summary["ode/deviation"]), 0.05),
            ],
            evidence=f"{setting}, h = {trained_width}, {steps} steps, {starts} starts; accuracy {ends[0]:.3f} trained, "
            f"{ends[1]:.3f} ODE, "
            f"{len(scene.samples.test_x)} test images",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"{name}, classes {CLASSES[0]} and {CLASSES[1]}, n = {n}, d = {d}, z = {Z}, contrastive 1/n loss, {starts} "
        f"starts (bars and bands: their range); times: one thread, least processor time of {repeats}; at h = 1000 an "
        f"ODE step is {fastest:.0f} times as fast as the fastest training step and {ratio:.0f} times as one through "
        f"the data; h < d: orthonormal rows of W1; accuracy: linear SVM on {len(scene.samples.test_x)} test images, "
        f"h = {trained_width}"
    )
    return Result(claims, arrays, {"name": name, "d": d, "fastest": fastest}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Time per step against width; accuracy against steps; ranges over starts."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 4.2), layout="constrained")
    series = (
        ("samples", "training, through the data", "vermillion", "o", "-"),
        ("moment", "training, through C", "orange", "s", "--"),
        ("ode", "differential equation", "blue", "^", "-"),
    )
    for key, label, colour, marker, line in series:
        times = 1e3 * arrays[f"time_{key}"]  # (widths, starts)
        middle = np.median(times, 1)
        left.errorbar(
            arrays["h"],
            middle,
            np.stack([middle - times.min(1), times.max(1) - middle]),
            linestyle=line,
            marker=marker,
            markersize=5,
            capsize=3,
            color=OKABE_ITO[colour],
            label=label,
        )
    left.axvline(facts["d"], color="#777777", linewidth=1)
    left.set(yscale="log", xlabel="width h", ylabel="processor time per step (ms)")
    low, high = left.get_ylim()
    left.set_ylim(low / 2, high * 40)  # room for the legend
    left.text(facts["d"], low / 1.7, " h = d", fontsize=9, color="#555555", va="bottom")
    left.set_title(f"ODE {facts['fastest']:.0f}× as fast as the\nfastest training, h = 1000")
    left.legend(fontsize=8, loc="upper right")
    for accuracy, label, colour, style in (
        (arrays["accuracy"][0], "trained embedding", "vermillion", "o-"),
        (arrays["accuracy"][1], "ODE embedding", "blue", "^--"),
    ):
        right.plot(
            arrays["steps"], accuracy.mean(1), style, markersize=5, color=OKABE_ITO[colour], label=label
        )
        right.fill_between(
            arrays["steps"], accuracy.min(1), accuracy.max(1), color=OKABE_ITO[colour], alpha=0.2, linewidth=0
        )
    right.set(xlabel="step", ylabel="test accuracy of a linear SVM")
    right.set_title(facts["name"].split(" (")[0])
    right.legend(loc="lower right")
    return {"fig4": figure}


PART = Part("fig4", "Figure 4: run time and downstream accuracy", compute, draw, timed=True)
