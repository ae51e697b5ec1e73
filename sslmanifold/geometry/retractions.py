"""Retractions of the Stiefel manifold: first-order correct maps from a tangent step to a new point.

All take x ``(…, n, p)`` with orthonormal columns and a tangent u of the same shape (xᵀu skew) and return
``(…, n, p)``; the leading dimensions are a batch. Distance from the exact exponential after a step of size t:
Cholesky-QR O(t²); polar O(t³) for the Euclidean metric; Cayley O(t³) for the canonical metric. On horizontal
tangents (xᵀu = 0) the exponentials of all metrics agree, and polar and Cayley are both O(t³).
"""

import torch
from torch import Tensor

from sslmanifold.geometry.orthonormalize import add_to_diagonal, cholesky_qr, gram_matrix, polar


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
    if bool((torch.linalg.matrix_norm(normal) > 16 * torch.finfo(x.dtype).eps).any()):
        # Not tangent to roundoff, as when Adam blows up a vanishing gradient: only the tangent part may act.
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
    if not bool(long.any()):
        return torch.matmul(x, c @ correction).add_(u @ (a @ correction))
    new = torch.matmul(x, c).add_(u @ a)
    return polar(new)


RETRACTIONS = {"cholesky_qr": retract_cholesky_qr, "polar": retract_polar, "cayley": retract_cayley}

#: Retractions that orthonormalise x + u, so that a step may form x + u in one go.
OF_THE_SUM = {"cholesky_qr": cholesky_qr, "polar": polar}
