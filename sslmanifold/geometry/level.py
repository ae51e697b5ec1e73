"""The largest singular values of a matrix lowered to a common level: the proximal step of the squared operator norm."""

import torch
from torch import Tensor

from sslmanifold.geometry.precision import full_precision
from sslmanifold.geometry.singular import safe_eigh

# Below this size a dense eigendecomposition is quicker than a block Krylov space.
_DENSE = 256
_BLOCK = 16
_POWERS = 6
# A singular value that stays above the level by less than this share is found at the next step.
_SLACK = 1e-4


def lower_to_level(x: Tensor, budget: Tensor) -> Tensor:
    """argmin ½‖Y − X‖_F² + ½β‖Y‖₂²: singular values above a level ℓ lowered to it, Σ (σ_i − ℓ)₊ = β ℓ.

    The subgradients of ‖·‖₂² at a tie are a whole face; a step along any single one of them breaks the tie. The
    proximal step keeps it: all lowered values end equal. X and its singular vectors are otherwise left alone, and
    β = 0 changes nothing.

    Large matrices are handled in a block Krylov space that holds their top singular vectors; a Cholesky factorisation
    certifies that nothing above the level was missed (to a relative 1e-4), else the matrix is solved densely.

    Args:
        x: ``(…, n, p)``, any aspect ratio; the leading dimensions are a batch.
        budget: β ≥ 0, ``(…)``, dimensionless.

    Returns:
        Y, ``(…, n, p)``. No gradient flows.
    """
    with torch.no_grad(), full_precision(x):
        dtype = x.dtype
        x = x.float() if dtype in (torch.float16, torch.bfloat16) else x
        if x.shape[-2] < x.shape[-1]:
            return _lower(x.mT, budget.to(x.dtype)).mT.to(dtype)
        return _lower(x, budget.to(x.dtype)).to(dtype)


def common_level(sigma: Tensor, budget: Tensor) -> Tensor:
    """ℓ with Σ (σ_i − ℓ)₊ = β ℓ, of σ (…, k) in descending order and β (…) → (…).

    Of the candidates (σ_1 + … + σ_j)/(j + β) it is the largest: taking in a value below the level can only lower it.
    """
    count = torch.arange(1, sigma.shape[-1] + 1, dtype=sigma.dtype, device=sigma.device)
    return (sigma.cumsum(-1) / (count + budget.unsqueeze(-1))).amax(-1)


def _lower(x: Tensor, budget: Tensor) -> Tensor:
    """Of tall matrices (…, n, p), n ≥ p."""
    gram = x.mT @ x  # (…, p, p)
    if gram.shape[-1] <= _DENSE:
        return _lower_dense(x, gram, budget)
    basis = _top_space(gram)  # (…, p, k)
    image = gram @ basis
    small = basis.mT @ image
    values, turn = safe_eigh((small + small.mT) * 0.5)
    vectors, image = basis @ turn, image @ turn
    share, level = _shares(values, budget)
    lowered = _without(x, vectors, share)
    # Gram of the lowered matrix, (I − V s Vᵀ) G (I − V s Vᵀ), by products with thin matrices alone
    cross = (image * share.unsqueeze(-2)) @ vectors.mT
    after = gram - cross - cross.mT + (vectors * (share.square() * values).unsqueeze(-2)) @ vectors.mT
    bound = ((1 + _SLACK) * level).square()[..., None, None]
    eye = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    missed = torch.linalg.cholesky_ex(bound * eye - after).info != 0  # (…)
    if bool(missed.any()):
        flat, lowered = missed.reshape(-1), lowered.reshape(-1, *x.shape[-2:]).clone()
        whole, gram = x.reshape(lowered.shape), gram.reshape(-1, *gram.shape[-2:])
        lowered[flat] = _lower_dense(whole[flat], gram[flat], budget.reshape(-1)[flat])
        lowered = lowered.reshape(x.shape)
    return lowered


def _lower_dense(x: Tensor, gram: Tensor, budget: Tensor) -> Tensor:
    values, vectors = safe_eigh(gram)
    return _without(x, vectors, _shares(values, budget)[0])


def _shares(values: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """(1 − ℓ/σ_i)₊ (…, k) and ℓ (…), of squared singular values in ascending order."""
    sigma = values.clamp_min(0).sqrt()
    level = common_level(sigma.flip(-1), budget)
    return (1 - level.unsqueeze(-1) / sigma.clamp_min(torch.finfo(sigma.dtype).tiny)).clamp_min(0), level


def _without(x: Tensor, vectors: Tensor, share: Tensor) -> Tensor:
    """X − X V diag(share) Vᵀ."""
    return x - ((x @ vectors) * share.unsqueeze(-2)) @ vectors.mT


def _top_space(gram: Tensor) -> Tensor:
    """Orthonormal basis (…, p, k) of span(B, GB, G²B, …), B a fixed block wider than the ties expected."""
    p = gram.shape[-1]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(p, _BLOCK, generator=generator).to(gram)
    block = torch.linalg.qr((gram @ start).expand(*gram.shape[:-2], p, _BLOCK))[0]
    blocks = [block]
    for _ in range(_POWERS):
        block = gram @ block
        done = torch.cat(blocks, -1)
        for _ in range(2):
            block = block - done @ (done.mT @ block)
        block = torch.linalg.qr(block)[0]
        blocks.append(block)
    return torch.linalg.qr(torch.cat(blocks, -1))[0]
