"""``sslmanifold export``: a run's embedding for use without this package."""

from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig

from sslmanifold.commands.application import run_application
from sslmanifold.config.compose import plain


def export_run(config: dict[str, Any]) -> list[Path]:
    """Write ``<run>/export/embedding.*`` and check each file against the run's own embedding.

    Returns:
        The files written.

    Raises:
        UserError: for a folder that is no run, one without a checkpoint, or a missing package.
        OutputError: where the disk is full or can only be read.
    """
    from pydantic import Field

    from sslmanifold.config.check import validated
    from sslmanifold.export import write_npz, write_onnx, write_torch
    from sslmanifold.runs import load_run
    from sslmanifold.runs.writing import writing

    def schema(
        run: str,
        trust: str | list[str] | None = None,
        weights: Literal["last", "best"] = "last",
        project: bool = False,
        formats: Annotated[list[Literal["torch", "onnx", "npz"]], Field(min_length=1)] | None = None,
        opset: Annotated[int, Field(ge=18)] = 18,
    ) -> None: ...

    options: dict[str, Any] = {
        "trust": None,
        "weights": "last",
        "project": False,
        "formats": ["torch", "onnx", "npz"],
        "opset": 18,
    }
    options |= validated(schema, config, "")
    run = load_run(
        options["run"], checkpoint=options["weights"], project=options["project"], trust=options["trust"]
    )
    run.folder.refuse_redirections()
    network, folder = run.model, run.folder.export
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in dict.fromkeys(options["formats"]):
        if name == "torch":
            path, difference = write_torch(network, folder / "embedding.pt2")
        elif name == "onnx":
            path, difference = write_onnx(network, folder / "embedding.onnx", options["opset"])
        else:
            path, difference = write_npz(network, folder / "embedding.npz")
        written.append(path)
        note = f" (opset {options['opset']})" if name == "onnx" else ""
        print(f"{path}{note}: embeds as the run does, largest relative difference {difference:.1e}")
    return written


def task(config: DictConfig) -> None:
    """Export and say what was written."""
    export_run(plain(config))


def main(arguments: list[str]) -> int:
    return run_application("export", task, arguments, folder_key="run")
