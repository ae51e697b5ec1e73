"""Positive pairs whose two moments are given exactly: the theories' predictions then hold without sampling error."""

from collections.abc import Sequence

import torch
from torch import Tensor


def exact_views(
    generator: torch.Generator,
    n: int,
    signal: Sequence[float],
    noise: Sequence[float],
    *,
    apart: bool = False,
) -> tuple[Tensor, Tensor]:
    """Two views A = M + E, B = M − E (n, d), float64, with MᵀM/n = X, EᵀE/n = X′ and MᵀE = 0 to rounding.

    X = R diag(signal) Rᵀ and X′ = R diag(noise) Rᵀ with a random rotation R, so Γ of the pairs is X − X′.

    Args:
        generator: of the samples and rotations.
        n: pairs, at least 2d + 1.
        signal: d eigenvalues of X, the moment of the pairs' means.
        noise: d eigenvalues of X′, the views' variance about their mean.
        apart: X′ with a rotation of its own, so that X and X′ do not commute.
    """
    d = len(signal)
    drawn = torch.randn(n, 2 * d, generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(drawn - drawn.mean(0)).Q * n**0.5  # centred, since X and X′ are
    rotations = torch.linalg.qr(torch.randn(2, d, d, generator=generator, dtype=torch.float64)).Q
    mean = columns[:, :d] * torch.tensor(signal, dtype=torch.float64).sqrt() @ rotations[0].mT
    half = columns[:, d:] * torch.tensor(noise, dtype=torch.float64).sqrt() @ rotations[int(apart)].mT
    return mean + half, mean - half
