"""Writes and executes ``docs/collapse.ipynb``: ``python scripts/make_notebook.py [OUT]``."""

import sys
import tempfile
from pathlib import Path

CELLS: list[tuple[str, str]] = [
    (
        "markdown",
        "# Do constraints prevent dimension collapse?\n\n"
        "Train the same two-layer linear network on half moons under five constraints, and look at the effective rank "
        "of its embedding: near 1 it has collapsed to a line, near 2 both dimensions are used.",
    ),
    (
        "code",
        "from sslmanifold import train\n\n"
        'names = ["none", "frobenius", "operator_norm", "scaled", "orthogonal"]\n'
        'results = {name: train(data="half_moons", constraint=name, trainer={"max_steps": 300}) for name in names}',
    ),
    (
        "code",
        "import pandas as pd\n\n"
        'keys = ["status", "steps", "rank/effective", "ode/deviation_max", "train/optimality_gap"]\n'
        "pd.DataFrame({name: {key: r.summary.get(key) for key in keys} for name, r in results.items()}).T",
    ),
    (
        "markdown",
        "Unconstrained training diverges: the loss has no minimum where C has a negative eigenvalue. A Frobenius ball "
        "bounds it but collapses; orthogonality and the operator norm do not. The embedding under each:",
    ),
    ("code", 'results["frobenius"].plot("embedding")'),
    ("code", 'results["orthogonal"].plot("embedding")'),
    (
        "markdown",
        "Training follows its exact flow: the loss against the ODE's, and the optimum the theory predicts.",
    ),
    ("code", 'results["orthogonal"].plot("loss")'),
    ("code", 'results["orthogonal"].metrics[["train/loss", "rank/effective", "ode/deviation"]].tail()'),
]


def main(out: str | Path = Path(__file__).parents[1] / "docs" / "collapse.ipynb") -> Path:
    """Execute the cells in a fresh kernel and write the notebook with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make[kind](text, id=f"cell-{i}") for i, (kind, text) in enumerate(CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel})
    with tempfile.TemporaryDirectory() as scratch:  # runs go to outputs/ below the working directory
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": scratch}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day differ from run to run
    nbformat.validate(notebook)
    nbformat.write(notebook, out)
    return Path(out)


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
