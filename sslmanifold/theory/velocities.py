"""Right-hand sides under orthogonality: the κ-family of Eq. 9, its frame form, deep nets, and Eq. 12 as printed."""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.moment_product import Moment, moment_product

METRIC_KAPPA = {"grassmann": 0.0, "euclidean": 1.0, "canonical": 2.0}


def orthogonal_flow(q: Tensor, eigvals: Tensor, kappa: float = 0.0) -> Tensor:
    """q̇ = −4Λq + (2 − κ)Λq qᵀq + (2 + κ) q qᵀΛq: Eq. 9 (κ = 0, Theorem 2) and its family.

    κ = 0 is the Grassmann gradient, 1 the Euclidean Stiefel gradient (also a plain step followed by a polar
    projection, which is what the paper trains), 2 the canonical metric (Oja's flow). Independent of the width
    h.

    Args:
        q: (…, d, z), rows in C's eigenbasis; leading batch dimensions broadcast.
        eigvals: Λ, (d,), in any order; dense C (d, d) works too, with q in the data basis.
        kappa: κ.

    Returns:
        q̇ (…, d, z); per unit of Σ lr.

    Raises:
        UserError: when d does not match.

    Source: Eq. 9; Eq. (12) prints half of it. O(d z²): both z×z Gram matrices are formed first.
    """
    if q.ndim < 2 or eigvals.shape[-1] != q.shape[-2]:
        raise UserError(
            f"q of shape {tuple(q.shape)} with {eigvals.shape[-1]} eigenvalues: give q as (…, d, z) with the same d"
        )
    lq = moment_product(eigvals.to(q.dtype), q)
    n = q.mT @ lq
    return (2 - kappa) * (lq @ (q.mT @ q)) + (2 + kappa) * (q @ n) - 4 * lq


def printed_flow(q: Tensor, eigvals: Tensor) -> Tensor:
    """Eq. 12 as printed, −[2Λq − Λq qᵀq − q qᵀΛq]: half of Eq. 9, kept to reproduce the paper's Figure 3."""
    return orthogonal_flow(q, eigvals, 0.0) / 2


def frame_flow(m: Tensor, r: Tensor, moment: Moment, kappa: float, depth: int = 2) -> tuple[Tensor, Tensor]:
    """(ṁ, Ṙ) of Y = [m; R], YᵀY = I: with N = mᵀCm, c = (L − 2)κ,

        ṁ = −(4 + c) C m + (2 − κ) C m mᵀm + (2 + κ + c) m N,   Ṙ = (4 + c) R N.

    The first is the κ-family (L = 2) or its deep version (L layers, square orthogonal hidden layers); the
    second keeps RᵀR = E = I − mᵀm, since Ė = (4 + c)(NE + EN). (d z² operations; leading batch dimensions
    allowed.)
    """
    c = (depth - 2) * kappa
    cm = moment_product(moment, m)
    n = m.mT @ cm
    velocity = (2 + kappa + c) * (m @ n) - (4 + c) * cm
    if kappa != 2:
        velocity = velocity + (2 - kappa) * (cm @ (m.mT @ m))
    return velocity, (4 + c) * (r @ n)


def loss_velocity(m: Tensor, gradient: Tensor, *, kappa: float = 0.0) -> Tensor:
    """ṁ = −2G + (1 − κ/2)(G mᵀm + m mᵀG) + κ m Gᵀm: Eq. 9's family for any loss of a linear map, G = ∂L/∂m.

    A linear network's loss depends on its weights through m = W1ᵀW2 alone, so under W1ᵀW1 = I_d, W2ᵀW2 = I_z the
    gradient flow closes on m, whatever the loss and the width. For L = Tr(mᵀCm), G = 2Cm, it is `orthogonal_flow`.

    Args:
        m: (…, d, z); leading batch dimensions broadcast.
        gradient: G at m, (…, d, z).
        kappa: κ, see `orthogonal_flow`.

    Returns:
        ṁ (…, d, z), per unit of Σ lr of the loss that G is the gradient of.

    Raises:
        UserError: shapes that do not match.
    """
    if m.ndim < 2 or gradient.ndim < 2 or m.shape[-2:] != gradient.shape[-2:]:
        raise UserError(
            f"m of shape {tuple(m.shape)} with a gradient of shape {tuple(gradient.shape)}: give both as (…, d, z)"
        )
    k = (
        m.mT @ gradient
    )  # (…, z, z); not symmetric, unless the loss is invariant under rotations of the output
    inner = (1 - kappa / 2) * k + kappa * k.mT
    velocity = m @ inner - 2 * gradient
    return velocity if kappa == 2 else velocity + (1 - kappa / 2) * (gradient @ (m.mT @ m))


def loss_frame_flow(
    m: Tensor, r: Tensor, gradient: Tensor, kappa: float, depth: int = 2
) -> tuple[Tensor, Tensor]:
    """(ṁ, Ṙ) of Y = [m; R], YᵀY = I, for G = ∂L/∂m: with K = mᵀG, N = (K + Kᵀ)/2, c = (L − 2)κ,

        ṁ = `loss_velocity` − (c/2)(G − m Gᵀm),   Ṙ = R [(2 − κ)N + (κ + c/2)Kᵀ].

    The second keeps RᵀR = E = I − mᵀm. For G = 2Cm it is `frame_flow`.
    """
    extra = (depth - 2) * kappa / 2
    k = m.mT @ gradient
    sym = (k + k.mT) / 2
    velocity = loss_velocity(m, gradient, kappa=kappa)
    if extra:
        velocity = velocity - extra * (gradient - m @ k.mT)
    return velocity, r @ ((2 - kappa) * sym + (kappa + extra) * k.mT)


def row_flow(m: Tensor, moment: Moment) -> Tensor:
    """ṁ = −2 (I − mmᵀ) C m, the κ = 0 flow under W1W1ᵀ = I_h, W2ᵀW2 = I_z (h < d), where mᵀm = I."""
    cm = moment_product(moment, m)
    return 2 * (m @ (m.mT @ cm)) - 2 * cm


def kappa_of(metric: str | float) -> float:
    """κ of a metric name; a number passes through."""
    if isinstance(metric, str):
        if metric not in METRIC_KAPPA:
            raise UserError(f"unknown metric {metric!r}: use one of {', '.join(METRIC_KAPPA)}")
        return METRIC_KAPPA[metric]
    return float(metric)


def lifted_velocity(w: Tensor, gradient: Tensor, kappa: float) -> Tensor:
    """Ẇ = −[(I − WWᵀ)G + κ W skew(WᵀG)] for orthonormal W (…, h, p): the training side of the family."""
    wg = w.mT @ gradient
    skew = (wg - wg.mT) / 2
    return -(gradient - w @ wg + kappa * (w @ skew))


def pair_gradients(w1: Tensor, w2: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
    """G1 = 2 W2 mᵀC (…, h, d) and G2 = 2 W1 C m (…, h, z), the gradients of Tr(mᵀCm), m = W1ᵀW2 (Eq. 8)."""
    cm = moment_product(moment, torch.matmul(w1.mT, w2))
    return 2 * (w2 @ cm.mT), 2 * (w1 @ cm)
