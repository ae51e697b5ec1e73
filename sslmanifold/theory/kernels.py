"""Naive SSL dynamics of linear and kernel machines (Eqs. 4–5, Lemma 1, Prop. 1), and empirical tangent kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, expm_multiply
from torch import Tensor, nn

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import as_times

Kernel = Callable[[Tensor, Tensor], Tensor]


def linear_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, x') = xᵀx' (Lemma 1, linear case; also the tangent kernel of the two-layer linear net at
    orthonormal weights).

    (…, n, d), (…, k, d) -> (…, n, k).
    """
    return x @ y.mT


def rbf_kernel(bandwidth: float = 1.0) -> Kernel:
    """k(x, x') = exp(−|x − x'|²/(2 bandwidth²))."""
    if not bandwidth > 0:
        raise UserError(f"bandwidth={bandwidth} must be above 0")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))

    return kernel


@dataclass(frozen=True)
class KernelDynamics:
    """The linear system of Eqs. 4–5 for all points at once: u̇_l = A u_l with the same A for every component l.

    points: (N, d) = anchors, positives, negatives (then any others) stacked; generator A (N, N), float64.
    Solve with `solve`: u(t) = e^{At} u(0).
    """

    points: Tensor
    generator: Tensor

    def velocity(self, u: Tensor) -> Tensor:
        """u̇ (…, N, z) = A u."""
        return self.generator @ u

    def solve(self, u0: Tensor, times: Tensor | Iterable[float]) -> Tensor:
        """u(t) = e^{At} u0 at times (T,), by the action of the matrix exponential: u0 (N, z) -> (T, N, z).

        Time is Σ lr. Grows without bound like e^{μt}, μ the top eigenvalue of A; for long times use
        `directions`.
        """
        return self._propagate(u0, times, normalise=False)

    def directions(self, u0: Tensor, times: Tensor | Iterable[float]) -> Tensor:
        """u(t)/‖u(t)‖_F at times (T,): finite whatever the growth."""
        return self._propagate(u0, times, normalise=True)

    def collapse(self, u0: Tensor, times: Tensor | Iterable[float]) -> Tensor:
        """σ2/σ1 of u(t) (T,): the content of Prop. 1, → 0 as all components follow the same top mode (z ≥ 2)."""
        sigma = torch.linalg.svdvals(self.directions(u0, times))
        if sigma.shape[-1] < 2:
            raise UserError("collapse needs at least two components: give u0 as (N, z) with z ≥ 2")
        return sigma[:, 1] / sigma[:, 0]

    def _propagate(self, u0: Tensor, times: Tensor | Iterable[float], *, normalise: bool) -> Tensor:
        points = as_times(times)
        if u0.ndim != 2 or u0.shape[0] != self.generator.shape[0]:
            raise UserError(
                f"u0 of shape {tuple(u0.shape)}: give one row for each of the {len(self.points)} points"
            )
        matrix = self.generator.cpu().numpy()
        u, now, out = u0.detach().double().cpu().numpy(), 0.0, []
        longest = 300.0 / max(
            float(np.abs(matrix).sum(0).max()), 1e-300
        )  # growth below e^300 between rescalings
        for t in points.tolist():
            while now < t:
                leap = min(t - now, longest) if normalise else t - now
                u = expm_multiply(matrix * leap, u)
                now = t if leap == t - now else now + leap
                if normalise:
                    u = u / np.linalg.norm(u)
            out.append(torch.from_numpy(np.array(u / np.linalg.norm(u) if normalise else u)))
        return torch.stack(out).to(self.generator.device)


def kernel_dynamics(
    x: Tensor, positives: Tensor, negatives: Tensor | None = None, *, kernel: Kernel = linear_kernel,
    queries: Tensor | None = None,
) -> KernelDynamics:  # fmt: skip
    """Eqs. 4–5 for u(x) = Θψ(x), k = ⟨ψ, ψ⟩ (loss summed as in Eqs. 1–2, whose gradient flow this is):

        u̇_l(x) = Σ_i k(x, x_i)(u_l(x⁺_i) − u_l(x⁻_i)) + (k(x, x⁺_i) − k(x, x⁻_i)) u_l(x_i),

    without the x⁻ terms in the non-contrastive case (Eq. 4). x, positives, negatives (n, d); queries (k, d)
    are further points to follow. The system lives on the stacked points, in that order. UserError for shapes
    that differ.
    """
    parts = [x, positives] + ([] if negatives is None else [negatives])
    if any(p.shape != x.shape for p in parts) or x.ndim != 2:
        raise UserError(
            "anchors, positives and negatives must all be (n, d): one positive and one negative each"
        )
    n = x.shape[0]
    points = torch.cat(parts + ([] if queries is None else [queries])).to(torch.float64)
    k = kernel(points, points[: n * len(parts)])
    generator = torch.zeros(len(points), len(points), dtype=torch.float64, device=points.device)
    anchor, plus = slice(0, n), slice(n, 2 * n)
    generator[:, plus] += k[:, anchor]
    generator[:, anchor] += k[:, plus]
    if negatives is not None:
        minus = slice(2 * n, 3 * n)
        generator[:, minus] -= k[:, anchor]
        generator[:, anchor] -= k[:, minus]
    return KernelDynamics(points, generator)


def linear_dynamics(theta0: Tensor, moment: Tensor, times: Tensor | Iterable[float]) -> Tensor:
    """Θ(t) = Θ0 e^{−2Ct} of the one-layer linear model u = Θx: theta0 (z, d), C (d, d) -> (T, z, d) (Prop. 1)."""
    points = as_times(times)
    theta = theta0.detach().double().cpu().numpy().T
    matrix = -2 * moment.detach().double().cpu().numpy()
    out, now = [], 0.0
    for t in points.tolist():
        theta = expm_multiply(matrix * (t - now), theta) if t > now else theta
        now = t
        out.append(torch.from_numpy(np.ascontiguousarray(theta.T)))
    return torch.stack(out).to(theta0.device)


def linear_dynamics_operator(
    theta0: Tensor, operator: LinearOperator, times: Tensor | Iterable[float], trace: float = 0.0
) -> Tensor:
    """The same through C's products only (`MomentOperator.linear_operator`), ``trace`` = Tr C if known: (T, z, d)."""
    points = as_times(times)
    theta, out, now = theta0.detach().double().cpu().numpy().T, [], 0.0
    for t in points.tolist():
        if t > now:
            leap = -2 * (t - now)
            theta = expm_multiply(leap * operator, theta, traceA=leap * trace)
        now = t
        out.append(torch.from_numpy(np.ascontiguousarray(theta.T)))
    return torch.stack(out)


def empirical_ntk(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """⟨∇_Θ u_l(x), ∇_Θ u_j(y)⟩ for all pairs (Lemma 1): (n, d), (k, d) -> (n, k, z, z), through torch.func.

    Any model that maps (n, d) to (n, z); all its trainable parameters. Lemma 1's form is δ_lj k(x, y):
    compare with `interaction`. Jacobians of n + k samples are held at once.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = dict(model.named_buffers())

    def output(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, ({**params, **frozen}, buffers), (sample[None],))[0]

    def jacobian(samples: Tensor) -> Tensor:
        per_parameter = torch.func.vmap(torch.func.jacrev(output), (None, 0))(parameters, samples)
        return torch.cat([j.flatten(2) for j in per_parameter.values()], -1)  # (n, z, parameters)

    first = jacobian(x)
    second = first if y is None else jacobian(y)
    return torch.einsum("nlp,kjp->nklj", first, second)


def interaction(ntk: Tensor) -> float:
    """Share of the tangent kernel (n, k, z, z) that couples different outputs, ‖off-diagonal‖_F/‖K‖_F: 0 in Lemma 1."""
    z = ntk.shape[-1]
    off = ntk * (1 - torch.eye(z, dtype=ntk.dtype, device=ntk.device))
    return float(off.norm() / ntk.norm())
