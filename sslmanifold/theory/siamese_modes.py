"""Eigenmodes of siamese learning: where data are isotropic, predictor, correlation and target decouple mode by mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.integrate import landed

_RTOL, _ATOL, _AT_REST = 1e-13, 1e-15, 1e-12


class SiameseModes(NamedTuple):
    """Eigenvalues along the flow, float64, (T, …) each: p of P, s of W Wᵀ, τ with W_a = τ W."""

    times: Tensor
    p: Tensor
    s: Tensor
    tau: Tensor


def solve_siamese_modes(
    p0: Tensor | float,
    s0: Tensor | float,
    times: Tensor | Iterable[float],
    *,
    augmentation: float,
    tau0: Tensor | float = 1.0,
    predictor_rate: float = 1.0,
    ema_rate: float | None = None,
    weight_decay: float = 0.0,
) -> SiameseModes:
    """One mode of `solve_siamese` for X = I, X' = σ²I and P, W Wᵀ with common eigenvectors, W_a = τ W:

        ṗ = α s (τ − (1 + σ²)p) − ηp,  ṡ = 2ps(τ − (1 + σ²)p) − 2ηs,  τ̇ = β(1 − τ) − τ ṡ/(2s).

    Without a predictor that differs from 1 (p = 1, τ = 1) the middle equation is ṡ = −2s(σ² + η): the mode dies. With
    one, s − p²/α decays as e^{−2ηt}, and s survives where α is large and η small enough.

    Args:
        p0, s0, tau0: (…), s0 > 0.
        times: (T,), Σ lr.
        augmentation: σ².
        predictor_rate, ema_rate, weight_decay: α, β (None: τ stays 1) and η.

    Raises:
        UserError: s0 that is not positive, entries that are not finite, times.

    Source: Tian, Chen and Ganguli, ICML 2021.
    """
    points = as_times(times)
    if ema_rate is None and not bool((torch.as_tensor(tau0) == 1).all()):
        raise UserError(f"tau0={tau0} beside stop-gradient, where τ = 1: set ema_rate=0.3, or leave tau0 out")
    start = torch.stack(
        torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in (p0, s0, tau0)))
    )
    if not torch.isfinite(start).all() or bool((start[1] <= 0).any()):
        raise UserError(f"s0={s0} must be above 0, and p0, s0, tau0 finite")

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        p, s, tau = flat.reshape(3, -1)
        drive = tau - (1 + augmentation) * p
        ds = 2 * p * s * drive - 2 * weight_decay * s
        dtau = 0 * tau if ema_rate is None else ema_rate * (1 - tau) - tau * ds / (2 * s)
        return np.concatenate([predictor_rate * s * drive - weight_decay * p, ds, dtau])

    found = landed(velocity, start.flatten().numpy(), points.numpy(), _RTOL, _ATOL, at_rest=_AT_REST)
    return SiameseModes(points, *torch.from_numpy(found).reshape(len(points), *start.shape).unbind(1))


def direct_predictor(correlation: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """DirectPred: P = U diag(√s_j + ε max s) Uᵀ of the correlation F = E[uuᵀ] = U diag(s) Uᵀ, (…, z, z).

    The predictor that gradient descent would come to where W Wᵀ = P² (the balance law after decay), set instead of
    learned; ε keeps small modes alive.

    Raises:
        UserError: for a correlation that is not symmetric positive semidefinite.

    Source: Tian, Chen and Ganguli, ICML 2021, section on DirectPred.
    """
    f = torch.as_tensor(correlation).to(torch.float64)
    if f.ndim < 2 or f.shape[-1] != f.shape[-2]:
        raise UserError(f"a correlation of shape {tuple(f.shape)}: give E[uuᵀ] as (…, z, z)")
    values, vectors = torch.linalg.eigh((f + f.mT) / 2)
    top = values.amax(-1, keepdim=True)
    if bool((values < -1e-8 * top.abs().clamp_min(1e-300)).any()):
        raise UserError(f"a correlation with the eigenvalue {float(values.min()):.3g}: give E[uuᵀ]")
    sizes = values.clamp_min(0).sqrt() + epsilon * top
    return vectors * sizes[..., None, :] @ vectors.mT
