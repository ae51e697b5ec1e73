"""What a W&B run shows besides its curves: figures, the loss against the ODE, the spectrum, the embedding, probes."""

from pathlib import Path
from typing import Any

import numpy as np

from sslmanifold.runs import Run
from sslmanifold.runs.folder import read_json

POINTS = 500  # of the embedding's table


def log_media(run: Any, folder: Run, figures: list[Path]) -> None:
    """Log the media of a finished run.

    Args:
        run: the open W&B run.
        folder: the run folder they are made from.
        figures: what was drawn; W&B shows the PNGs.
    """
    import wandb

    pictures = [path for path in figures if path.suffix == ".png"]
    media: dict[str, Any] = {f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures}
    media |= _loss_against_ode(folder)
    media |= _spectrum(folder)
    media |= _embedding(folder)
    if media:
        run.log(media)


def _loss_against_ode(folder: Run) -> dict[str, Any]:
    """A custom chart: the loss of the training and of its flow over optimizer steps."""
    import wandb

    metrics, arrays = folder.metrics, folder.trajectory
    if "train/loss" not in metrics or "ode_loss" not in arrays:
        return {}
    flow = arrays["ode_loss"].reshape(len(arrays["ode_loss"]), -1).mean(-1)  # (T, S) -> (T,)
    steps = arrays["steps"][-len(flow) :]
    kept = np.isfinite(flow)
    chart = wandb.plot.line_series(
        xs=[metrics["step"], steps[kept].tolist()],
        ys=[metrics["train/loss"], flow[kept].tolist()],
        keys=["training", "ODE"],
        title="Loss against the ODE",
        xname="optimizer step",
    )
    return {"charts/loss_against_ode": chart}


def _spectrum(folder: Run) -> dict[str, Any]:
    """A custom chart: singular values of the training embedding, mean over replicas."""
    import wandb

    arrays = folder.trajectory
    if "singular_values" not in arrays:
        return {}
    values = arrays["singular_values"].mean(1)  # (T, S, z) -> (T, z)
    shown = min(values.shape[1], 10)
    chart = wandb.plot.line_series(
        xs=arrays["steps"].tolist(),
        ys=[values[:, i].tolist() for i in range(shown)],
        keys=[f"σ{i + 1}" for i in range(shown)],
        title="Singular values of the embedding",
        xname="optimizer step",
    )
    return {"charts/singular_values": chart}


def _embedding(folder: Run) -> dict[str, Any]:
    """A scatter of the training points at the end, first replica, first two dimensions."""
    import wandb

    arrays = folder.trajectory
    if "embedding_final" not in arrays:
        return {}
    embedding = arrays["embedding_final"][0]  # (n, z)
    chosen = np.unique(np.linspace(0, len(embedding) - 1, POINTS).astype(int))
    second = embedding[chosen, 1] if embedding.shape[1] > 1 else np.zeros(len(chosen))
    labels = arrays["labels"][chosen] if "labels" in arrays else np.zeros(len(chosen), int)
    rows = [
        [float(x), float(y), str(label)]
        for x, y, label in zip(embedding[chosen, 0], second, labels, strict=True)
    ]
    table = wandb.Table(columns=["u1", "u2", "label"], data=rows)
    return {"charts/embedding": wandb.plot.scatter(table, "u1", "u2", title="Embedding at the end")}


def log_probes(run_dir: Path, mode: str = "offline") -> bool:
    """Add a run's probes to its W&B run: accuracies, and what was predicted for each true class.

    Does nothing for a run that was not logged to W&B, or whose probes are logged already.

    Returns:
        Whether anything was logged.
    """
    from sslmanifold.loggers.wandb_parts import wandb_id

    folder = Run(run_dir)
    name = wandb_id(folder.path)
    found = {path.stem: path for path in sorted(folder.folder.probes.glob("*.json"))}
    marker = folder.folder.probes / ".wandb"
    newest = max((path.stat().st_mtime for path in found.values()), default=0.0)
    if name is None or not found or (marker.exists() and marker.stat().st_mtime >= newest):
        return False
    import wandb

    options = folder.config.get("logger") or {}
    run = wandb.init(
        project=options.get("project", "sslmanifold"),
        group=options.get("group"),
        job_type="train",
        id=name,
        mode=mode,  # type: ignore[arg-type]
        resume="allow",  # offline too: the upload then goes on after the training's rows
        # the code beside a folder that is only read is not looked at: git runs what a repository's settings name
        settings=wandb.Settings(silent=True, console="off", root_dir=str(folder.path), disable_git=True),
    )
    try:
        run.log(_probe_media(found), step=int(folder.summary.get("steps") or 0) + 1)
    finally:
        run.finish()
    marker.touch()
    return True


def _probe_media(found: dict[str, Path]) -> dict[str, Any]:
    import wandb

    media: dict[str, Any] = {}
    for probe, path in found.items():
        result = read_json(path)
        if "accuracy" in result:
            media[f"probe/{probe}/accuracy"] = result["accuracy"]
        confusion = result.get("confusion")
        if confusion:
            classes = result.get("classes") or list(range(len(confusion)))
            rows = [
                [str(classes[i]), str(classes[j]), count, i == j]
                for i, line in enumerate(confusion)
                for j, count in enumerate(line)
            ]
            columns: list[str | int] = ["true class", "predicted class", "test points", "correct"]
            media[f"probe/{probe}/predictions"] = wandb.Table(columns=columns, data=rows)
    return media
