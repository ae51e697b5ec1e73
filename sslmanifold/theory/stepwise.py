"""Stepwise learning (Simon et al., ICML 2023): linear Barlow Twins, one free layer, one eigenmode after another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.integrate import landed
from sslmanifold.theory.moment_spectrum import eigenbasis

_RTOL, _ATOL, _AT_REST = 1e-13, 1e-15, 1e-12
# of ‖m₀‖: closer to eigenvectors than this, the closed form is the solution
_ALIGNED = 1e-13
# of the largest: a mode that the start has less of than this it does not have
_NONE = 1e-14


class StepwiseTrajectory(NamedTuple):
    """A solution of stepwise learning, float64.

    Attributes:
        times: (T,).
        m: the map (T, …, d, z), u = mᵀx.
        loss: ‖mᵀΓm − I‖_F², (T, …).
        step_times: when each mode of Γ is learned, (…, z), largest eigenvalue first; inf for one that never is.
        method: "closed_form" or "adaptive".
    """

    times: Tensor
    m: Tensor
    loss: Tensor
    step_times: Tensor
    method: str


def pair_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Γ = (AᵀB + BᵀA)/(2n) of n positive pairs, views A and B (…, n, d) -> (…, d, d), float64.

    −C of the non-contrastive loss with ``reduction="mean"`` (Eq. 2). Not centred, as in the source.
    """
    a, b = a.to(torch.float64), b.to(torch.float64)
    if a.shape[-2:] != b.shape[-2:] or a.ndim < 2:
        raise UserError(f"views of shapes {tuple(a.shape)} and {tuple(b.shape)}: give two of (…, n, d)")
    gamma = a.mT @ b / a.shape[-2]
    return (gamma + gamma.mT) / 2


def stepwise_loss(gamma: Tensor, m: Tensor) -> Tensor:
    """L = ‖mᵀΓm − I‖_F² (…,): Barlow Twins with λ = 1, without batch standardisation; Γ (…, d, d), m (…, d, z)."""
    return (m.mT @ gamma @ m - torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)).square().sum((-2, -1))


def stepwise_velocity(gamma: Tensor, m: Tensor) -> Tensor:
    """ṁ = −∂L/∂m = −4Γm(mᵀΓm − I), (…, d, z), per unit of Σ lr of L (the source's flow is this one)."""
    product = gamma @ m
    return 4 * (product - product @ (m.mT @ product))


def solve_stepwise(gamma: Tensor, m0: Tensor, times: Tensor | Iterable[float]) -> StepwiseTrajectory:
    """Gradient flow of L = ‖mᵀΓm − I‖_F² from m0: singular values rise one after another from a small start.

    Where m0 = V_S diag(s) R, with V_S eigenvectors of Γ and R orthogonal, each singular value goes by itself,

        s_j(t) = e^{4γ_j t} / √(s_j⁻² + γ_j (e^{8γ_j t} − 1)) → γ_j^{−1/2},

    and passes half of its final square at τ_j = −log(s_j² γ_j)/(8γ_j). For any other m0, integrated by DOP853, τ_j
    takes for s_j the part of v_jᵀm0 that is orthogonal to the modes before it (the diagonal of a QR factor), which is
    exact in the limit of a small start.

    Args:
        gamma: Γ (…, d, d), symmetric, see `pair_correlation`.
        m0: (…, d, z).
        times: (T,), finite, ≥ 0, ascending, in units of Σ lr of L.

    Raises:
        UserError: shapes, entries that are not finite, Γ that is not symmetric, times.

    Source: Simon, Knutins, Liu, Geisz, Fetterman and Albrecht, ICML 2023.
    """
    points = as_times(times)
    gamma, m0 = (
        torch.as_tensor(gamma).detach().to(torch.float64),
        torch.as_tensor(m0).detach().to(torch.float64),
    )
    _check(gamma, m0)
    values, vectors = (part.flip(-1) for part in eigenbasis(gamma))  # largest first
    coordinates = vectors.mT @ m0  # (…, d, z)
    m, method = _aligned(values, vectors, coordinates, points), "closed_form"
    if m is None:
        m, method = _integrated(gamma, m0, points), "adaptive"
    return StepwiseTrajectory(points, m, stepwise_loss(gamma, m), step_times(values, coordinates), method)


def step_times(eigvals: Tensor, coordinates: Tensor) -> Tensor:
    """τ_j = −log(s_j² γ_j)/(8γ_j), (…, z), for eigenvalues (…, d), largest first, and m0's coordinates (…, d, z).

    Below 0 for a mode that starts past half of its final square; inf where γ_j ≤ 0 or the start does not have it.
    """
    z = coordinates.shape[-1]
    top = coordinates[..., :z, :]  # (…, z or fewer, z)
    sizes = torch.linalg.qr(top.mT, mode="r").R.diagonal(dim1=-2, dim2=-1).abs()
    gamma = eigvals[..., : sizes.shape[-1]]
    gamma, sizes = torch.broadcast_tensors(gamma, sizes)
    learned = (gamma > 0) & (sizes > 0)
    safe, size = torch.where(learned, gamma, 1.0), torch.where(learned, sizes, 1.0)
    found = torch.where(learned, -torch.log(size.square() * safe) / (8 * safe), torch.inf)
    missing = found.new_full((*found.shape[:-1], z - found.shape[-1]), torch.inf)  # z > d: no mode is left
    return torch.cat([found, missing], -1)


def kernel_correlation(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Γ and the root K̃^{1/2} (…, 2n, 2n) for a kernel model u(x) = mᵀ K̃^{−1/2} k(x): its limit is kernel PCA.

    Rows of the root are features of the pairs' samples, the n first views and then the n second, so
    ``solve_stepwise(gamma, m0, times)`` is the kernel's dynamics and ``root @ m`` its embedding of them.

    Args:
        kernel: K̃ of the 2n samples, symmetric positive semidefinite.

    Source: Simon et al., ICML 2023, the kernel form.
    """
    kernel = torch.as_tensor(kernel).detach().to(torch.float64)
    if kernel.ndim < 2 or kernel.shape[-1] != kernel.shape[-2] or kernel.shape[-1] % 2:
        raise UserError(f"a kernel of shape {tuple(kernel.shape)}: give (2n, 2n), first views then second")
    values, vectors = eigenbasis(kernel)
    if float(values.min()) < -1e-8 * float(values.abs().max()):
        raise UserError(
            f"the kernel has the eigenvalue {float(values.min()):.3g} and so is none: give a positive semidefinite one"
        )
    rounding = kernel.shape[-1] * torch.finfo(torch.float64).eps * values.abs().amax(-1, keepdim=True)
    values = torch.where(values > rounding, values, 0.0)  # whose roots would not be small
    root = vectors * values.sqrt()[..., None, :] @ vectors.mT
    n = kernel.shape[-1] // 2
    return pair_correlation(root[..., :n, :], root[..., n:, :]), root


def _check(gamma: Tensor, m0: Tensor) -> None:
    if gamma.ndim < 2 or gamma.shape[-1] != gamma.shape[-2]:
        raise UserError(f"gamma of shape {tuple(gamma.shape)}: give Γ as (d, d), pair_correlation(a, b)")
    if m0.ndim < 2 or m0.shape[-2] != gamma.shape[-1]:
        raise UserError(f"m0 of shape {tuple(m0.shape)}: give the map as (…, {gamma.shape[-1]}, z)")
    for name, tensor in (("gamma", gamma), ("m0", m0)):
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} holds NaN or infinite entries")
    if float((gamma - gamma.mT).abs().max()) > 1e-10 * max(float(gamma.abs().max()), 1e-300):
        raise UserError("gamma is not symmetric: give (gamma + gamma.mT) / 2")


def _aligned(values: Tensor, vectors: Tensor, coordinates: Tensor, points: Tensor) -> Tensor | None:
    """The closed form, (T, …, d, z), where each row of V m0 is orthogonal to the others; None where they are not."""
    gram = coordinates @ coordinates.mT  # (…, d, d); diagonal for V_S diag(s) R
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    size = diagonal.amax(-1).clamp_min(1e-300)
    off = (gram - torch.diag_embed(diagonal)).abs().amax((-2, -1))
    if float((off / size).max()) > _ALIGNED:
        return None
    # of d orthogonal rows z at most differ from 0; rounding in the others would grow without bound
    least = diagonal.sort(-1, descending=True).values[..., : coordinates.shape[-1]][..., -1:]
    kept = (diagonal >= least) & (diagonal > _NONE**2 * size[..., None])
    coordinates = torch.where(kept[..., None], coordinates, 0.0)
    t = points.reshape(-1, *[1] * values.ndim).to(values.device)  # (T, …, 1)
    growth = 4 * values * t
    # s(t)/s(0) = 1/√(e^{−8γt} + γ s² (1 − e^{−8γt})), which no time overflows
    decay = torch.exp(-2 * growth.clamp_min(0))
    rising = (decay - values * diagonal * torch.expm1(-2 * growth.clamp_min(0))).rsqrt()
    falling = (
        torch.exp(growth.clamp_max(0))
        / (1 + values * diagonal * torch.expm1(2 * growth.clamp_max(0))).clamp_min(0).sqrt()
    )
    ratio = torch.where(values > 0, rising, falling)
    return vectors @ (ratio[..., None] * coordinates)


def _integrated(gamma: Tensor, m0: Tensor, points: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(gamma.shape[:-2], m0.shape[:-2])
    start = m0.expand(*batch, *m0.shape[-2:])

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        m = torch.from_numpy(flat).reshape(start.shape).to(start.device)
        return np.asarray(stepwise_velocity(gamma, m).reshape(-1).cpu().numpy())

    flat = start.reshape(-1).cpu().numpy()
    found = landed(velocity, flat, points.numpy(), _RTOL, _ATOL, at_rest=_AT_REST)
    return torch.from_numpy(found).reshape(len(points), *start.shape).to(start.device)
