"""The table of docs/probes.md: what each constraint's embedding is worth to a linear probe.

    SSLMANIFOLD_DATA=<folder of MNIST/raw> python scripts/probe_table.py --write docs/probes.md

Every constraint is trained with the contrastive loss from the same seed, z = 10, on the first 100 principal
components of the images (99 % of what a linear probe can use; a step then takes milliseconds), and probed with
what `sslmanifold probe` uses. Without MNIST only the columns of the digits that ship with scikit-learn are made.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = ("orthogonal", "operator_norm", "scaled", "frobenius", "none")
MARKS = ("<!-- table: scripts/probe_table.py -->", "<!-- end of table -->")

# column → overrides, probe
MNIST = {
    "0/1": (("data=mnist", "data.classes=[0,1]", "data.per_class=200"), "linear_svm"),
    "4/9": (("data=mnist", "data.classes=[4,9]", "data.per_class=200"), "linear_svm"),
    "3/8": (("data=mnist", "data.classes=[3,8]", "data.per_class=200"), "linear_svm"),
    "MNIST, ten classes": (("data=mnist",), "logistic"),
}
DIGITS = {"digits, ten classes": (("data=digits",), "logistic")}


def train(overrides: Sequence[str], folder: Path) -> Any:
    """A finished run, as `sslmanifold train <overrides>` would leave it."""
    from hydra import compose, initialize_config_dir

    from sslmanifold.config.compose import plain
    from sslmanifold.config.location import config_dir
    from sslmanifold.training.fit import run_training

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = plain(compose("train", overrides=list(overrides)))
    return run_training(config, folder)


def measure(
    columns: dict[str, Any], steps: int, embedding: int, pca: int, work: Path
) -> dict[str, dict[str, Any]]:
    """Row → column → the probe's entries; the rows of baselines come from the orthogonal run."""
    from sslmanifold.config.check import build_group
    from sslmanifold.probes.evaluate import Session, Settings

    table: dict[str, dict[str, Any]] = {}
    for column, (overrides, probe) in columns.items():
        for constraint in CONSTRAINTS:
            options = (
                *overrides, f"data.pca={min(pca, 64) if 'data=digits' in overrides else pca}",
                f"model.embedding={embedding}", f"constraint={constraint}", f"trainer.max_steps={steps}",
                "callbacks=[spectrum]", "logger=csv",
            )  # fmt: skip
            run = train(options, work / f"{column.replace('/', '-')} {constraint}")
            target = {"linear_svm": "LinearSVM", "logistic": "Logistic"}[probe]
            probes = {probe: build_group({"_target_": f"sslmanifold.probes.classifiers.{target}"}, "probe")}
            first = constraint == CONSTRAINTS[0]
            found = Session(probes, Settings(baselines=["ode", "pca", "random", "raw"] if first else [])).run(
                run
            )[probe]
            rank = {"rank": run.summary["rank/effective"], "status": run.summary["status"]}
            table.setdefault(constraint, {})[column] = found | rank
            for name, entries in found.get("baselines", {}).items():
                table.setdefault(name, {})[column] = entries
            print(
                f"{column}: {constraint} {100 * found['accuracy']:.1f} %, effective rank {rank['rank']:.2f}",
                flush=True,
            )
    return table


NAMES = {
    "raw": "raw input ({pca} components)",
    "pca": "PCA",
    "random": "random orthogonal",
    "ode": "`orthogonal`, its exact dynamics",
}


def markdown(table: dict[str, dict[str, Any]], columns: Sequence[str], embedding: int, pca: int) -> str:
    """The table: accuracy in percent ± half the 95 % interval, and effective rank on the last column's data."""
    order = ["raw", "pca", "random", "orthogonal", "ode", *CONSTRAINTS[1:]]
    counts = [table["pca"][column] for column in columns]
    sizes = " | ".join(f"{entry['n_train']} / {entry['n_test']}" for entry in counts)
    lines = [
        f"| z = {embedding} | {' | '.join(columns)} | effective rank |",
        "|---" * (len(columns) + 2) + "|",
        f"| *training / test points* | {sizes} | |",
    ]
    for row in order:
        cells = []
        for column in columns:
            entry = table[row][column]
            half = (entry["interval"][1] - entry["interval"][0]) / 2
            cells.append(f"{100 * entry['accuracy']:.1f} ± {100 * half:.1f}")
        ranks = [table[row][column].get("rank") for column in columns]
        rank = "" if ranks[0] is None else f"{min(ranks):.1f} – {max(ranks):.1f}"
        name = NAMES.get(row, f"`{row}`").format(pca=pca)
        lines.append(f"| {name} | {' | '.join(cells)} | {rank} |")
    return "\n".join(lines)


def replace_between_marks(path: Path, text: str) -> None:
    """Put the text between the two marks of a file."""
    whole = path.read_text(encoding="utf-8")
    head, _, rest = whole.partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    path.write_text(f"{head}{MARKS[0]}\n{text}\n{MARKS[1]}{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> str:
    """Train, probe, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--embedding", type=int, default=10)
    parser.add_argument("--pca", type=int, default=100)
    parser.add_argument("--columns", nargs="*", help="some of the columns, by name")
    parser.add_argument(
        "--write", type=Path, help="a file with the two marks, to replace what is between them"
    )
    options = parser.parse_args(arguments)
    columns: dict[str, Any] = dict(DIGITS)
    root = os.environ.get("SSLMANIFOLD_DATA")
    if root and (Path(root) / "MNIST" / "raw").is_dir():
        columns = MNIST | columns
    if options.columns:
        columns = {name: columns[name] for name in options.columns}
    with tempfile.TemporaryDirectory() as work:
        table = measure(columns, options.steps, options.embedding, options.pca, Path(work))
    text = markdown(table, list(columns), options.embedding, options.pca)
    print(text)
    if options.write:
        replace_between_marks(options.write, text)
    return text


if __name__ == "__main__":
    main()
