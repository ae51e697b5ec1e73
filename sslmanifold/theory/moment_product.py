"""C·Q for C dense, diagonal, or known only through its products with the data."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.moment_spectrum import eigenvalues


@runtime_checkable
class LinearMoment(Protocol):
    """A symmetric C known by its products: `MomentOperator` is one."""

    @property
    def features(self) -> int: ...

    def norm(self) -> float: ...

    def __matmul__(self, q: Tensor) -> Tensor: ...


Moment = Tensor | LinearMoment

# C is formed, and its spectrum found, up to this many features: 4096² float64 is 134 MB
LARGEST_MOMENT = 4096
# Largest d whose norm is taken from a full spectrum.
_DENSE = 1024


def as_moment(moment: Moment) -> Moment:
    """Check C: 1-D eigenvalues (d,), dense symmetric (…, d, d) or an operator; tensors become float64."""
    if not isinstance(moment, Tensor):
        return moment
    if moment.ndim == 0 or (moment.ndim > 1 and moment.shape[-1] != moment.shape[-2]):
        raise UserError(
            f"a moment of shape {tuple(moment.shape)}: give C as (d, d), its eigenvalues as (d,), or an operator"
        )
    if not torch.isfinite(moment).all():
        raise UserError("the moment C holds NaN or infinite entries: check the data for missing values")
    # itself wherever it can be: its spectrum is found once
    return (moment.detach() if moment.requires_grad else moment).to(torch.float64)


def moment_product(moment: Moment, q: Tensor) -> Tensor:
    """C q: eigenvalues (d,) scale rows, (…, d, d) multiplies, an operator applies; q (…, d, z) -> (…, d, z)."""
    if isinstance(moment, Tensor) and moment.ndim == 1:
        return moment[:, None] * q
    return symmetric_product(moment, q) if isinstance(moment, Tensor) else moment @ q


def symmetric_product(h: Tensor, q: Tensor) -> Tensor:
    """H q for symmetric H (…, k, k), as (qᵀH)ᵀ: BLAS is two to three times faster on a few rows than columns."""
    return (q.mT @ h).mT


def moment_features(moment: Moment) -> int:
    """d."""
    return int(moment.shape[-1]) if isinstance(moment, Tensor) else moment.features


def spectral_norm(moment: Moment) -> float:
    """‖C‖₂ = max |λ_i|; the largest over leading dimensions (estimated from above when d > 1024)."""
    if not isinstance(moment, Tensor):
        return moment.norm()
    if moment.ndim == 1:
        return float(moment.abs().max())
    if moment.shape[-1] > _DENSE:
        return estimate_norm(moment, iterations=30)
    return float(eigenvalues(moment).abs().max())


def estimate_norm(moment: Moment, iterations: int = 6) -> float:
    """‖C‖₂ from a few power iterations, times 1.2: for choosing sub-steps, where a factor hardly matters."""
    if isinstance(moment, Tensor) and moment.ndim == 1:
        return float(moment.abs().max())
    d = moment_features(moment)
    device = moment.device if isinstance(moment, Tensor) else None
    v = torch.cos(torch.arange(d, dtype=torch.float64, device=device) ** 2 + 0.5)[:, None]
    norm = 0.0
    for _ in range(iterations):
        v = v / v.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
        v = moment_product(moment, v)
        norm = float(v.norm(dim=(-2, -1)).max())
        if norm == 0.0:
            return 0.0
    return 1.2 * norm
