"""Retractions of the Stiefel manifold: first-order correct maps from a tangent step to a new point.

All take x ``(…, n, p)`` with orthonormal columns and a tangent u of the same shape (xᵀu skew) and return
``(…, n, p)``; the leading dimensions are a batch. Distance from the exact exponential after a step of size t:
Cholesky-QR O(t²); polar O(t³) for the Euclidean metric; Cayley O(t³) for the canonical metric. On horizontal
tangents (xᵀu = 0) the exponentials of all metrics agree, and polar and Cayley are both O(t³).
"""

import torch
from torch import Tensor

from sslmanifold.geometry.orthonormalize import add_to_diagonal, cholesky_qr, gram_matrix, polar
from sslmanifold.geometry.precision import decided


def retract_cholesky_qr(x: Tensor, u: Tensor) -> Tensor:
    """R(u) = qf(x + u), from the Cholesky factor of the actual Gram matrix."""
    return cholesky_qr(x + u)


def retract_polar(x: Tensor, u: Tensor) -> Tensor:
    """R(u) = (x + u)((x + u)ᵀ(x + u))^(−1/2), the closest point to x + u."""
    return polar(x + u)


def retract_cayley(x: Tensor, u: Tensor) -> Tensor:
    """Cayley transform of u through one p×p solve.

    With w = xᵀu, S = uᵀu, B = I − w/2 and a = (B + (S + w²)/4)⁻¹: R(u) = x(2Ba − I) + ua. The matrix inverted
    has symmetric part ≥ I. The transform alone keeps xᵀx instead of correcting it, and roundoff accumulates
    (past 1e-6 within ten float32 steps); so the Gram matrix of the result is predicted from xᵀx, w and S, and
    one Newton–Schulz correction is folded into the two p×p factors. After a step longer than one the result
    is projected instead.

    Source: the low-rank form of Wen & Yin, "A feasible method for optimization with orthogonality
    constraints" (2013), reduced to a p×p system.
    """
    w = x.mT @ u  # (…, p, p)
    normal = (w + w.mT) * 0.5
    tangent = torch.linalg.matrix_norm(normal) <= 16 * torch.finfo(x.dtype).eps
    if torch.is_grad_enabled() or decided(~tangent) is not False:
        # Not tangent to roundoff, as when Adam blows up a vanishing gradient: only the tangent part may act. A
        # derivative is that of this map, whether or not there is something to take off.
        u = u - x @ normal
        w = w - normal
    s = u.mT @ u  # (…, p, p)
    b = add_to_diagonal(w * -0.5, 1.0)
    a = torch.linalg.inv_ex(b + (w @ w).add_(s).mul_(0.25)).inverse
    c = add_to_diagonal(2 * (b @ a), -1.0)  # the result is x c + u a
    mixed = c.mT @ w @ a
    gram = c.mT @ gram_matrix(x) @ c + mixed + mixed.mT + a.mT @ s @ a
    correction = add_to_diagonal(gram.mul_(-0.5), 1.5)
    long = ~(torch.linalg.matrix_norm(s) <= 1.0)  # (…); there the prediction has lost its digits
    any_long = decided(long)
    if any_long is False:
        return torch.matmul(x, c @ correction).add_(u @ (a @ correction))
    new = polar(torch.matmul(x, c).add_(u @ a))
    if any_long:
        return new
    return torch.where(long[..., None, None], new, x @ (c @ correction) + u @ (a @ correction))


def exponential(x: Tensor, u: Tensor, beta: float, v: Tensor | None = None) -> Tensor:
    """exp_x(u) of the metric β (1 Euclidean, ½ canonical), or v carried there by the same two rotations.

    With A = xᵀu, K = u − xA, C = KᵀK, B = [[2βA, −C], [I, 0]]: the geodesic turns the space by exp of the skew
    matrix Ā = 2β xAxᵀ + Kxᵀ − xKᵀ, Ā [x K] = [x K] B, and the columns by E = exp((1 − 2β)A). So
    exp_x(u) = [x K] exp(B) [I; 0] E, and v goes to (v + [x K] φ(B) Y) E, Y = [2βAxᵀ − Kᵀ; xᵀ] v, φ(t) = (eᵗ − 1)/t.

    Source: Zimmermann & Hüper, "Computing the Riemannian logarithm on the Stiefel manifold" (2022), freed of its
    QR decomposition.
    """
    p = x.shape[-1]
    a = x.mT @ u
    a = (a - a.mT) * 0.5  # (…, p, p)
    k = u - x @ a  # (…, n, p)
    eye = torch.eye(p, dtype=x.dtype, device=x.device).expand_as(a)
    top = torch.cat((2 * beta * a, -(k.mT @ k)), dim=-1)  # (…, p, 2p)
    turn = torch.cat((top, torch.cat((eye, torch.zeros_like(a)), dim=-1)), dim=-2)  # B, (…, 2p, 2p)
    frame = torch.cat((x, k), dim=-1)  # (…, n, 2p)
    columns = torch.linalg.matrix_exp((1 - 2 * beta) * a)  # E
    if v is None:
        return frame @ torch.linalg.matrix_exp(turn)[..., :p] @ columns
    xv = x.mT @ v
    y = torch.cat((2 * beta * a @ xv - k.mT @ v, xv), dim=-2)  # (…, 2p, p)
    # exp [[B, Y], [0, 0]] = [[exp B, φ(B) Y], [0, I]]
    wide = torch.nn.functional.pad(torch.cat((turn, y), dim=-1), (0, 0, 0, p))  # (…, 3p, 3p)
    return (v + frame @ torch.linalg.matrix_exp(wide)[..., : 2 * p, 2 * p :]) @ columns


RETRACTIONS = {"cholesky_qr": retract_cholesky_qr, "polar": retract_polar, "cayley": retract_cayley}

#: Retractions that orthonormalise x + u, so that a step may form x + u in one go.
OF_THE_SUM = {"cholesky_qr": cholesky_qr, "polar": polar}
