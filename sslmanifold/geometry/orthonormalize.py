"""Nearest and triangular orthonormal factors of tall matrices, without an SVD.

Every function takes ``(…, n, p)`` with n ≥ p and treats each matrix of the batch by itself. The usual case
costs two tall products (the Gram matrix and the final multiplication); a matrix for which that would lose
digits is singled out and sent through Householder QR, which neither breaks down nor raises. A matrix holding
NaN or infinity comes back as NaN. Under ``torch.vmap``, where no matrix can be singled out by its values, every
one takes the way by QR.
"""

import torch
from torch import Tensor

from sslmanifold.geometry.precision import decided, largest

# Taylor coefficients of (1 + e)^(−1/2); the degree used is chosen so that the remainder is below roundoff.
_SERIES = (1.0, -1 / 2, 3 / 8, -5 / 16, 35 / 128, -63 / 256, 231 / 1024, -429 / 2048, 6435 / 32768)
# From this many columns on a blocked Gram matrix is quicker on a CPU.
_BLOCKED = 128
# Beyond this distance of the scaled Gram matrix from I, Newton–Schulz is not trusted.
_GUARD = 0.9
# Scaled Newton steps to the polar factor where the change cannot be looked at: nine serve any condition number that
# float64 holds (Higham 2008, section 8.7).
_NEWTON_STEPS = 12


def _series_limits(eps: float) -> tuple[float, float, float]:
    """Largest ‖E‖ for which degree 2, 4 and 8 leave a remainder below a quarter of the roundoff."""
    aim = eps / 4
    return (aim / 0.3125) ** (1 / 3), (aim / 0.246) ** (1 / 5), (aim / 0.185) ** (1 / 9)


_LIMITS = {dtype: _series_limits(torch.finfo(dtype).eps) for dtype in (torch.float32, torch.float64)}


def add_to_diagonal(square: Tensor, value: float) -> Tensor:
    """square + value·I for ``(…, p, p)``, in place."""
    torch.diagonal(square, dim1=-2, dim2=-1).add_(value)
    return square


def gram_matrix(y: Tensor) -> Tensor:
    """yᵀy for ``(…, n, p)``. For large p three of the four blocks are computed and one is mirrored."""
    p = y.shape[-1]
    if p < _BLOCKED or y.device.type != "cpu":
        return y.mT @ y
    h = p // 2
    out = y.new_empty(*y.shape[:-2], p, p)
    out[..., :h, :] = y[..., :h].mT @ y  # (…, h, p)
    out[..., h:, h:] = y[..., h:].mT @ y[..., h:]  # (…, p−h, p−h)
    out[..., h:, :h] = out[..., :h, h:].mT
    return out


def _multiply(y: Tensor, t: Tensor, out: Tensor | None) -> Tensor:
    return y @ t if out is None else torch.matmul(y, t, out=out)


def _series(e: Tensor, degree: int) -> Tensor:
    """Σ c_k E^k to the given degree (2, 4 or 8), with 1, 2 or 4 products."""
    c = _SERIES
    e2 = e @ e
    if degree == 2:
        return add_to_diagonal(e2.mul_(c[2]).add_(e, alpha=c[1]), c[0])
    if degree == 4:
        inner = add_to_diagonal(e2 * c[4] + c[3] * e, c[2])
        return add_to_diagonal((e2 @ inner).add_(e, alpha=c[1]), c[0])
    e3 = e2 @ e
    high = add_to_diagonal(e2 * c[8] + c[7] * e, c[6])
    middle = add_to_diagonal((e3 @ high).add_(e2, alpha=c[5]).add_(e, alpha=c[4]), c[3])
    return add_to_diagonal((e3 @ middle).add_(e2, alpha=c[2]).add_(e, alpha=c[1]), c[0])


def _newton_schulz(gram: Tensor, distance: float, eps: float) -> Tensor:
    """G^(−1/2) for ``(…, p, p)`` with ‖G − I‖ ≤ distance < 1, by the coupled iteration.

    The error contracts as e ↦ (3e² + e³)/4, so the number of steps is known beforehand.
    """
    y = gram
    z = None
    error = distance
    while error > eps:
        zy = y if z is None else z @ y
        t = add_to_diagonal(zy * -0.5, 1.5)
        y = y @ t
        z = t if z is None else t @ z
        error = 0.75 * error**2 + 0.25 * error**3
    return add_to_diagonal(gram * -0.5, 1.5) if z is None else z


def _select(matrices: Tensor, mask: Tensor) -> Tensor:
    return matrices.reshape(-1, *matrices.shape[-2:])[mask.reshape(-1)]


def _replace(matrices: Tensor, mask: Tensor, new: Tensor) -> Tensor:
    out = matrices.reshape(-1, *matrices.shape[-2:]).clone()
    out[mask.reshape(-1)] = new
    return out.reshape(matrices.shape)


def polar(y: Tensor, out: Tensor | None = None) -> Tensor:
    """Orthonormal polar factor y (yᵀy)^(−1/2): the closest matrix with orthonormal columns.

    Args:
        y: ``(…, n, p)``, n ≥ p, float32 or float64.
        out: where to write the result; must not overlap y.

    Returns:
        ``(…, n, p)``. The Gram matrix is the actual one, so a y that had drifted is corrected as well.
    """
    gram = gram_matrix(y)  # (…, p, p)
    # Scaled to mean eigenvalue one, so that a step that only stretches counts as no step.
    scale = torch.diagonal(gram, dim1=-2, dim2=-1).mean(-1)[..., None, None]
    e = add_to_diagonal(gram / scale, -1.0)
    distance = torch.linalg.matrix_norm(e)  # (…)
    worst = largest(distance)
    if worst is None:
        return _polar_householder(y)
    for limit, degree in zip(_LIMITS[y.dtype], (2, 4, 8), strict=True):
        if worst <= limit:
            return _multiply(y, _series(e, degree).mul_(scale.rsqrt()), out)
    new = _polar_of_large_step(y, e, scale, distance)
    return new if out is None else out.copy_(new)


def _polar_of_large_step(y: Tensor, e: Tensor, scale: Tensor, distance: Tensor) -> Tensor:
    """Polar factor where some scaled Gram matrix I + e of the batch is not close to I."""
    good = distance < _GUARD  # NaN compares False
    out = torch.full_like(y, torch.nan)
    if bool(good.any()):
        e = torch.where(good[..., None, None], e, torch.zeros_like(e))
        worst = float(torch.where(good, distance.detach(), 0.0).amax())
        root = _newton_schulz(add_to_diagonal(e, 1.0), worst, torch.finfo(y.dtype).eps)
        out = y @ root.mul_(scale.rsqrt())
        if worst > 0.4:
            # (yᵀy)^(−1/2) has error eps·cond: one more cheap pass on what is now almost orthonormal.
            out = out @ _first_order(out)
    if not bool(good.all()):
        out = _replace(out, ~good, _polar_householder(_select(y, ~good)))
    return out


def _first_order(y: Tensor) -> Tensor:
    return add_to_diagonal((y.mT @ y).mul_(-0.5), 1.5)


def _polar_householder(y: Tensor) -> Tensor:
    """Polar factor for ``(…, n, p)`` of any conditioning: QR, then Higham's scaled Newton iteration on R."""
    q, r = torch.linalg.qr(y)
    finite = torch.isfinite(r).all(-1).all(-1)
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    norm = torch.linalg.matrix_norm(r)[..., None, None]
    x = torch.where(finite[..., None, None] & (norm > 0), r / norm, eye)
    singular = torch.linalg.inv_ex(x).info != 0
    # A rank-deficient matrix has no unique polar factor; this picks one of them.
    x = torch.where(singular[..., None, None], x + torch.finfo(r.dtype).eps * eye, x)
    for step in range(40):
        inverse = torch.linalg.inv_ex(x).inverse
        gamma = (torch.linalg.matrix_norm(inverse) / torch.linalg.matrix_norm(x)).sqrt()[..., None, None]
        new = 0.5 * (gamma * x + inverse.mT / gamma)
        change = torch.linalg.matrix_norm(new - x)
        x = new
        going_on = decided(change > 1e-3)
        if going_on is False or (going_on is None and step == _NEWTON_STEPS):
            break
    for _ in range(2):
        x = x @ _first_order(x)
    out = q @ x
    out = out @ _first_order(out)
    return torch.where(finite[..., None, None], out, torch.full_like(out, torch.nan))


def cholesky_qr(y: Tensor, out: Tensor | None = None) -> Tensor:
    """Q of the QR decomposition with positive diagonal of R, from the Cholesky factor of yᵀy.

    Only meant for y = x + u with u tangent at x: then yᵀy = I + uᵀu, whose smallest eigenvalue is ≥ 1.

    Args:
        y: ``(…, n, p)``, n ≥ p, float32 or float64.
        out: where to write the result; must not overlap y.

    Returns:
        ``(…, n, p)`` with orthonormal columns.
    """
    eps = torch.finfo(y.dtype).eps
    gram = gram_matrix(y)  # (…, p, p)
    factor, info = torch.linalg.cholesky_ex(gram)
    # λmax/λmin ≤ ‖Gram‖_F here; one pass leaves a residual of about eps·λmax.
    spread = torch.linalg.matrix_norm(add_to_diagonal(gram, -1.0))
    worst = largest(spread)
    if worst is None:
        return householder_qr(y)
    if worst <= 0.5:  # then the factorisation cannot have failed
        return _multiply(y, _inverse_transpose(factor), out)
    good = (spread < 0.01 / eps) & (info == 0)
    new = torch.full_like(y, torch.nan)
    if bool(good.any()):
        eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        factor = torch.where(good[..., None, None], factor, eye)
        new = torch.linalg.solve_triangular(factor.mT, y, upper=True, left=False)
        new = new @ _inverse_transpose(torch.linalg.cholesky_ex(gram_matrix(new)).L)
    if not bool(good.all()):
        new = _replace(new, ~good, householder_qr(_select(y, ~good)))
    return new if out is None else out.copy_(new)


def _inverse_transpose(factor: Tensor) -> Tensor:
    """L⁻ᵀ of a well-conditioned lower triangular ``(…, p, p)``; a product with it is quicker than a solve."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    return torch.linalg.solve_triangular(factor, eye, upper=False).mT


def householder_qr(y: Tensor) -> Tensor:
    """Q of the QR decomposition with non-negative diagonal of R, for ``(…, n, p)`` of any conditioning."""
    q, r = torch.linalg.qr(y)
    sign = torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(y.dtype)
    out = q * sign.unsqueeze(-2)
    return out @ _first_order(out)
