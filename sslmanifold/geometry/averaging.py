"""Averaged models whose constrained weights stay on their manifolds."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from sslmanifold.geometry.parameter import project_


class ManifoldAveragedModel(AveragedModel):
    """``torch.optim.swa_utils.AveragedModel`` that projects after every average.

    The mean of points of a manifold is off it (the mean of orthonormal matrices has singular values < 1).
    Projected back it is the extrinsic mean: for Stiefel the orthonormal matrix with the least sum of squared
    Frobenius distances to the averaged ones. Running averages are of the projected weights.

    Args:
        As for ``AveragedModel``.
    """

    def update_parameters(self, model: nn.Module) -> Any:
        """Average in the weights of ``model``, then project."""
        super().update_parameters(model)
        project_(self.module)
