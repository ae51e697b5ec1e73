"""What makes a checkpoint resumable at any step: random generators and Lightning's own counters."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global generators, in plain containers and tensors.

    The triplets of a run do not need it, they are a function of (seed, step); a user's own callback may.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - it is the global one
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator where :func:`random_state` saw it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def between_steps(checkpoint: dict[str, Any], batches: int) -> None:
    """Make Lightning's saved counters those of a run between two steps of its one epoch, in place.

    A run is one epoch of all its batches. Lightning's counters say "in the middle of a batch" while a callback
    saves and "epoch over" once training has stopped, whether at its end or because of a signal; a run resumed from
    either would skip a step, or end at once. A gradient that was being accumulated is not saved: its batches, beyond
    the ``batches`` of the steps done, come again.
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    progress = fit_loop["epoch_loop.batch_progress"]
    for counters in (progress["total"], progress["current"]):
        counters |= dict.fromkeys(("ready", "started", "processed", "completed"), batches)
    progress["is_last_batch"] = False
    for state in fit_loop["state_dict"].get("combined_loader", []):
        state["next_step"] = batches
    if "PairDataModule" in checkpoint:
        checkpoint["PairDataModule"]["next_step"] = batches
    optimizer = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    # the step that loggers see, which is counted after the callbacks
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = optimizer["step"]["total"]["completed"]
    epochs = fit_loop["epoch_progress"]
    for counters in (epochs["total"], epochs["current"]):
        counters |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
