"""Closed forms of the orthogonal family: any z for κ = 2 (Oja's flow, a Riccati equation), any κ for z = 1."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.frame import FrameState

Array = NDArray[np.float64]


def projector(state: FrameState, eigvals: Tensor, time: float) -> Tensor:
    """P(t) = q qᵀ of κ = 2 in closed form: P = Y S⁻¹ Yᵀ, Y = e^{−4Λt} q0, S = I − q0ᵀq0 + YᵀY.

    Evaluated from the echelon form of [q0; R0] (`OjaSubspace`), so that it is good to rounding at any time,
    with repeated or zero eigenvalues and for h < d + z. One run: q0 (d, z), Λ (d,) -> (d, d).
    """
    lam = eigvals.detach().double().cpu().numpy()
    frame = torch.cat([state.m, state.r], dim=-2).cpu().numpy()
    basis = OjaSubspace(frame, lam).basis(time)[: lam.shape[0]]
    return torch.from_numpy(basis @ basis.T).to(state.m.device)


class OjaSubspace:
    """Span of e^{Gt}Y0, G = diag(−4Λ, 0), Y0 = [q0; R0] orthonormal (d + k, z): the κ = 2 flow of subspaces.

    Rows are sorted by growth rate and Y0 is brought to lower echelon form by operations from the right, which
    leave the span alone; the entry (i, j) then grows relative to its column's pivot like exp((g_i −
    g_pivot(j)) t) ≤ 1.
    """

    def __init__(self, frame: Array, eigvals: Array) -> None:
        rows, z = frame.shape
        self.growth = np.concatenate([-4.0 * eigvals, np.zeros(rows - eigvals.shape[0])])
        order = np.argsort(-self.growth, kind="stable")
        echelon, pivots = frame[order].copy(), np.zeros(z, dtype=int)
        row = 0
        for column in range(z):
            while row < rows:
                x = echelon[row, column:]
                norm = np.linalg.norm(x)
                # Below rounding the row is dependent on the pivots above: rank decides, not the sign of the
                # noise.
                if norm > 1e-13:
                    break
                echelon[row, column:] = 0.0
                row += 1
            if row == rows:
                break
            v = x.copy()
            v[0] += norm if v[0] >= 0 else -norm
            echelon[:, column:] -= np.outer(echelon[:, column:] @ v, 2.0 * v / (v @ v))
            echelon[row, column + 1 :] = 0.0
            pivots[column] = row
            row += 1
        sorted_growth = self.growth[order]
        self.echelon, self.order = echelon, order
        self.relative = np.minimum(sorted_growth[:, None] - sorted_growth[pivots][None, :], 0.0)

    def basis(self, time: float) -> Array:
        """Orthonormal basis (d + k, z) of the span at this time."""
        scaled = np.empty_like(self.echelon)
        scaled[self.order] = self.echelon * np.exp(self.relative * time)
        q, _ = np.linalg.qr(scaled / np.linalg.norm(scaled, axis=0))
        return q


def transported(frame: Array, eigvals: Array, times: Array) -> Array:
    """Y(t) for κ = 2, Ẏ = −4 (I − YYᵀ) Λ Y, of one orthonormal frame (rows, z), one eigenvalue a row: (T, rows, z).

    Y is the parallel transport of its start along the curve of spans: on a stretch where the span stays within
    60° of a reference frame A, Y = QQᵀA M with Ṁ = −(QᵀA)⁻¹ QᵀG(A − QQᵀA) M, Q the closed-form basis and G =
    −4Λ, of which any multiple of I may be taken off. The right side vanishes as the span converges.
    """
    subspace = OjaSubspace(frame, eigvals)
    growth, z = subspace.growth[:, None], frame.shape[1]
    growth = growth - (growth.max() + growth.min()) / 2  # less to lose digits in
    result = np.empty((len(times), *frame.shape))
    now, end, done = 0.0, float(times[-1]), 0
    scale = max(float(np.abs(growth).max()), 1e-300)
    while done < len(times) and times[done] == 0.0:
        result[done] = frame
        done += 1
    reference = frame
    while done < len(times):

        def velocity(t: float, flat: Array, reference: Array = reference) -> Array:
            q = subspace.basis(t)
            overlap = q.T @ reference
            pull = q.T @ (growth * (reference - q @ overlap))
            return -(np.linalg.solve(overlap, pull) @ flat.reshape(z, z)).ravel()

        def far(t: float, _: Array, reference: Array = reference) -> float:
            return float(np.linalg.svd(subspace.basis(t).T @ reference, compute_uv=False)[-1]) - 0.5

        far.terminal = True  # type: ignore[attr-defined]
        ahead = times[done:]
        solution = solve_ivp(
            velocity, (now, end), np.eye(z).ravel(), method="DOP853", t_eval=ahead, events=far,
            rtol=1e-13, atol=1e-14, first_step=min(0.01 / scale, end - now),
        )  # fmt: skip
        if solution.status < 0:
            raise RuntimeError(f"DOP853 stopped: {solution.message}")
        for t, flat in zip(solution.t, np.asarray(solution.y).T, strict=True):  # empty before an event
            result[done] = _onto(subspace.basis(t), reference, flat.reshape(z, z))
            done += 1
        if solution.status == 1:
            now = float(solution.t_events[0][0])
            reference = _onto(subspace.basis(now), reference, solution.y_events[0][0].reshape(z, z))
    return result


def _onto(q: Array, reference: Array, mixing: Array) -> Array:
    """The frame QQᵀA M, made orthonormal: only its rotation comes from the integrator, its span is closed form."""
    u, _, vh = np.linalg.svd(q.T @ reference @ mixing)
    return np.asarray(q @ (u @ vh))


def single(state: FrameState, eigvals: Tensor, times: Tensor, kappa: float) -> FrameState:
    """[q; R](t) for z = 1 and any κ: q = √s p/|p| with p = e^{−Λσ}q0 and s⁴/(1 − s)^{2+κ} = |p|⁸/(1 − s0)^{2+κ}.

    s = |q|², dσ = (4 − (2 − κ)s) dt: one scalar equation for the reparametrised time σ(t); σ = 4t for κ = 2.
    (κ = 0: s = (−K + √(K² + 4K))/2 with K = |p|⁴/(1 − s0).) All logarithms, so any t. Leading batch
    dimensions one by one; q (T, …, d, 1), R (T, …, k, 1).
    """
    points = as_times(times)
    lam = eigvals.detach().double().cpu().numpy()
    batch, d = state.m.shape[:-2], state.m.shape[-2]
    q0 = state.m.reshape(-1, d).cpu().numpy()
    e0 = state.r.square().sum((-2, -1)).reshape(-1).cpu().numpy()  # 1 − s0 without cancellation
    solved = [_single(q, float(e), lam, points.numpy(), kappa) for q, e in zip(q0, e0, strict=True)]
    q, rest = (np.stack([run[part] for run in solved], axis=1) for part in (0, 1))
    m = torch.from_numpy(q).reshape(len(points), *batch, d, 1).to(state.m.device)
    share = torch.from_numpy(rest).reshape(len(points), *batch, 1, 1).to(state.m.device)
    return FrameState(m, share * state.r, float(points[-1]))


def _single(q0: Array, e0: float, lam: Array, times: Array, kappa: float) -> tuple[Array, Array]:
    """q (T, d), and √((1 − s)/(1 − s0)) (T,), by which R has grown."""
    if not q0.any():
        return np.zeros((len(times), len(q0))), np.ones(len(times))
    with np.errstate(divide="ignore"):
        log_q0 = np.log(np.abs(q0))
    log_e0 = np.log(e0) if e0 > 0 else -np.inf

    def log_p(sigma: float) -> tuple[Array, float]:
        exponents = log_q0 - lam * sigma
        top = exponents.max()
        return exponents, float(top + 0.5 * np.log(np.exp(2 * (exponents - top)).sum()))

    def sizes(sigma: float) -> tuple[float, float]:
        """s and 1 − s at σ: 4 log s − (2 + κ) log(1 − s) = 8 log|p| − (2 + κ) log(1 − s0), by Newton on logit(s)."""
        if e0 <= 0:
            return 1.0, 0.0
        target = 8.0 * log_p(sigma)[1] - (2.0 + kappa) * log_e0
        # 4 log s − (2+κ) log(1−s) lies between 4y and (2+κ)y at logit y: a starting point on the right side
        # of both.
        y = target / (2.0 + kappa) if target > 0 else target / 4.0
        for _ in range(100):
            log_s, log_rest = -np.logaddexp(0.0, -y), -np.logaddexp(0.0, y)
            residual = 4.0 * log_s - (2.0 + kappa) * log_rest - target
            change = residual / (4.0 * np.exp(log_rest) + (2.0 + kappa) * np.exp(log_s))
            y -= change
            if abs(change) < 1e-15 * max(1.0, abs(y)):
                break
        return float(np.exp(-np.logaddexp(0.0, -y))), float(np.exp(-np.logaddexp(0.0, y)))

    if kappa == 2.0 or times[-1] == 0.0:
        sigmas = 4.0 * times
    else:
        solution = solve_ivp(
            lambda _, sigma: [4.0 - (2.0 - kappa) * sizes(sigma[0])[0]], (0.0, float(times[-1])), [0.0],
            method="DOP853", t_eval=times, rtol=1e-13, atol=1e-14,
            max_step=float(times[-1]) / 50,
        )  # fmt: skip
        sigmas = solution.y[0]
    rows, shares = [], []
    for sigma in sigmas:
        exponents, log_norm = log_p(float(sigma))
        s, rest = sizes(float(sigma))
        rows.append(np.sqrt(s) * np.sign(q0) * np.exp(exponents - log_norm))
        shares.append(math.sqrt(rest / e0) if e0 > 0 else 0.0)
    return np.stack(rows), np.array(shares)
