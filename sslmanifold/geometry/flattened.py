"""Kernels of any number of dimensions as points of a matrix manifold."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.feasibility import residual


class Flattened(geoopt.Manifold):
    """Kernels (…, out, in, k₁, …) read as matrices W (…, out, in·k₁·…), points of a manifold of matrices.

    A wide W is handed on transposed, so that the manifold below meets n ≥ p alone: ``Flattened(Stiefel())`` keeps
    W Wᵀ = I where W is wide and WᵀW = I where it is tall. With ``blocks=g`` W is g matrices of out/g rows, one
    below the other, each a point of its own: the groups of a convolution, the projections q, k, v of attention.

    Kernels are read and written as views, also channels-last ones, whose columns are then taken in memory's order. No
    orthonormality, norm or gradient depends on that order, nor does a step, unless its retraction is a QR.

    Args:
        base: a manifold of matrices (``ndim`` 2), or one of rows (``ndim`` 1, as ``geoopt.Sphere``), which is
            never transposed.
        ndim: dimensions of a kernel; those before are a batch.
        blocks: g.

    Raises:
        UserError: a base of other dimensions, ndim < 2, blocks < 1.
    """

    name = "Flattened"
    #: Tells ManifoldParameter that more than two dimensions are meant as one point.
    flattens = True

    def __init__(self, base: "geoopt.Manifold", ndim: int = 4, blocks: int = 1) -> None:
        super().__init__()
        if base.ndim not in (1, 2) or getattr(base, "flattens", False):
            raise UserError(
                f"{base} is no manifold of matrices or rows: write Flattened(Stiefel(), ndim={ndim})"
            )
        if ndim < 2 or blocks < 1:
            raise UserError(
                f"a kernel has two dimensions or more and at least one block, got ndim={ndim}, blocks={blocks}: "
                "write Flattened(Stiefel(), ndim=4) for the kernel of a Conv2d"
            )
        self.base, self.ndim, self.blocks = base, ndim, blocks

    def extra_repr(self) -> str:
        blocks = f", blocks={self.blocks}" if self.blocks > 1 else ""
        return f"{self.base!r}, ndim={self.ndim}{blocks}"

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        """As of the base."""
        return bool(self.base.reversible)

    # -- a kernel as what the base takes, and back --------------------------------------------------------

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of one block."""
        return x.shape[-self.ndim] // self.blocks, x.shape[x.ndim - self.ndim + 1 :].numel()

    def _transposed(self, x: Tensor) -> bool:
        rows, columns = self._sizes(x)
        return self.base.ndim == 2 and rows < columns

    def _order(self, x: Tensor) -> list[int] | None:
        """The dimensions of x, those of the columns in the order in which memory holds them; None: as they are."""
        first = x.ndim - self.ndim + 1
        if self.ndim == 2 or x.is_contiguous():
            return None
        return [*range(first), *sorted(range(first, x.ndim), key=x.stride().__getitem__, reverse=True)]

    def _read(self, t: Tensor, x: Tensor) -> Tensor:
        """A tensor of the shape of x as the base takes it, x saying in which order."""
        order = self._order(x)
        m = (t if order is None else t.permute(order)).flatten(t.ndim - self.ndim + 1)  # (…, out, columns)
        if self.blocks > 1:
            m = m.unflatten(-2, (self.blocks, -1))  # (…, g, out/g, columns)
        return m.mT if self._transposed(x) else m

    def _write(self, m: Tensor, x: Tensor) -> Tensor:
        """What :meth:`_read` reads as m."""
        m = m.mT if self._transposed(x) else m
        if self.blocks > 1:
            m = m.flatten(-3, -2)
        order, first = self._order(x), x.ndim - self.ndim + 1
        if order is None:
            return m.unflatten(-1, x.shape[first:])
        t = m.unflatten(-1, [x.shape[dim] for dim in order[first:]])
        return t.permute([order.index(dim) for dim in range(x.ndim)])

    def _of_one(self, m: Tensor, x: Tensor) -> Tensor:
        """What the base says of its points, m (…, 1, 1) or (…, n, 1), at dimensions that broadcast with x."""
        rows, _ = self._sizes(x)
        if self.base.ndim == 2 and self.blocks == 1:
            return m.reshape(*m.shape[:-2], *(1,) * self.ndim)
        m = m.expand(*m.shape[:-2], rows, 1)
        m = m.flatten(-3, -2) if self.blocks > 1 else m
        return m.reshape(*m.shape[:-1], *(1,) * (self.ndim - 1))

    def matrices(self, x: Tensor) -> Tensor:
        """W as the base takes it, n ≥ p: (…, n, p), with blocks (…, g, n, p); a view where strides allow."""
        return self._read(x, x)

    def kernel(self, m: Tensor, shape: torch.Size) -> Tensor:
        """The kernel of this shape whose :meth:`matrices` are m."""
        return self._write(m, torch.empty(shape, device="meta")).contiguous()

    def _map(self, function: Callable[..., Any], x: Tensor, *others: Tensor) -> Any:
        out = function(*(self._read(t, x) for t in (x, *others)))
        return tuple(self._write(t, x) for t in out) if isinstance(out, tuple) else self._write(out, x)

    # -- geoopt's interface -------------------------------------------------------------------------------

    def projx(self, x: Tensor) -> Tensor:
        """As of the base, by blocks; so every method below."""
        return self._map(self.base.projx, x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(self.base.proju, x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(self.base.egrad2rgrad, x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(self.base.retr, x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(self.base.expmap, x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._map(self.base.logmap, x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._map(self.base.transp, x, y, v)

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._map(self.base.retr_transp, x, u, v)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._map(self.base.expmap_transp, x, u, v)

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._map(self.base.transp_follow_retr, x, u, v)

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._map(self.base.transp_follow_expmap, x, u, v)

    def gradient_step(self, x: Tensor, egrad: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
        """One descent step along the Euclidean gradient, fused as the base has it; ``out`` may be x itself."""
        m, g = self._read(x, x), self._read(egrad, x)
        if out is None:
            return self._write(self.base.gradient_step(m, g, lr), x)  # type: ignore[operator]
        target = self._read(out, x)
        if target.data_ptr() == out.data_ptr():  # a view: the base writes where the kernel lies
            self.base.gradient_step(m, g, lr, out=target)  # type: ignore[operator]
            return out
        return Tensor.copy_(out, self._write(self.base.gradient_step(m, g, lr), x))  # type: ignore[operator]

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:  # type: ignore[override]
        """⟨u, v⟩ of the base, summed over blocks; (…), or (…, 1, …, 1)."""
        m = self.base.inner(*self._tangents(x, u, v), keepdim=True)
        lead = x.ndim - self.ndim
        out = m.sum(tuple(range(lead, m.ndim)))
        return out.reshape(*out.shape, *(1,) * self.ndim) if keepdim else out

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """⟨u, v⟩ of each point of the base, at dimensions that broadcast with x; of balls, entry by entry."""
        m = self.base.component_inner(*self._tangents(x, u, v))
        if m.shape == self._read(x, x).shape and isinstance(self.base, geoopt.Euclidean):
            return self._write(m, x)
        return self._of_one(m, x)

    def _tangents(self, x: Tensor, u: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._read(x, x), self._read(u, x), None if v is None else self._read(v, x)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """√⟨u, u⟩."""
        return self.inner(x, u, keepdim=keepdim).sqrt()

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """The squared distance of the base, summed over blocks."""
        m = self.base.dist2(self._read(x, x), self._read(y, x), keepdim=True)
        out = m.sum(tuple(range(x.ndim - self.ndim, m.ndim)))
        return out.reshape(*out.shape, *(1,) * self.ndim) if keepdim else out

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """√dist2."""
        return self.dist2(x, y, keepdim=keepdim).sqrt()

    def residual(self, x: Tensor) -> Tensor:
        """The base's residual, of the worst block; (…)."""
        worst = residual(self._read(x.detach(), x), self.base)
        return worst.flatten(x.ndim - self.ndim).amax(-1) if worst.ndim > x.ndim - self.ndim else worst

    def random(self, *size: Any, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
        """The base's random points, as a ``geoopt.ManifoldTensor`` of kernels."""
        return self._drawn(self.base.random, size, dtype=dtype, device=device, **options)

    def origin(self, *size: Any, dtype: Any = None, device: Any = None, seed: int | None = 42) -> Tensor:  # type: ignore[override]
        """The base's origin, as a ``geoopt.ManifoldTensor`` of kernels."""
        return self._drawn(self.base.origin, size, dtype=dtype, device=device, seed=seed)

    def _drawn(self, draw: Callable[..., Tensor], size: tuple[Any, ...], **options: Any) -> Tensor:
        shape = torch.Size(size[0]) if len(size) == 1 and not isinstance(size[0], int) else torch.Size(size)
        drawn = draw(*self.matrices(torch.empty(shape, device="meta")).shape, **options)
        return geoopt.ManifoldTensor(self.kernel(drawn.detach().as_subclass(Tensor), shape), manifold=self)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok, reason = super()._check_shape(shape, name)
        if not ok:
            return ok, reason
        if shape[-self.ndim] % self.blocks:
            return False, f"its {shape[-self.ndim]} rows are not {self.blocks} blocks"
        return self.base._check_shape(self.matrices(torch.empty(shape, device="meta")).shape, name)

    def _check_point_on_manifold(self, x: Tensor, **tolerances: Any) -> tuple[bool, str | None]:
        return self.base._check_point_on_manifold(self._read(x, x), **tolerances)

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, **tolerances: Any) -> tuple[bool, str | None]:
        return self.base._check_vector_on_tangent(self._read(x, x), self._read(u, x), **tolerances)
