"""What a probe leaves behind: ``probes/<name>.json``, ``probes/table.csv`` and a table in the terminal."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslmanifold.runs import Run, RunFolder, atomic, finite_json

COLUMNS = (
    "job", "data", "loss", "constraint", "seed", "embedding", "dim", "probe", "accuracy", "low", "high", "n_train",
    "n_test", "hyperparameters",
)  # fmt: skip
EMBEDDINGS = {
    "run": "this run",
    "ode": "ODE",
    "pca": "PCA",
    "random": "random",
    "raw": "raw input",
}


def write_results(run: Run, results: dict[str, dict[str, Any]]) -> None:
    """``probes/<name>.json`` for each probe."""
    for name, entries in results.items():
        with atomic(run.folder.probes / f"{name}.json") as temporary:
            content = {"probe": name, "checkpoint": run.checkpoint.name, **entries}
            temporary.write_text(
                json.dumps(finite_json(content), indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )


def rows_of(run: Run, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per probe and embedding; a baseline that does not exist has no row."""
    choices = {key: run.summary.get(key, "") for key in ("data", "loss", "constraint")}
    job = {"job": run.path.name, **choices, "seed": run.config.get("seed", "")}
    rows = []
    for name, entries in results.items():
        for embedding, found in {"run": entries, **entries.get("baselines", {})}.items():
            if "accuracy" not in found:
                continue
            low, high = found["interval"]
            row = job | {"embedding": embedding, "probe": name, "low": low, "high": high}
            row |= {key: found[key] for key in ("dim", "accuracy", "n_train", "n_test")}
            rows.append(row | {"hyperparameters": json.dumps(found["hyperparameters"])})
    return rows


def write_table(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``probes/table.csv`` in a run's or a sweep's folder."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(RunFolder(folder).probes / "table.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(row: dict[str, Any]) -> str:
    half = (row["high"] - row["low"]) / 2
    return f"{100 * row['accuracy']:.1f} ±{100 * half:.1f}"


def print_table(rows: Sequence[dict[str, Any]], folder: Path, failures: Sequence[str] = ()) -> None:
    """Embeddings (or the jobs of a sweep) down, probes across."""
    from rich.table import Table

    from sslmanifold.console import TextConsole, cell

    probes = list(dict.fromkeys(row["probe"] for row in rows))
    jobs = list(dict.fromkeys(row["job"] for row in rows))
    table = Table()
    table.add_column("job" if len(jobs) > 1 else "embedding", style="bold", no_wrap=len(jobs) == 1)
    table.add_column("dim", justify="right")
    for name in probes:
        table.add_column(name, justify="right", no_wrap=True)
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        if len(jobs) == 1:
            label = EMBEDDINGS[row["embedding"]]
        elif row["embedding"] == "run":
            label = f"{row['job']}: constraint={row['constraint']} loss={row['loss']} seed={row['seed']}"
        else:
            continue
        lines.setdefault(label, {"dim": row["dim"]})[row["probe"]] = _cell(row)
    for label, cells in lines.items():
        table.add_row(cell(label), str(cells["dim"]), *(cells.get(name, "") for name in probes))
    console = TextConsole()
    some = rows[0]
    title = (
        f"test accuracy in % (± half the 95 % bootstrap interval), {some['n_train']} training and {some['n_test']} "
        "test points"
    )
    console.print(title, highlight=False)
    console.print(table)
    for failure in failures:
        console.print(f"not probed: {failure}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {folder / 'probes'}", highlight=False, markup=False, soft_wrap=True)
