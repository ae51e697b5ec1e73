"""The progress bar: Lightning's, with the loss beside it."""

from typing import Any

from lightning.pytorch.callbacks import RichProgressBar

from sslmanifold.runs.keys import KEYS, LOSS, RANK


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar over optimizer steps.

    Args:
        refresh_rate: steps between redraws.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True)

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"  # one epoch holds every step, so its number says nothing

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """The last logged loss and effective rank."""
        last = pl_module.recorder.last
        return {KEYS[key].column: f"{last[key]:.4g}" for key in (LOSS, RANK) if key in last}
