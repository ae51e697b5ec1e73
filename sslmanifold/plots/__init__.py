"""Pictures, made from run folders alone."""

from sslmanifold.plots.comparison import compare

__all__ = ["compare"]
