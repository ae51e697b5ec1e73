"""Uniform (Haar) random matrices with orthonormal columns or rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError


def matrix_shape(shape: Sequence[Any], what: str) -> torch.Size:
    """The size in ``f(n, p)`` or ``f((n, p))``.

    Raises:
        UserError: fewer than two dimensions.
    """
    size = torch.Size(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else torch.Size(shape)
    if len(size) < 2:
        raise UserError(f"{what} needs a matrix shape (…, n, p), got {tuple(size)}: write {what}(n, p)")
    return size


def haar(
    *shape: int | tuple[int, ...] | torch.Size,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Haar-uniform orthonormal matrices: Q diag(sign(diag R)) of a Gaussian Z = Q R.

    The law is invariant under Q ↦ UQV for fixed orthogonal U, V. The sign is what makes it so: Householder
    QR alone fixes the signs of R's diagonal, and then P(Q₀₀ > 0) = 0.

    Args:
        shape: ``(…, n, p)``. Tall or square (n ≥ p): orthonormal columns. Wide: orthonormal rows. The leading
            dimensions are a batch of independent draws.
        generator: source of randomness; torch's default generator when None.
        dtype: of the result. Half precisions are drawn and orthonormalised in float32, then rounded.
        device: of the result; the generator's own device when None.

    Returns:
        Contiguous, of the shape asked for.

    Raises:
        UserError: the shape has fewer than two dimensions.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups" (2007).
    """
    size = matrix_shape(shape, "haar")
    dtype = dtype or torch.get_default_dtype()
    if device is None and generator is not None:
        device = generator.device
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    *batch, n, p = size
    gaussian = torch.randn(*batch, max(n, p), min(n, p), generator=generator, dtype=work, device=device)
    q, r = torch.linalg.qr(gaussian)
    sign = torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(work)  # (…, min)
    q = q * sign.unsqueeze(-2)  # in LAPACK's order of storage: by columns
    return (q if n >= p else q.mT).contiguous().to(dtype)
