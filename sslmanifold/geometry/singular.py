"""The largest singular value and its right vector, without an SVD."""

import torch
from torch import Tensor

from sslmanifold.geometry.precision import decided, full_precision

# Below this size a dense eigendecomposition is quicker than Lanczos.
_DENSE = 32
_LANCZOS_STEPS = 24


def safe_eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenpairs of symmetric ``(…, p, p)``, ascending; NaN in a matrix gives NaN there, nothing raises.

    LAPACK's float32 eigensolvers can fail to converge; then the matrix is solved in float64.
    """
    finite = torch.isfinite(gram).all(-1).all(-1)[..., None, None]
    clean = torch.where(finite, gram, torch.zeros_like(gram))
    try:
        values, vectors = torch.linalg.eigh(clean)
    except torch.linalg.LinAlgError:
        values, vectors = (t.to(gram.dtype) for t in torch.linalg.eigh(clean.double()))
    nan = torch.full((), torch.nan, dtype=gram.dtype, device=gram.device)
    return torch.where(finite[..., 0], values, nan), torch.where(finite, vectors, nan)


def top_singular(x: Tensor, *, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
    """σ₁² and the right singular vector v₁: xᵀx v₁ = σ₁² v₁.

    Lanczos with full reorthogonalisation on the small Gram matrix, certified by a Cholesky factorisation; a
    dense eigendecomposition when the matrix is small, or where the certificate fails. If σ₁ is tied, v₁ is
    one unit vector of its eigenspace; ties are no difficulty. Deterministic: the starting vector is fixed.
    No gradient flows: differentiate ‖x v₁‖² with v₁ held fixed.

    Args:
        x: ``(…, n, p)``, any aspect ratio; the leading dimensions are a batch.
        tolerance: largest relative residual ‖Gram v − σ²v‖/σ² accepted from Lanczos, and share by which a value
            above σ² may be missed; when None 8 eps^(3/4) and roundoff, so that σ₁² is right to roundoff unless
            singular values crowd within that distance of the first.

    Returns:
        σ₁² of shape (…) and v₁ of shape (…, p), a unit vector.
    """
    with torch.no_grad(), full_precision(x):
        x = x.detach()
        dtype = x.dtype
        x = x.float() if dtype in (torch.float16, torch.bfloat16) else x
        wide = x.shape[-2] < x.shape[-1]
        gram = x @ x.mT if wide else x.mT @ x  # (…, k, k)
        value, vector = _top_eigenpair(gram, tolerance)
        if wide:  # vector is the left one: v = xᵀu/σ
            right = (x.mT @ vector.unsqueeze(-1)).squeeze(-1)
            length = right.norm(dim=-1, keepdim=True)
            first = torch.zeros_like(right)
            first[..., 0] = 1.0
            vector = torch.where(length > 0, right / length, first)
        return value.clamp_min(0).to(dtype), vector.to(dtype)


def _top_eigenpair(gram: Tensor, tolerance: float | None) -> tuple[Tensor, Tensor]:
    k = gram.shape[-1]
    if k <= _DENSE:
        values, vectors = safe_eigh(gram)
        return values[..., -1], vectors[..., -1]
    eps = torch.finfo(gram.dtype).eps
    above_by = max(8 * k * eps, tolerance or 0.0)
    if tolerance is None:
        tolerance = 8 * eps**0.75
    value, vector = _lanczos(gram)
    image = (gram @ vector.unsqueeze(-1)).squeeze(-1)
    error = (image - value.unsqueeze(-1) * vector).norm(dim=-1)
    # A small residual only says that this is an eigenpair. That nothing lies above it, Cholesky says.
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    above = torch.linalg.cholesky_ex(((1 + above_by) * value)[..., None, None] * eye - gram).info != 0
    bad = ~(error <= tolerance * value) | above
    some = decided(bad)
    if some is None:
        values, vectors = safe_eigh(gram)
        return values[..., -1], vectors[..., -1]
    if some:
        flat = bad.reshape(-1)
        values, vectors = safe_eigh(gram.reshape(-1, k, k)[flat])
        value, vector = value.reshape(-1).clone(), vector.reshape(-1, k).clone()
        value[flat], vector[flat] = values[..., -1], vectors[..., -1]
        value, vector = value.reshape(bad.shape), vector.reshape(*bad.shape, k)
    return value, vector


def _lanczos(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Top Ritz pair after a fixed number of steps; an invariant subspace met early ends in zero columns."""
    k = gram.shape[-1]
    start = torch.cos(torch.arange(1, k + 1, dtype=gram.dtype, device=gram.device) ** 2)
    v = (start / start.norm()).expand(*gram.shape[:-1]).unsqueeze(-1)  # (…, k, 1)
    scale = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1)[..., None, None]
    tiny = 4 * torch.finfo(gram.dtype).eps * scale
    basis = v
    for _ in range(min(_LANCZOS_STEPS, k) - 1):
        w = gram @ v
        for _ in range(2):
            w = w - basis @ (basis.mT @ w)
        length = w.norm(dim=-2, keepdim=True)
        v = torch.where(length > tiny, w / length, torch.zeros_like(w))
        basis = torch.cat((basis, v), dim=-1)
    small = basis.mT @ (gram @ basis)  # (…, m, m); zero columns give zero rows and columns
    values, vectors = safe_eigh((small + small.mT) * 0.5)
    vector = (basis @ vectors[..., -1:]).squeeze(-1)
    return values[..., -1], vector / vector.norm(dim=-1, keepdim=True)
