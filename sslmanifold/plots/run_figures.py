"""The four figures of one run: loss, effective rank, singular values, embedding."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.plots.save import save
from sslmanifold.plots.scales import settling, stretch_the_start, symmetric_log_if_wide
from sslmanifold.plots.style import OKABE_ITO, THEORY, constraint_colour, figure_style
from sslmanifold.runs import Run
from sslmanifold.runs.keys import LOSS, RANK


def draw_run(
    run_dir: Path,
    points: int = 2000,
    summary: Mapping[str, Any] | None = None,
    *,
    missing: bool = False,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw every figure the folder has data for; returns the paths of those drawn.

    Args:
        run_dir: the run folder.
        points: at most this many in the embedding scatter.
        summary: what ``summary.json`` will say, where it is not written yet.
        missing: draw only those that are not there.
        formats: png, pdf, svg.
    """
    run = Run(run_dir)
    if summary is not None:
        run.summary = dict(summary)
    folder = run.folder.figures
    wanted = {
        name: [kind for kind in formats if not (missing and (folder / f"{name}.{kind}").exists())]
        for name in FIGURES
    }
    drawn: list[Path] = []
    if not any(wanted.values()):
        return drawn
    with figure_style():
        import matplotlib.pyplot as plt

        for name, kinds in wanted.items():
            figure = FIGURES[name](run, points) if kinds else None
            if figure is None:
                continue
            try:
                drawn += save(figure, folder / name, kinds, _caption(run))
            finally:
                plt.close(figure)
    return drawn


def _caption(run: Run) -> str:
    s = run.summary
    return ", ".join(f"{key}={s[key]}" for key in ("data", "model", "loss", "constraint", "seed") if key in s)


def _title(run: Run, width: int) -> str:
    """The caption in lines that fit over the axes; names may be long."""
    return textwrap.fill(_caption(run), width)


def _solved(run: Run) -> bool:
    """Whether the run was solved by ``sslmanifold dynamics`` rather than trained."""
    return run.summary.get("kind") == "dynamics"


def _abscissa(run: Run) -> np.ndarray:
    """Optimizer steps, or the time of a solved trajectory."""
    return np.asarray(run.metrics["ode/time" if _solved(run) else "step"])


def _axes(run: Run, ylabel: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.8))
    axes.set_xlabel("time t = Σ lr" if _solved(run) else "optimizer step")
    axes.set_ylabel(ylabel)
    axes.set_title(_title(run, 70), loc="left", fontsize=9, parse_math=False)
    return figure, axes


def _one_axis(run: Run, axes: Any) -> None:
    """The x axis that all curves of a run share: linear until the last of loss, rank and spectrum has settled."""
    steps = _abscissa(run)
    curves = [np.asarray(run.metrics[key]) for key in (LOSS, RANK) if key in run.metrics]
    values = run.trajectory.get("singular_values")
    if values is not None:  # (T, S, z)
        curves += list(values.mean(1).T[:10])
    settled = [settling(steps[-len(curve) :], curve) for curve in curves]
    axes.set_xlim(0, steps[-1] if len(steps) > 1 else None)
    stretch_the_start(axes, max(settled, default=0.0), float(steps[-1]))


def _last_moment(run: Run) -> str:
    return f"t = {run.summary['ode/time']:.4g}" if _solved(run) else f"step {run.summary['steps']}"


def subspace_figure(run: Run, points: int) -> Any:
    """How far the span of the map is from the one it converges to (Conjecture 2)."""
    if "ode/limit_distance" not in run.metrics:
        return None
    figure, axes = _axes(run, "sine of the largest angle to the limit subspace")
    colour = constraint_colour(run.summary["constraint"])
    axes.semilogy(_abscissa(run), np.maximum(run.metrics["ode/limit_distance"], 1e-16), color=colour)
    _one_axis(run, axes)
    return figure


def loss_figure(run: Run, points: int) -> Any:
    """Loss of the training against the ODE's and the optimum."""
    metrics, arrays, colour = run.metrics, run.trajectory, constraint_colour(run.summary["constraint"])
    if "train/loss" not in metrics:
        return None
    steps = _abscissa(run)
    figure, axes = _axes(run, "loss (as differentiated)")
    loss = np.asarray(metrics["train/loss"])
    axes.plot(steps, loss, color=colour, label="exact flow" if _solved(run) else "training")
    if "train/loss_std" in metrics:
        spread = np.asarray(metrics["train/loss_std"])
        axes.fill_between(
            steps, loss - spread, loss + spread, color=colour, alpha=0.2, linewidth=0, label="± 1 std"
        )
    if "ode_loss" in arrays and not _solved(run):
        ode = arrays["ode_loss"].mean(-1)
        axes.plot(steps[-len(ode) :], ode, "--", color=THEORY, linewidth=1.3, label="its ODE")
    if "train/optimum" in run.summary:
        axes.axhline(
            run.summary["train/optimum"], color="#777777", linewidth=1, linestyle=":", label="optimum L*"
        )
    symmetric_log_if_wide(axes, loss)
    _one_axis(run, axes)
    axes.legend()
    return figure


def rank_figure(run: Run, points: int) -> Any:
    """Effective rank over training: near 1 the embedding has collapsed."""
    metrics = run.metrics
    if "rank/effective" not in metrics:
        return None
    colour = constraint_colour(run.summary["constraint"])
    steps, rank = _abscissa(run), np.asarray(metrics["rank/effective"])
    figure, axes = _axes(run, "effective rank of the embedding")
    axes.plot(steps, rank, color=colour, label="exact flow" if _solved(run) else "training")
    if "rank/effective_std" in metrics:
        spread = np.asarray(metrics["rank/effective_std"])
        axes.fill_between(
            steps, rank - spread, rank + spread, color=colour, alpha=0.2, linewidth=0, label="± 1 std"
        )
    axes.axhline(
        run.summary["embedding"], color="#777777", linestyle=":", linewidth=1, label="z, no collapse"
    )
    axes.axhline(1, color=OKABE_ITO["vermillion"], linestyle=":", linewidth=1, label="1, collapsed")
    axes.set_ylim(0.9, max(run.summary["embedding"], float(np.nanmax(rank))) * 1.05)
    _one_axis(run, axes)
    axes.legend(loc="best")
    return figure


def singular_value_figure(run: Run, points: int) -> Any:
    """Singular values of the training embedding over training."""
    arrays = run.trajectory
    if "singular_values" not in arrays:
        return None
    values = np.moveaxis(arrays["singular_values"], 1, 0).mean(0)  # (T, S, z) -> (T, z)
    figure, axes = _axes(run, "singular value of the embedding")
    shades = np.linspace(1.0, 0.35, values.shape[1])
    colour = constraint_colour(run.summary["constraint"])
    for index in range(min(values.shape[1], 10)):
        axes.plot(
            _abscissa(run)[-len(values) :],
            values[:, index],
            color=colour,
            alpha=shades[index],
            label=f"σ{index + 1}",
        )
    _one_axis(run, axes)
    if np.nanmax(values) > 1e3 * max(np.nanmin(values), 1e-12):
        axes.set_yscale("log")
    axes.legend(ncols=2 if values.shape[1] > 5 else 1)
    return figure


def embedding_figure(run: Run, points: int) -> Any:
    """The training points embedded at the start and at the end, first replica, first two dimensions."""
    import matplotlib.pyplot as plt

    arrays = run.trajectory
    if "embedding_initial" not in arrays:
        return None
    labels = arrays.get("labels")
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2))
    for axes, when in zip(panels, ("initial", "final"), strict=True):
        embedding = arrays[f"embedding_{when}"][0][:points]  # (n, z)
        first = embedding[:, 0]
        second = embedding[:, 1] if embedding.shape[1] > 1 else np.zeros_like(first)
        if labels is None:
            axes.scatter(
                first,
                second,
                s=8,
                color=constraint_colour(run.summary["constraint"]),
                alpha=0.7,
                linewidths=0,
            )
        else:
            chosen = labels[: len(first)]
            classes = np.unique(chosen)
            colours = [*list(OKABE_ITO.values())[1:], "#000000", "#999999", "#7F3C8D"]
            for index, label in enumerate(classes[:10]):
                mask = chosen == label
                axes.scatter(
                    first[mask], second[mask], s=9, alpha=0.75, linewidths=0, label=str(label),
                    color=colours[index % len(colours)], marker="os^vD<>pPX"[index],
                )  # fmt: skip
        moment = ("t = 0" if _solved(run) else "step 0") if when == "initial" else _last_moment(run)
        axes.set_title(moment, loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("u₁")
        axes.set_ylabel("u₂" if embedding.shape[1] > 1 else "")
    if labels is not None:
        panels[1].legend(title="label", loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=1.8)
    figure.suptitle(_title(run, 120), x=0.01, ha="left", fontsize=9, parse_math=False)
    figure.tight_layout()
    return figure


FIGURES: dict[str, Callable[[Run, int], Any]] = {
    "loss": loss_figure,
    "effective_rank": rank_figure,
    "singular_values": singular_value_figure,
    "embedding": embedding_figure,
    "limit_subspace": subspace_figure,
}
