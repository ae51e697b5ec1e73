"""Draws the README's picture: what each constraint does to an embedding of digits, and training beside its ODE.

uv run python scripts/readme_picture.py out=docs/images/constraints.png
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from sslmanifold.plots.style import OKABE_ITO, THEORY, constraint_colour, figure_style
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

        figure = plt.figure(figsize=(11, 6.2), layout="constrained")
        grid = figure.add_gridspec(2, 4, height_ratios=[1, 0.95])
        digits = (0, 1, 4)
        colours = [OKABE_ITO["blue"], OKABE_ITO["orange"], OKABE_ITO["green"]]
        for column, (name, run) in enumerate(runs.items()):
            axes = figure.add_subplot(grid[0, column])
            embedding, labels = run.trajectory["embedding_final"][0], run.trajectory["labels"]
            embedding = embedding / np.abs(embedding).max()
            for digit, colour, marker in zip(digits, colours, "os^", strict=True):
                chosen = labels == digit
                axes.scatter(
                    *embedding[chosen].T, s=9, c=colour, marker=marker, linewidths=0, alpha=0.75, label=digit
                )
            rank = run.summary["rank/effective"]
            title = f"constraint={name}\neffective rank {rank:.2f} of 2" + (
                ": collapsed" if rank < 1.05 else ""
            )
            axes.set_title(title, fontsize=10, color=constraint_colour(name))
            axes.set(xticks=[], yticks=[], xlabel="u₁ / max|u|", ylabel="u₂ / max|u|" if column == 0 else "")
            axes.set_aspect("equal", adjustable="datalim")
            if column == 3:
                axes.legend(title="digit", fontsize=8, title_fontsize=8, markerscale=1.6, loc="best")
        loss, rank = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
        for name, run in runs.items():
            steps = np.asarray(run.metrics["step"])
            shown = steps <= 140
            rank.plot(
                steps[shown],
                np.asarray(run.metrics["rank/effective"])[shown],
                color=constraint_colour(name),
                label=name,
            )
            if name == "none":
                continue
            loss.plot(
                steps[shown],
                np.asarray(run.metrics["train/loss"])[shown],
                color=constraint_colour(name),
                label=name,
            )
            ode = run.trajectory["ode_loss"].mean(-1)
            theory = "exact flow of each" if name == "frobenius" else None
            loss.plot(steps[shown], ode[shown], "--", color=THEORY, linewidth=1.2, label=theory)
        loss.set(xlabel="optimizer step", ylabel="loss", title="training and its exact dynamics")
        rank.set(
            xlabel="optimizer step",
            ylabel="effective rank",
            title="effective rank while training",
            ylim=(0.9, 2.1),
        )
        loss.legend()
        rank.legend()
        with atomic(out) as temporary:
            command = (
                "scripts/readme_picture.py: digits, contrastive loss, two-layer linear net, z = 2, seed 0"
            )
            figure.savefig(temporary, format="png", metadata={"Description": command})
        plt.close(figure)


def main(out: str = "docs/images/constraints.png", steps: int = 1000) -> Path:
    """Train under every constraint and draw; returns the picture's path."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: trained(name, Path(folder), steps) for name in CONSTRAINTS}
        draw(runs, Path(out))
    return Path(out)


if __name__ == "__main__":
    print(main(**dict(argument.split("=", 1) for argument in sys.argv[1:])))
