"""Siamese networks with a predictor (Tian et al., ICML 2021): linear BYOL and SimSiam, with decay and a slow target."""

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


class SiameseState(NamedTuple):
    """Online weight W (…, z, d), predictor P (…, z, z) and target W_a (…, z, d)."""

    weight: Tensor
    predictor: Tensor
    target: Tensor


class SiameseTrajectory(NamedTuple):
    """A solution of the siamese dynamics, float64.

    Attributes:
        times: (T,), Σ lr.
        weight: W (T, …, z, d), u = W x.
        predictor: P (T, …, z, z).
        target: W_a (T, …, z, d); W itself under stop-gradient.
        loss: ½ E‖P W x₁ − W_a x₂‖², (T, …).
    """

    times: Tensor
    weight: Tensor
    predictor: Tensor
    target: Tensor
    loss: Tensor

    def balance(self, predictor_rate: float = 1.0) -> Tensor:
        """W Wᵀ − PᵀP/α (T, …, z, z): decays as e^{−2ηt}, whatever the data."""
        return balance(self.weight, self.predictor, predictor_rate)


def view_moments(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """X = E[x̄x̄ᵀ] and X' = E[(x − x̄)(x − x̄)ᵀ] of two equally likely views A, B (…, n, d): (…, d, d), float64."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    mean, half, n = (a + b) / 2, (a - b) / 2, a.shape[-2]
    return mean.mT @ mean / n, half.mT @ half / n


def siamese_velocity(
    state: SiameseState,
    x: Tensor,
    x_aug: Tensor,
    *,
    predictor_rate: float = 1.0,
    ema_rate: float | None = None,
    weight_decay: float = 0.0,
    orthonormal: bool = False,
) -> SiameseState:
    """With E = W_a X − P W(X + X'): Ẇ = PᵀE − ηW, Ṗ = α E Wᵀ − ηP, Ẇ_a = β(W − W_a).

    ``orthonormal`` keeps the rows of W orthonormal: Ẇ is the projection of PᵀE on their tangent space,
    G − sym(G Wᵀ)W, and decay reaches P alone.
    """
    w, p, target = state
    error = target @ x - p @ w @ (x + x_aug)
    weight = p.mT @ error
    if orthonormal:
        inner = weight @ w.mT
        weight = weight - (inner + inner.mT) / 2 @ w
    else:
        weight = weight - weight_decay * w
    predictor = predictor_rate * error @ w.mT - weight_decay * p
    return SiameseState(weight, predictor, weight if ema_rate is None else ema_rate * (w - target))


def siamese_loss(state: SiameseState, x: Tensor, x_aug: Tensor) -> Tensor:
    """½ E‖P W x₁ − W_a x₂‖², the views drawn independently about their mean: (…,)."""
    online, target = state.predictor @ state.weight, state.target
    total = x + x_aug
    squares = (online @ total * online).sum((-2, -1)) + (target @ total * target).sum((-2, -1))
    return squares / 2 - (online @ x * target).sum((-2, -1))


def balance(weight: Tensor, predictor: Tensor, predictor_rate: float = 1.0) -> Tensor:
    """W Wᵀ − PᵀP/α (…, z, z)."""
    return weight @ weight.mT - predictor.mT @ predictor / predictor_rate


def solve_siamese(
    X: Tensor,
    X_aug: Tensor,
    weight0: Tensor,
    predictor0: Tensor,
    times: Tensor | Iterable[float],
    *,
    target0: Tensor | None = None,
    predictor_rate: float = 1.0,
    ema_rate: float | None = None,
    weight_decay: float = 0.0,
    orthonormal: bool = False,
) -> SiameseTrajectory:
    """Gradient flow of the online weight and the predictor of a linear siamese network (`siamese_velocity`).

    Args:
        X, X_aug: (…, d, d), see `view_moments`.
        weight0, predictor0: W (…, z, d) and P (…, z, z) at time 0; leading dimensions are independent runs.
        times: (T,), finite, ≥ 0, ascending: Σ lr of the loss ½E‖·‖² (of a loss without the ½, half of it).
        target0: W_a at time 0; None for W's.
        predictor_rate: α, how many times as fast the predictor learns; > 0.
        ema_rate: β of the target, per unit of time: a momentum of 1 − βη at steps of η. None for stop-gradient.
        weight_decay: η of the source, on W and P.
        orthonormal: W on the Stiefel manifold, W Wᵀ = I, with the metric of the embedding; only without ``target0``
            of another kind. Beyond the source.

    Raises:
        UserError: shapes, entries that are not finite, times, rates, a ``target0`` beside stop-gradient, ``weight0``
            that is not orthonormal where it should be.

    Source: Tian, Chen and Ganguli, ICML 2021 (their layout, W (z, d), not this package's
    m = Wᵀ).
    """
    points = as_times(times)
    x, x_aug, w, p = (torch.as_tensor(t).detach().to(torch.float64) for t in (X, X_aug, weight0, predictor0))
    if target0 is not None and ema_rate is None:
        raise UserError(
            "target0 beside stop-gradient: the target is W itself; set ema_rate=0.3, or leave target0 out"
        )
    if not predictor_rate > 0:
        raise UserError(f"predictor_rate={predictor_rate} must be above 0: set predictor_rate=1.0")
    if weight_decay < 0 or (ema_rate is not None and ema_rate < 0):
        raise UserError(f"weight_decay={weight_decay}, ema_rate={ema_rate} must not be negative")
    target = w if target0 is None else torch.as_tensor(target0).detach().to(torch.float64)
    _check(x, x_aug, w, p, target)
    if orthonormal:
        off = float((w @ w.mT - torch.eye(w.shape[-2], dtype=w.dtype, device=w.device)).abs().max())
        if off > 1e-8:
            raise UserError(
                f"orthonormal=True and weight0 weight0ᵀ is {off:.3g} from I: "
                "weight0 = torch.linalg.qr(weight0.mT).Q.mT"
            )
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (x, x_aug, w, p, target)))
    parts = [t.expand(*batch, *t.shape[-2:]) for t in ((w, p) if ema_rate is None else (w, p, target))]
    sizes = [part.numel() for part in parts]
    rates = {"predictor_rate": predictor_rate, "ema_rate": ema_rate, "weight_decay": weight_decay}

    def state(flat: np.ndarray, lead: tuple[int, ...] = ()) -> SiameseState:
        split = torch.from_numpy(flat).to(w.device).split(sizes, dim=-1)
        found = [part.reshape(*lead, *like.shape) for part, like in zip(split, parts, strict=True)]
        return SiameseState(found[0], found[1], found[0] if ema_rate is None else found[2])

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        now = state(flat)
        rate = siamese_velocity(now, x, x_aug, orthonormal=orthonormal, **rates)  # type: ignore[arg-type]
        if orthonormal:  # zero on the manifold, and makes it attracting for the solver
            ww = now.weight @ now.weight.mT - torch.eye(w.shape[-2], dtype=w.dtype, device=w.device)
            pull = torch.linalg.matrix_norm(rate.weight, keepdim=True) + 1
            rate = rate._replace(weight=rate.weight - pull * ww @ now.weight)
        return np.concatenate([part.reshape(-1).cpu().numpy() for part in rate[: len(parts)]])

    flat = np.concatenate([part.reshape(-1).cpu().numpy() for part in parts])
    try:
        found = landed(velocity, flat, points.numpy(), _RTOL, _ATOL, at_rest=_AT_REST)
    except RuntimeError as error:
        raise UserError(f"{error}: ask for earlier times") from error
    solved = state(found, (len(points),))
    return SiameseTrajectory(points, *solved, siamese_loss(solved, x, x_aug))


def _check(x: Tensor, x_aug: Tensor, w: Tensor, p: Tensor, target: Tensor) -> None:
    if w.ndim < 2:
        raise UserError(f"weight0 of shape {tuple(w.shape)}: give W as (…, z, d)")
    z, d = w.shape[-2:]
    for name, tensor, shape in (
        ("X", x, (d, d)),
        ("X_aug", x_aug, (d, d)),
        ("predictor0", p, (z, z)),
        ("target0", target, (z, d)),
    ):
        if tensor.shape[-2:] != shape:
            raise UserError(
                f"{name} of shape {tuple(tensor.shape)} beside weight0 {tuple(w.shape)}: "
                f"give (…, {shape[0]}, {shape[1]})"
            )
    for name, tensor in (("X", x), ("X_aug", x_aug), ("weight0", w), ("predictor0", p), ("target0", target)):
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} holds NaN or infinite entries")
