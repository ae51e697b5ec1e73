"""How far a point is from its manifold, for any manifold, and what counts as on it."""

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.orthonormalize import add_to_diagonal
from sslmanifold.geometry.precision import feasibility_tolerance, full_precision, rounded_to


def orthonormality(x: Tensor) -> Tensor:
    """‖xᵀx − I‖_F/√p on the small side of ``(…, n, p)``, shape (…)."""
    x = x.detach()
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    with full_precision(x):
        gram = x.mT @ x if x.shape[-2] >= x.shape[-1] else x @ x.mT
    return torch.linalg.matrix_norm(add_to_diagonal(gram, -1.0)) / gram.shape[-1] ** 0.5


def residual(x: Tensor, manifold: "geoopt.Manifold") -> Tensor:
    """Distance from feasibility, shape (…).

    Stiefel (also geoopt's own): ‖WᵀW − I‖_F/√p. Balls: max(0, norm/radius − 1). Euclidean: 0. Any
    other geoopt manifold: ‖x − projx(x)‖ over its own dimensions. A manifold may bring its own as a method
    ``residual(x)``.

    Args:
        x: a point ``(…, *matrix)`` with leading batch dimensions.
        manifold: where it should be.
    """
    x = x.detach()
    if hasattr(type(manifold), "residual"):
        return manifold.residual(x)
    if isinstance(manifold, geoopt.Stiefel):
        return orthonormality(x)
    batch = x.shape[: x.ndim - manifold.ndim]
    if isinstance(manifold, geoopt.Euclidean):
        return torch.zeros(batch, dtype=x.dtype, device=x.device)
    difference = x - manifold.projx(x)
    return difference.reshape(*batch, -1).norm(dim=-1) if manifold.ndim else difference.abs()


def assert_feasible(
    x: Tensor, manifold: "geoopt.Manifold", what: str = "data", instead: str | None = None
) -> None:
    """Raise unless every matrix of x is on the manifold to the precision of its dtype.

    Args:
        x: ``(…, *matrix)``, with leading batch dimensions.
        manifold: where x should be.
        what: how the message calls x.
        instead: the way out that the message names.

    Raises:
        UserError: names the residual, its limit and the way out.
    """
    if x.is_meta or x.numel() == 0:
        return
    worst = float(residual(x, manifold).amax())
    limit = feasibility_tolerance(x.dtype)
    if not worst <= limit:
        raise UserError(
            f"{what} of shape {tuple(x.shape)} is off its manifold {manifold}: residual {worst:.3g}, allowed "
            f"{limit:.0e} in {str(x.dtype).removeprefix('torch.')}; write "
            + (
                instead
                or "ManifoldParameter(data, manifold, project=True), or load manifold.projx(data) instead"
            )
        )


@torch.no_grad()
def feasible(
    x: Tensor, manifold: "geoopt.Manifold", what: str = "data", instead: str | None = None
) -> Tensor:
    """x itself where it is on the manifold; its projection where it is a point of a coarser dtype, converted up.

    A float32 point has a residual of 1e-7; written in float64 it is exactly the same numbers, and 1e-7 is then
    off the manifold. Such a tensor (every entry exact in the coarser dtype, residual within that one's
    roundoff) is meant as the point it was rounded from.

    Raises:
        UserError: as :func:`assert_feasible`, for anything else.
    """
    if x.is_meta or x.numel() == 0:
        return x
    worst = float(residual(x, manifold).amax())
    if not worst <= feasibility_tolerance(x.dtype):
        coarse = rounded_to(x)
        # Two units of a half precision: 0.9921875·I is told from rounding, no nearer can be.
        roundoff = 1e-4 if coarse == torch.float32 else 2 * torch.finfo(coarse or x.dtype).eps
        if coarse is not None and worst <= roundoff:
            return manifold.projx(x).contiguous()
        assert_feasible(x, manifold, what, instead)
    return x
