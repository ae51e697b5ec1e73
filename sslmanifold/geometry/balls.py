"""Norm balls: Euclidean space whose retraction projects onto the ball."""

from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.haar import matrix_shape
from sslmanifold.geometry.orthonormalize import add_to_diagonal
from sslmanifold.geometry.precision import decided, feasibility_tolerance, full_precision
from sslmanifold.geometry.singular import safe_eigh, top_singular


class _Ball(geoopt.Euclidean):
    """A closed ball of matrices: gradients are Euclidean, a step is followed by the exact projection."""

    reversible = False

    def __init__(self, radius: float = 1.0, **kwargs: Any) -> None:
        kwargs.setdefault("ndim", 2)
        super().__init__(**kwargs)
        self.radius = float(radius)
        if not 0 < self.radius < float("inf"):
            raise UserError(f"a ball needs a positive finite radius, got {radius}: write radius=1.0")

    def extra_repr(self) -> str:
        return f"radius={self.radius!r}"

    def matrix_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The projection of x + u; in the interior R(0) = x and R′(0)u = u."""
        return self.projx(x + u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The same as ``retr``: straight lines, stopped by the boundary."""
        return self.projx(x + u)

    def residual(self, x: Tensor) -> Tensor:
        """max(0, ‖x‖/radius − 1), shape (…)."""
        x = x.detach()
        norm = self.matrix_norm(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
        return (norm / self.radius - 1).clamp_min(0)

    def random(self, *size: Any, dtype: Any = None, device: Any = None, generator: Any = None) -> Tensor:
        """A standard Gaussian matrix, projected onto the ball."""
        x = torch.randn(matrix_shape(size, "random"), dtype=dtype, device=device, generator=generator)
        return geoopt.ManifoldTensor(self.projx(x), manifold=self)

    random_normal = random_naive = random

    def _check_point_on_manifold(  # type: ignore[override]
        self, x: Tensor, *, atol: float | None = None, rtol: float = 0.0
    ) -> tuple[bool, str | None]:
        residual = float(self.residual(x).amax()) if x.numel() else 0.0
        limit = max(feasibility_tolerance(x.dtype), atol or 0.0)
        if residual <= limit:
            return True, None
        return False, f"norm/radius − 1 = {residual:.3g} > {limit:.1g} for radius {self.radius:g}"


class FrobeniusBall(_Ball):
    """Matrices with ‖x‖_F ≤ radius; projection scales by min(1, radius/‖x‖_F).

    Points ``(…, n, p)``; each matrix of the batch has its own ball.

    Raises:
        UserError: radius not positive and finite.
    """

    name = "FrobeniusBall"

    def matrix_norm(self, x: Tensor) -> Tensor:
        """‖x‖_F, shape (…)."""
        return torch.linalg.matrix_norm(x)

    def projx(self, x: Tensor) -> Tensor:
        """x·min(1, radius/‖x‖_F)."""
        norm = self.matrix_norm(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
        factor = torch.where(norm > self.radius, self.radius / norm, torch.ones_like(norm))
        return x * factor[..., None, None].to(x.dtype)


class SpectralBall(_Ball):
    """Matrices with ‖x‖₂ ≤ radius (operator norm); projection clips singular values at the radius.

    No SVD: a Cholesky factorisation of radius²I − xᵀx on the small side tells whether anything is above the
    bound; only then are the eigenpairs of that small Gram matrix taken.

    Points ``(…, n, p)``; each matrix of the batch has its own ball.

    Raises:
        UserError: radius not positive and finite.
    """

    name = "SpectralBall"

    def matrix_norm(self, x: Tensor) -> Tensor:
        """‖x‖₂, shape (…)."""
        return top_singular(x)[0].sqrt()

    def projx(self, x: Tensor) -> Tensor:
        """x f(xᵀx) with f(σ²) = min(1, radius/σ)."""
        with full_precision(x):
            return self._clip(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).to(x.dtype)

    def _clip(self, work: Tensor) -> Tensor:
        wide = work.shape[-2] < work.shape[-1]
        tall = work.mT if wide else work  # (…, n, p)
        gram = tall.mT @ tall  # (…, p, p)
        outside = torch.linalg.cholesky_ex(add_to_diagonal(-gram, self.radius**2)).info != 0  # (…)
        outside |= ~torch.isfinite(gram).all(-1).all(-1)
        some = decided(outside)
        if some is False:
            return work
        if some is None:  # under vmap every matrix is clipped, by nothing where it lies inside
            out = tall @ self._factor(gram)
        else:
            p, mask = gram.shape[-1], outside.reshape(-1)
            out = tall.reshape(-1, *tall.shape[-2:]).clone()
            out[mask] = out[mask] @ self._factor(gram.reshape(-1, p, p)[mask])
            out = out.reshape(tall.shape)
        return out.mT if wide else out

    def _factor(self, gram: Tensor) -> Tensor:
        """f(G) = min(1, radius/√G) of (…, p, p), as I + V diag(f − 1) Vᵀ."""
        values, vectors = safe_eigh(gram)
        shrink = (self.radius / values.clamp_min(self.radius**2).sqrt()) - 1  # (…, p), 0 inside
        return add_to_diagonal((vectors * shrink.unsqueeze(-2)) @ vectors.mT, 1.0)
