"""Dimensional collapse (Jing et al., ICLR 2022): which directions a contrastive loss shrinks, and what layers keep."""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.errors import UserError


def contrast_matrix(x: Tensor, positives: Tensor, m: Tensor) -> Tensor:
    """S (…, d, d) with ∂L/∂m = −S m for InfoNCE on squared distances (mean over anchors), at the map m (…, d, z):

        S = mean_i [ Σ_{j≠i} α_ij (x_i − x_j)(x_i − x_j)ᵀ − (1 − α_ii)(x_i − x_i⁺)(x_i − x_i⁺)ᵀ ],

    α_ij the softmax of −‖u_i − u_j‖²/2 over the others and, as α_ii, the positive. One free layer follows ṁ = S m: a
    direction shrinks where S is negative, that is where augmentation moves samples by more than they differ, and
    singular values there must die (for good where S does not change).

    Args:
        x, positives: (n, d), one positive an anchor, n ≥ 2.

    Raises:
        UserError: shapes.

    Source: Jing, Vincent, LeCun and Tian, ICLR 2022 (their X, with the mean over anchors).
    """
    if x.ndim != 2 or x.shape != positives.shape or len(x) < 2:
        raise UserError(
            f"x of shape {tuple(x.shape)} and positives {tuple(positives.shape)}: give two of (n, d), n at least 2"
        )
    if m.ndim < 2 or m.shape[-2] != x.shape[1]:
        raise UserError(f"m of shape {tuple(m.shape)}: give the map as (…, {x.shape[1]}, z)")
    x, positives, m = (t.to(torch.float64) for t in (x, positives, m))
    n, u = len(x), x @ m  # (…, n, z)
    logits = -torch.cdist(u, u).square() / 2  # (…, n, n)
    own = -(u - positives @ m).square().sum(-1) / 2
    logits = torch.where(torch.eye(n, dtype=torch.bool, device=x.device), own[..., None], logits)
    alpha = logits.softmax(-1)
    kept = alpha.diagonal(dim1=-2, dim2=-1)  # α_ii (…, n)
    weights = alpha - torch.diag_embed(
        kept
    )  # Σ_ij w_ij (x_i − x_j)(x_i − x_j)ᵀ through the graph's Laplacian
    both = weights + weights.mT
    laplacian = torch.diag_embed(both.sum(-1)) - both
    moved = x - positives
    return (x.mT @ laplacian @ x - (moved.mT * (1 - kept)[..., None, :]) @ moved) / n


def layer_balance(w1: Tensor, w2: Tensor) -> Tensor:
    """W1W1ᵀ − W2W2ᵀ (…, h, h) for m = W1ᵀW2: conserved by the flow of two free layers, whatever the loss.

    From a small start the layers' singular vectors align and each pair of singular values grows at the rate of their
    product, so that small ones stay behind: their implicit regularisation.

    Source: Jing, Vincent, LeCun and Tian, ICLR 2022; the law is that of all deep linear networks.
    """
    return w1 @ w1.mT - w2 @ w2.mT
