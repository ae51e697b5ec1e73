"""The honest table of docs/encoders.md: what a constraint is worth to an image encoder, loss by loss.

    python scripts/encoder_table.py --root PHOTOGRAPHS --rows rows.csv --write docs/encoders.md
    python scripts/encoder_table.py --rows docs/encoder_table.csv    # the table again, from rows that were measured

Every cell is ``sslmanifold train`` with one recipe, which was searched for NT-Xent without constraint; nothing is
chosen by cell but the weight of the soft penalty. Accuracies are those of the run's own probes on test images at its
last step: kNN (k = 20, cosine) and ridge regression on the backbone's features, no augmentation. Cells that the rows
file has are not run again. ``--device cuda --workers 8`` runs eight cells at once on one card.
"""

import argparse
import csv
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKS = ("<!-- table: scripts/encoder_table.py -->", "<!-- end of table -->")
RECIPE = (
    "model=encoder", "optimizer=adam", "optimizer.lr=3e-3", "optimizer.weight_decay=0.01", "scheduler=cosine",
    "scheduler.warmup=0.1", "callbacks=[spectrum]",
)  # fmt: skip
LOSSES = {
    "Eq. 1, normalised": ("loss=contrastive", "loss.reduction=mean", "model.normalize=true"),
    "NT-Xent": ("loss=ntxent", "loss.temperature=0.2"),
    "VICReg": ("loss=vicreg",),
    "Barlow Twins": ("loss=barlow",),
}
CONSTRAINTS = {
    "no constraint": ("constraint=none",),
    "orthogonal projector": ("constraint=orthogonal", "model.constrain=projector"),
    "orthogonal everywhere": ("constraint=orthogonal", "model.constrain=all"),
    "soft penalty everywhere": ("constraint=none", "model.constrain=all", "model.penalty={penalty}"),
}
FIELDS = (
    "loss", "constraint", "seed", "epochs", "status", "knn", "linear", "start_knn", "rank_projections",
    "rank_features", "seconds_per_step", "device",
)  # fmt: skip


def cell(loss: str, constraint: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training: a row of what the table needs."""
    from sslmanifold import train

    lines = [
        "data=image_folder", f"data.root={options.root}", *RECIPE, *LOSSES[loss],
        *(line.format(penalty=options.penalty) for line in CONSTRAINTS[constraint]),
        f"trainer.max_epochs={options.epochs}", f"seed={seed}", f"threads={options.threads}", *options.extra,
    ]  # fmt: skip
    if options.device == "cuda":
        lines.append("trainer.accelerator=gpu")
    with tempfile.TemporaryDirectory() as folder:
        run = train(*lines, run_dir=Path(folder) / "run")
        summary, start = run.summary, run.metrics["probe/knn/accuracy"].iloc[0]
    return {
        "loss": loss, "constraint": constraint, "seed": seed, "epochs": options.epochs, "status": summary["status"],
        "knn": 100 * summary["probe/knn/accuracy"], "linear": 100 * summary["probe/linear/accuracy"],
        "start_knn": 100 * start, "rank_projections": summary["rank/effective"],
        "rank_features": summary["rank/effective/backbone"],
        "seconds_per_step": summary["wall_seconds"] / max(1, summary["steps"]), "device": options.device,
    }  # fmt: skip


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that a file has, numbers as numbers."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})


def run_missing(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every cell that the rows file lacks, and return all rows."""
    from joblib import Parallel, delayed

    known = {(row["loss"], row["constraint"], row["seed"]) for row in read_rows(options.rows)}
    missing = [
        (loss, constraint, seed)
        for seed in options.seeds
        for loss in options.losses
        for constraint in options.constraints
        if (loss, constraint, seed) not in known
    ]
    rows = Parallel(n_jobs=options.workers, return_as="generator_unordered")(
        delayed(cell)(*job, options) for job in missing
    )
    for row in rows:
        _append(options.rows, row)
        print(
            f"{row['loss']}, {row['constraint']}, seed {row['seed']}: {row['status']}, kNN {row['knn']:.1f}, linear "
            f"{row['linear']:.1f}, rank {row['rank_projections']:.1f} and {row['rank_features']:.1f}, "
            f"{row['seconds_per_step']:.3f} s/step",
            flush=True,
        )
    return read_rows(options.rows)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the seeds of kNN, linear probe and both ranks, a line a cell."""
    lines = [
        "| loss | constraint | kNN | linear | rank of projections | rank of features |",
        "|---|---|---|---|---|---|",
    ]
    for loss in LOSSES:
        for constraint in CONSTRAINTS:
            found = [row for row in rows if (row["loss"], row["constraint"]) == (loss, constraint)]
            if not found:
                continue
            cells = [
                _spread([row[key] for row in found])
                for key in ("knn", "linear", "rank_projections", "rank_features")
            ]
            lines.append(f"| {loss} | {constraint} | {' | '.join(cells)} |")
    starts = [row["start_knn"] for row in rows]
    lines.append(f"| | the encoders before their first step | {_spread(starts)} | | | |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def replace_between_marks(path: Path, text: str) -> None:
    """Put the text between the two marks of a file."""
    whole = path.read_text(encoding="utf-8")
    head, _, rest = whole.partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    path.write_text(f"{head}{MARKS[0]}\n{text}\n{MARKS[1]}{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> str:
    """Train what is missing, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="a folder of images: train/CLASS/*, test/CLASS/*")
    parser.add_argument("--rows", type=Path, default=Path("encoder_table.csv"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--constraints", nargs="*", default=list(CONSTRAINTS), choices=list(CONSTRAINTS))
    parser.add_argument("--penalty", type=float, default=0.1, help="λ of the soft penalty")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="cells at once")
    parser.add_argument("--threads", type=int, default=2, help="of each cell")
    parser.add_argument("--extra", nargs="*", default=[], help="further overrides of every cell")
    parser.add_argument(
        "--write", type=Path, help="a file with the two marks, to replace what is between them"
    )
    options = parser.parse_args(arguments)
    rows = run_missing(options) if options.root else read_rows(options.rows)
    text = markdown(rows)
    print(text)
    if options.write:
        replace_between_marks(options.write, text)
    return text


if __name__ == "__main__":
    main()
