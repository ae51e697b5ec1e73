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
    repeats = settings.choose(6, 2)
    times: dict[str, list[float]] = {"samples": [], "moment": [], "ode": []}
    narrow_times: dict[str, list[float]] = {"samples": [], "ode": []}
    odes_by_width: dict[int, Callable[[], Any]] = {}
    for h in settings.track((*narrow, *widths)):
        step, m = training_step(scene, h, by_samples, settings.seed)
        odes_by_width[h] = ode_step(scene, m)
        (narrow_times if h in narrow else times)["samples"].append(seconds(step, repeats))
        if h in widths:
            times["moment"].append(seconds(training_step(scene, h, by_moment, settings.seed)[0], repeats))
    # in rounds over the widths, so that a busy moment of the machine meets them all
    rounds = [{h: seconds(step, 1, 50) for h, step in odes_by_width.items()} for _ in range(20)]
    least = {h: min(each[h] for each in rounds) for h in odes_by_width}
    times["ode"] = [least[h] for h in widths]
    narrow_times["ode"] = [least[h] for h in narrow]
    ratio = times["samples"][widths.index(1000)] / times["ode"][widths.index(1000)]
    best_ratio = times["moment"][widths.index(1000)] / times["ode"][widths.index(1000)]
    slope = loglog_slope(widths, torch.tensor(times["samples"]))
    growth = float(times["samples"][-1] / times["samples"][0])
    ode_growth = float(max(times["ode"]) / min(times["ode"]))

    steps = settings.choose(150, 60)
    overrides = [
        *chosen,
        f"optimizer.lr={settings.choose(0.1, 0.2) / scene.norm}",
        f"trainer.max_steps={steps}",
    ]
    overrides += [f"trainer.log_every_n_steps={steps // 10}", f"model.hidden={settings.choose(1000, 800)}"]
    run = trained(settings, "fig4", overrides, "fig4")
    trained_width = run.summary["hidden"]
    maps, odes = (torch.from_numpy(run.trajectory[key][:, 0]) for key in ("m", "ode_m"))
    accuracy = np.array([[svm_accuracy(scene.samples, m) for m in path] for path in (maps, odes)])
    arrays: dict[str, np.ndarray] = {
        "h": np.array(widths, dtype=float),
        "narrow": np.array(narrow),
        "accuracy": accuracy,
    }
    arrays |= {f"time_{key}": np.array(values) for key, values in times.items()}
    arrays |= {f"narrow_{key}": np.array(values) for key, values in narrow_times.items()}
    arrays["steps"] = run.trajectory["steps"]
    name = (
        mnist_name(settings.root)
        if settings.data == "mnist"
        else "scikit-learn's 8×8 digits (MNIST's files are not there)"
    )
    command = settings.command("fig4")
    setting = f"Figure 4; {name}, classes {CLASSES[0]} and {CLASSES[1]}, n = {n}, d = {d}, z = {Z}"
    evidence = (
        f"{setting}; least processor time of {repeats}, one thread, one step through the data and "
        f"projection (float32) against one "
        "Euler step (float64)"
    )
    claims = [
        Claim(
            "Section 4.2, Figure 4: a step of the differential equation is significantly faster than a training step",
            [
                Check("training step over ODE step at h = 1000, through the data",
                      ratio, 100.0 if d > 500 else 10.0, ">="),
                Check("least ratio over all widths", min(a / b for a, b in zip(
                    times["samples"] + narrow_times["samples"], times["ode"] + narrow_times["ode"], strict=True)),
                    1.0, ">="),
            ],
            evidence=f"{evidence}; through C instead of the data the ratio at h = 1000 is {best_ratio:.0f}",
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
                Check("difference of test accuracies at convergence",
                      float(abs(accuracy[0, -1] - accuracy[1, -1])), 0.01),
                Check("largest relative deviation of the embeddings", float(run.summary["ode/deviation"]), 0.05),
            ],
            evidence=f"{setting}, h = {trained_width}, {steps} steps; accuracy {accuracy[0, -1]:.3f} trained, "
            f"{accuracy[1, -1]:.3f} ODE, "
            f"{len(scene.samples.test_x)} test images",
            command=command,
        ),
    ]  # fmt: skip
    caption = (
        f"{name}, classes {CLASSES[0]} and {CLASSES[1]}, n = {n}, d = {d}, z = {Z}, contrastive 1/n "
        f"loss; times: one thread, least "
        f"processor time of {repeats}; at h = 1000 an ODE step is {ratio:.0f} times as fast as a "
        f"training step; accuracy: linear SVM "
        f"on {len(scene.samples.test_x)} test images, h = {trained_width}"
    )
    return Result(claims, arrays, {"name": name, "d": d, "ratio": ratio}, caption)


def draw(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "dict[str, Figure]":
    """Time per step against width; accuracy against steps."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    series = (
        ("samples", "training (Eq. 11), through the data", "vermillion", "o", "-"),
        ("moment", "training, through C", "orange", "s", "--"),
        ("ode", "differential equation (Eq. 12)", "blue", "^", "-"),
    )
    for key, label, colour, marker, line in series:
        left.plot(
            arrays["h"],
            1e3 * arrays[f"time_{key}"],
            line,
            marker=marker,
            color=OKABE_ITO[colour],
            label=label,
        )
    for key, colour, marker in (("samples", "vermillion", "o"), ("ode", "blue", "^")):
        left.plot(
            arrays["narrow"], 1e3 * arrays[f"narrow_{key}"], ":", marker=marker, color=OKABE_ITO[colour],
                markerfacecolor="white"
        )  # fmt: skip
    left.plot(
        [], [], ":", marker="o", color="black", markerfacecolor="white", label="h < d: orthonormal rows of W1"
    )
    left.axvline(facts["d"], color="#777777", linewidth=1)
    left.text(facts["d"], left.get_ylim()[1], " h = d", fontsize=8, color="#555555", va="top")
    left.set(yscale="log", xlabel="width h", ylabel="processor time per step (ms)")
    left.set_title(f"Time: {facts['ratio']:.0f}× at h = 1000")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    right.plot(
        arrays["steps"],
        arrays["accuracy"][0],
        "o-",
        color=OKABE_ITO["vermillion"],
        linewidth=3,
        alpha=0.6,
        label="trained embedding",
    )
    right.plot(arrays["steps"], arrays["accuracy"][1], "^--", color=OKABE_ITO["blue"], label="ODE embedding")
    right.set(xlabel="step", ylabel="test accuracy of a linear SVM", title=facts["name"].split(" (")[0])
    right.legend(loc="lower right")
    return {"fig4": figure}


PART = Part("fig4", "Figure 4: run time and downstream accuracy", compute, draw, timed=True)
