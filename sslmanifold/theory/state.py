"""All that the dynamics of a two-layer linear net depend on, whatever its width."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sslmanifold.errors import UserError


class State(Protocol):
    """What every flow carries: the map m = W1ᵀW2 (…, d, z), float64, and the time Σ lr it stands at."""

    @property
    def m(self) -> Tensor: ...

    @property
    def time(self) -> float: ...


class GramState(NamedTuple):
    """(m, H1, H2) = (W1ᵀW2, W1ᵀW1, W2ᵀW2): the width-free state of a two-layer linear net.

    m (…, d, z), h1 (…, d, d), h2 (…, z, z), float64; leading batch dimensions are independent runs.
    """

    m: Tensor
    h1: Tensor
    h2: Tensor
    time: float = 0.0


class FrameState(NamedTuple):
    """Y = [m; R] with YᵀY = I: the width-free state under orthogonality, with W1 gauge-fixed at [I; 0].

    m (…, d, z); r (…, k, z), RᵀR = E = I − mᵀm, with k = min(z, h − d) rows, which is how the width h enters:
    the rank of E never changes along the flow. Float64; leading batch dimensions are independent runs.
    """

    m: Tensor
    r: Tensor
    time: float = 0.0


def as_weights(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 copies of W1 (…, h, d) and W2 (…, h, z); raises UserError unless their widths h agree."""
    if w1.ndim < 2 or w2.ndim < 2 or w1.shape[-2] != w2.shape[-2]:
        raise UserError(
            f"weights of shapes {tuple(w1.shape)} and {tuple(w2.shape)}: give W1 as (…, h, d) and W2 as (…, h, z) "
            "with the same h"
        )
    return w1.detach().to(torch.float64), w2.detach().to(torch.float64)


def gram_state(w1: Tensor, w2: Tensor, time: float = 0.0) -> GramState:
    """(W1ᵀW2, W1ᵀW1, W2ᵀW2) of weights (…, h, d) and (…, h, z), float64."""
    w1, w2 = as_weights(w1, w2)
    return GramState(w1.mT @ w2, w1.mT @ w1, w2.mT @ w2, time)


def frame_state(m: Tensor, rows: int, time: float = 0.0) -> FrameState:
    """[m; R] with R = the ``rows`` largest eigen-directions of (I − mᵀm)^{1/2}, then Y made orthonormal.

    Args:
        m: (…, d, z) with ‖m‖₂ ≤ 1 (up to 1e-6: float32 weights are cleaned up here).
        rows: min(z, h − d), the most that E = I − mᵀm can have as rank; 0 for h = d.

    Raises:
        UserError: if ‖m‖₂ > 1, or if m has not the d + z − h unit singular values that this width forces.
    """
    m = m.detach().to(torch.float64)
    z = m.shape[-1]
    eye = torch.eye(z, dtype=m.dtype, device=m.device)
    e, v = torch.linalg.eigh(eye - m.mT @ m)  # ascending; (…, z), (…, z, z)
    if float(e.min()) < -2e-4:
        raise UserError(
            f"‖q0‖₂ = {float((1 - e.min()).sqrt()):.6g} > 1 cannot come from orthonormal weights: "
            "divide q0 by its norm, torch.linalg.matrix_norm(q0, 2)"
        )
    forced = e[..., : z - rows]
    if forced.numel() and float(forced.max()) > 2e-4:
        raise UserError(
            f"with this width {z - rows} singular values of q0 must be 1, but 1 − σ² = {float(forced.max()):.3g}: "
            "take q0 = W1ᵀW2 of orthonormal weights of this width, or a larger hidden"
        )
    # Eigenvalues below rounding are zero: kept, they would grow like e^{8λt} in positive directions.
    e = torch.where(e < 1e-14, torch.zeros_like(e), e)
    r = e[..., z - rows :].sqrt()[..., :, None] * v[..., :, z - rows :].mT  # (…, rows, z)
    return normalise_frame(FrameState(m, r, time), iterations=4)


def normalise_frame(state: FrameState, iterations: int = 2) -> FrameState:
    """Nearest orthonormal frame (the polar factor) by Newton–Schulz: quadratic, for frames already close to one."""
    m, r = state.m, state.r
    for _ in range(iterations):
        gram = m.mT @ m + r.mT @ r  # (…, z, z)
        correction = -0.5 * gram
        correction.diagonal(dim1=-2, dim2=-1).add_(1.5)
        m, r = m @ correction, r @ correction
    return FrameState(m, r, state.time)
