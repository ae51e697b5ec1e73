"""Where rows go beside ``metrics.csv``: TensorBoard, Weights & Biases."""

from sslmanifold.loggers.base import CSVOnly, RunLogger, TensorBoard
from sslmanifold.loggers.weights_and_biases import WandB

__all__ = ["CSVOnly", "RunLogger", "TensorBoard", "WandB"]
