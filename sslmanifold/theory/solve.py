"""solve(): the trajectory of Eq. 9's family from q0, by the most exact method at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.closed_form import oja, single
from sslmanifold.theory.flows.base import as_times
from sslmanifold.theory.flows.orthogonal import check_feasible
from sslmanifold.theory.integrate import adaptive, lifted_rk4
from sslmanifold.theory.state import frame_state
from sslmanifold.theory.trajectory import Trajectory

Method = Literal["auto", "closed_form", "adaptive", "lifted_rk4"]

# Above this many numbers an adaptive solver's dense bookkeeping costs more than fixed steps do.
_ADAPTIVE_SIZE = 2_000_000


def solve(
    q0: Tensor,
    eigvals: Tensor,
    times: Tensor | Iterable[float],
    *,
    kappa: float = 0.0,
    hidden: int | None = None,
    method: Method = "auto",
) -> Trajectory:
    """Trajectory of q̇ = −4Λq + (2 − κ)Λq qᵀq + (2 + κ) q qᵀΛq (Eq. 9, Theorem 2) from q0 at time 0.

    Args:
        q0: (…, d, z), ‖q0‖₂ ≤ 1, rows in C's eigenbasis (q = Vᵀm); leading batch dimensions are independent
        runs. eigvals: Λ (d,), in any order.
        times: (T,), finite, ≥ 0, ascending, in units of Σ lr; 0 need not be among them.
        kappa: κ, see `orthogonal_flow`.
        hidden: h; it decides how many singular values of q are forced to be 1 (d + z − h). None assumes h ≥ d
        + z. method: "auto" takes the closed form where there is one (κ = 2; z = 1), else DOP853 on the
            orthonormal frame ("adaptive", rtol 1e-12), else (very large problems) RK4 on it ("lifted_rk4").

    Returns:
        Trajectory with .times (T,), .q (T, …, d, z) float64, .method the method that was used.

    Raises:
        UserError: shapes, NaN, times, ‖q0‖₂ > 1, or a q0 that no weights of this width can have.
    """
    asked = as_times(times)
    points, place = torch.unique_consecutive(asked, return_inverse=True)  # a time may be asked for twice
    eigvals = torch.as_tensor(eigvals).detach().to(torch.float64)
    q0 = torch.as_tensor(q0).detach().to(torch.float64)
    if q0.ndim < 2 or eigvals.ndim != 1 or q0.shape[-2] != eigvals.shape[0]:
        raise UserError(
            f"q0 of shape {tuple(q0.shape)} with eigenvalues of shape {tuple(eigvals.shape)}: "
            "give q0 as (…, d, z) and eigvals as (d,)"
        )
    if not torch.isfinite(q0).all() or not torch.isfinite(eigvals).all():
        raise UserError("q0 or eigvals hold NaN or infinite entries")
    d, z = q0.shape[-2:]
    if hidden is not None:
        check_feasible(hidden, d, z)
    state = frame_state(q0, rows=z if hidden is None else min(z, hidden - d))
    has_closed_form = kappa == 2 or (z == 1 and kappa > -2)
    if method == "auto":
        method = (
            "closed_form" if has_closed_form else "adaptive" if q0.numel() <= _ADAPTIVE_SIZE else "lifted_rk4"
        )
    if method == "closed_form":
        if not has_closed_form:
            raise UserError(f"no closed form for κ = {kappa:g}, z = {z}: use κ = 2, z = 1, or method='auto'")
        solved = single(state, eigvals, points, kappa) if z == 1 else oja(state, eigvals, points)
    elif method == "adaptive":
        solved = adaptive(state, eigvals, points, kappa=kappa)
    elif method == "lifted_rk4":
        solved = lifted_rk4(state, eigvals, points, kappa=kappa)
    else:
        raise UserError(f"unknown method {method!r}: use auto, closed_form, adaptive or lifted_rk4")
    return Trajectory(asked, solved.q[place.to(solved.q.device)], solved.method)
