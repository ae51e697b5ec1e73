"""What a run will end at, how fast, and the largest step it allows (Theorem 3, Conjecture 2, Propositions 2–3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslmanifold.errors import UserError


def limit_rank(eigvals: Tensor, embedding: int, hidden: int | None = None) -> int:
    """Rank of lim qqᵀ under orthogonality: max(min(z, m), d + z − h), m the number of negative eigenvalues.

    ``hidden=None``: h ≥ d + z. Eigenvalues (d,). UserError for h < d or h < z.
    """
    d, z = eigvals.shape[-1], embedding
    m = int((eigvals < 0).sum())
    return max(min(z, m), _forced(d, z, hidden))


def optimum(
    eigvals: Tensor, embedding: int, hidden: int | None = None, *, forced: int | None = None
) -> Tensor:
    """L* = Σ_{i ≤ max(min(z, m), d + z − h)} λ_i: the smallest Tr(qᵀΛq) under orthogonality.

    Conjecture 2 and Prop. 3 item 4 give Σ_{i ≤ min(z, m)} λ_i, which holds for h ≥ d + z − m; a narrower net
    has d + z − h unit singular values whatever it does, and must spend them.

    Args:
        eigvals: Λ (…, d) in any order; leading batch dimensions allowed.
        embedding: z ≥ 1.
        hidden: h; None assumes h ≥ d + z.
        forced: d + z − h given directly, for a partial spectrum (the lowest eigenvalues alone).

    Returns:
        L* (…), float64, in the units of C as differentiated.

    Raises:
        UserError: z < 1, h < d or h < z.
    """
    if embedding < 1:
        raise UserError(f"embedding={embedding} must be at least 1: set embedding=1")
    values = torch.as_tensor(eigvals).to(torch.float64).sort(-1).values
    if forced is None:
        forced = _forced(values.shape[-1], embedding, hidden)
    rank = torch.arange(values.shape[-1], device=values.device)
    used = ((rank < embedding) & (values < 0)) | (rank < forced)
    return torch.where(used, values, torch.zeros_like(values)).sum(-1)


def frobenius_optimum(eigvals: Tensor, c1: float = 1.0, c2: float = 1.0) -> Tensor:
    """min over ‖W1‖_F ≤ c1, ‖W2‖_F ≤ c2 of Tr(mᵀCm) = c1²c2² min(λ1, 0), reached at rank 1 (Prop. 2): (…)."""
    lowest = torch.as_tensor(eigvals).to(torch.float64).amin(-1)
    return (c1 * c2) ** 2 * lowest.clamp_max(0)


def operator_norm_optimum(eigvals: Tensor, embedding: int, c1: float = 1.0, c2: float = 1.0) -> Tensor:
    """min over ‖W_i‖₂ ≤ c_i of Tr(mᵀCm) = c1²c2² Σ_{i ≤ min(z, m)} λ_i (Prop. 3 items 1–3): (…)."""
    return (c1 * c2) ** 2 * optimum(eigvals, embedding)


def limit_subspace(
    eigvals: Tensor, embedding: int, hidden: int | None = None, eigvecs: Tensor | None = None
) -> Tensor:
    """Orthonormal basis (d, rank) of the span that the columns of q converge to (Conjecture 2, Theorem 3).

    The eigenvectors of the `limit_rank` smallest eigenvalues (d,), in the eigenbasis, or in the data basis
    when ``eigvecs`` (d, d) is given. Ties across the boundary leave the limit dependent on the start; raises
    UserError for them.
    """
    rank = limit_rank(eigvals, embedding, hidden)
    order = torch.argsort(eigvals)
    d = eigvals.shape[-1]
    if 0 < rank < d:
        gap = float(eigvals[order[rank]] - eigvals[order[rank - 1]])
        if gap <= 1e-12 * float(eigvals.abs().max()):
            raise UserError(
                f"eigenvalues {rank} and {rank + 1} are equal: the limit subspace depends on the start; "
                "solve() from your q0 instead"
            )
    basis = torch.eye(d, dtype=torch.float64, device=eigvals.device) if eigvecs is None else eigvecs.double()
    return basis[:, order[:rank]]


@dataclass(frozen=True)
class Rates:
    """Exponential rates of approach to the limit, per unit of time (Σ lr); inf where nothing has to converge.

    span: (2 + κ)(λ_{r+1} − λ_r), the angle between span(q) and its limit (rank r);
    radial: 8 min |λ_i| over the limit's eigenvalues, the singular values reaching 1 (1 − σ²);
    excess: 4 λ_{m+1}, the columns with nothing negative left to find dying out (m < z).
    """

    span: float
    radial: float
    excess: float

    @property
    def slowest(self) -> float:
        """The rate that decides how long a run takes."""
        return min(self.span, self.radial, self.excess)


def rates(eigvals: Tensor, embedding: int, hidden: int | None = None, kappa: float = 0.0) -> Rates:
    """Convergence rates from the eigen-gaps, Λ (d,): see `Rates`. A zero rate means algebraic, not exponential.

    With h ≥ d + z every singular value is free; d + z − h of them are 1 from the start for a narrower net and
    have no radial rate.
    """
    values = eigvals.to(torch.float64).sort().values
    d, z = values.shape[0], embedding
    forced = _forced(d, z, hidden)
    rank = limit_rank(values, z, hidden)
    m = int((values < 0).sum())
    span = math.inf if rank in (0, d) else (2 + kappa) * float(values[rank] - values[rank - 1])
    free = min(z, m) - forced
    radial = 8 * float(-values[min(z, m) - 1]) if free > 0 else math.inf
    excess = 4 * float(values[rank]) if rank < z and rank < d else math.inf
    return Rates(span, radial, excess)


def largest_stable_step(eigvals: Tensor, kappa: float = 0.0) -> float:
    """Euler's limit min{1/(4|λ1|), 2/((2 + κ)(λd − λ1))} near the minimum: training diverges from it above; Λ (d,).

    1/(4‖Λ‖₂) is safe for any κ ≤ 2; inf for C = 0.
    """
    low, high = float(eigvals.min()), float(eigvals.max())
    spread = high - low
    radial = 1 / (4 * abs(low)) if low != 0 else math.inf
    span = 2 / ((2 + kappa) * spread) if spread > 0 else math.inf
    return min(radial, span)


def largest_stable_head_step(eigvals: Tensor) -> float:
    """1/(λd − λ1): above it gradient steps of a head W ∈ St(d, z), z < d, leave the optimum; Λ (d,).

    A component along v_i in the column at v_j is multiplied by 1 − 2η(λ_i − λ_j) a step. inf for C a multiple of I.
    """
    spread = float(eigvals.max()) - float(eigvals.min())
    return 1 / spread if spread > 0 else math.inf


def default_step(eigvals: Tensor, c1: float = 1.0, c2: float = 1.0) -> float:
    """1/(20 ‖Λ‖₂ max(1, c1², c2²)), the step that ``optimizer.lr=auto`` takes; Λ (d,) as differentiated.

    UserError for C = 0, which leaves nothing to learn.
    """
    norm = float(eigvals.abs().max())
    if not norm > 0 or not math.isfinite(norm):
        raise UserError(
            f"‖C‖₂ = {norm}: there is nothing to learn from; check the pairs, or set optimizer.lr=0.01"
        )
    return 1 / (20 * norm * max(1.0, c1**2, c2**2))


def _forced(d: int, z: int, hidden: int | None) -> int:
    if hidden is None:
        return 0
    if hidden < d or hidden < z:
        raise UserError(
            f"orthogonality needs hidden ≥ d and hidden ≥ z, got hidden={hidden}, d={d}, z={z}: "
            f"set model.hidden={max(d, z)}"
        )
    return max(0, d + z - hidden)
