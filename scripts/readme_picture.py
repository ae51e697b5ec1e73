"""Draws the README's picture: what each constraint does to an embedding of digits, and training beside its ODE.

uv run python scripts/readme_picture.py out=docs/images/constraints.png
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.plots.style import THEORY, constraint_colour, figure_style
from sslmanifold.runs import Run, atomic

CONSTRAINTS = ("none", "frobenius", "operator_norm", "orthogonal")


def trained(constraint: str, folder: Path, steps: int) -> Run:
    """The default run on digits under one constraint."""
    from hydra import compose, initialize_config_dir

    from sslmanifold.config.compose import plain
    from sslmanifold.config.location import config_dir
    from sslmanifold.training.fit import run_training

    overrides = [f"constraint={constraint}", f"trainer.max_steps={steps}", "callbacks=[spectrum,ode]"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = plain(compose("train", overrides=[*overrides, "trainer.log_every_n_steps=1"]))
    return run_training(config, folder / constraint)


def draw(runs: dict[str, Run], out: Path) -> None:
    """Embeddings above; loss against the ODE and effective rank below."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(10, 6.4), layout="constrained")
        grid = figure.add_gridspec(2, 4, height_ratios=[1, 1])
        for column, (name, run) in enumerate(runs.items()):
            axes = figure.add_subplot(grid[0, column])
            _embedding(axes, name, run)
            if column == 0:
                axes.set_ylabel("u₂ / max|u|")
            handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=3, title="the digits 0, 1, 4", markerscale=1.8
        )
        loss, rank = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
        for name, run in runs.items():
            steps = np.asarray(run.metrics["step"])
            shown = steps <= 140
            line = {"color": constraint_colour(name), "label": f"constraint={name}"}
            rank.plot(steps[shown], np.asarray(run.metrics["rank/effective"])[shown], **line)
            loss.plot(steps[shown], np.asarray(run.metrics["train/loss"])[shown], **line)
            if name != "none":  # it leaves the picture at once, and its flow with it
                ode = run.trajectory["ode_loss"].mean(-1)
                loss.plot(steps[shown], ode[shown], linestyle=(0, (3, 4)), color=THEORY, linewidth=1.2)
        rank.plot(
            [], [], linestyle=(0, (3, 4)), color=THEORY, linewidth=1.2, label="left: exact flow of each"
        )
        lowest = min(min(run.metrics["train/loss"]) for name, run in runs.items() if name != "none")
        loss.set_ylim(1.15 * lowest, -0.05 * lowest)
        loss.annotate(
            "none diverges", (24, 1.1 * lowest), color=constraint_colour("none"), fontsize=9, va="bottom"
        )
        loss.set_title("training and its exact dynamics")
        loss.set(xlabel="optimizer step", ylabel="loss")
        rank.set_title("effective rank while training")
        rank.set(xlabel="optimizer step", ylabel="effective rank of 2", ylim=(0.9, 2.1))
        rank.legend(loc="center right", bbox_to_anchor=(1.0, 0.6))
        rank.axhline(1, color="#777777", linewidth=1, linestyle=":")
        rank.text(138, 1.02, "1: collapsed", color="#555555", fontsize=9, ha="right", va="bottom")
        with atomic(out) as temporary:
            command = (
                "scripts/readme_picture.py: digits, contrastive loss, two-layer linear net, z = 2, seed 0"
            )
            figure.savefig(temporary, format="png", metadata={"Description": command})
        plt.close(figure)


def _embedding(axes: Any, name: str, run: Run) -> None:
    """The embedding divided by its largest coordinate; classes in greys, since colours are constraints here."""
    embedding, labels = run.trajectory["embedding_final"][0], run.trajectory["labels"]
    embedding = embedding / np.abs(embedding).max()
    for digit, colour, marker in zip((0, 1, 4), ("#000000", "#707070", "#B5B5B5"), "os^", strict=True):
        chosen = labels == digit
        axes.scatter(*embedding[chosen].T, s=11, c=colour, marker=marker, linewidths=0, label=str(digit))
    rank = run.summary["rank/effective"]
    title = f"{name}\neffective rank {rank:.2f}" + (": collapsed" if rank < 1.05 else "")
    axes.set_title(title, color=constraint_colour(name), fontsize=10)
    axes.set(xticks=[], yticks=[], xlabel="u₁ / max|u|")
    axes.set_aspect("equal", adjustable="datalim")


def main(out: str = "docs/images/constraints.png", steps: int = 1000) -> Path:
    """Train under every constraint and draw; returns the picture's path."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: trained(name, Path(folder), steps) for name in CONSTRAINTS}
        draw(runs, Path(out))
    return Path(out)


if __name__ == "__main__":
    print(main(**dict(argument.split("=", 1) for argument in sys.argv[1:])))
