"""How far a point is from its manifold, for any manifold."""

import torch
from torch import Tensor

from sslmanifold.geometry._geoopt import geoopt


def residual(x: Tensor, manifold: "geoopt.Manifold") -> Tensor:
    """Distance from feasibility, shape (…).

    Stiefel (also geoopt's own): ‖WᵀW − I‖_F/√p. Balls: max(0, norm/radius − 1). Euclidean: 0. Any
    other geoopt manifold: ‖x − projx(x)‖ over its own dimensions.

    Args:
        x: a point ``(…, *matrix)`` with leading batch dimensions.
        manifold: where it should be.
    """
    x = x.detach()
    if hasattr(type(manifold), "residual"):
        return manifold.residual(x)
    if isinstance(manifold, geoopt.Stiefel):
        from sslmanifold.geometry.stiefel import Stiefel

        return Stiefel.residual(manifold, x)
    batch = x.shape[: x.ndim - manifold.ndim]
    if isinstance(manifold, geoopt.Euclidean):
        return torch.zeros(batch, dtype=x.dtype, device=x.device)
    difference = x - manifold.projx(x)
    return difference.reshape(*batch, -1).norm(dim=-1) if manifold.ndim else difference.abs()
