"""Frobenius balls ‖W_i‖_F ≤ c_i (Prop. 2) and the loss divided by both Frobenius norms: both collapse to rank 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.flows.gram import Generators, GramFlow, LowRankUpdated
from sslmanifold.theory.flows.head import HeadFlow, MapState
from sslmanifold.theory.gradient import LossGradient, loss_at
from sslmanifold.theory.limits import frobenius_optimum
from sslmanifold.theory.moment_product import Moment, moment_product
from sslmanifold.theory.state import GramState

# A norm this close to its bound is on it.
_ON = 1e-6


class FrobeniusFlow(GramFlow):
    """Free flow inside the balls; on a boundary and moving outward, minus the radial part (Prop. 2).

    X11 = −(ρ/c1²) I where ‖W1‖_F = c1 and ρ = −2 Tr(mᵀCm) > 0, X22 = −(ρ/c2²) I likewise: gradient descent
    followed by scaling back onto the ball. Ends at rank 1 with loss c1²c2² λ1.

    Args:
        moment: C, see `Flow`.
        c1, c2: radii > 0. Weights outside a ball are scaled onto it at the start.
    """

    name = "frobenius"

    def __init__(self, moment: Moment, c1: float = 1.0, c2: float = 1.0) -> None:
        super().__init__(moment)
        check_radius("c1", c1)
        check_radius("c2", c2)
        self.c1, self.c2 = float(c1), float(c2)

    def _generators(self, m: Tensor, h1: LowRankUpdated, h2: Tensor, moment: Moment) -> Generators:
        g = -2 * moment_product(moment, m)
        rho = (m * g).sum((-2, -1)).clamp_min(0)
        on1 = h1.trace() >= self.c1**2 * (1 - 2 * _ON)
        on2 = _trace(h2) >= self.c2**2 * (1 - 2 * _ON)
        zero = torch.zeros_like(rho)
        x22 = torch.where(on2, -rho / self.c2**2, zero)[..., None, None] * _eye_like(h2)
        return Generators(g, alpha1=torch.where(on1, -rho / self.c1**2, zero), x22=x22)

    def _crosses(self, before: GramState, after: GramState) -> bool:
        def crossed(old: Tensor, new: Tensor, bound: float) -> bool:
            return bool(((old < bound * (1 - 2 * _ON)) & (new > bound)).any())

        return crossed(_trace(before.h1), _trace(after.h1), self.c1**2) or crossed(
            _trace(before.h2), _trace(after.h2), self.c2**2
        )

    def _settle(self, state: GramState, moment: Moment) -> GramState:
        m, h1, h2, time = state
        pull = moment.recent(m) if isinstance(moment, LossGradient) else moment_product(moment, m)
        outward = (m * pull).sum((-2, -1)) < 0
        factor1 = _onto(_trace(h1), self.c1**2, outward)
        factor2 = _onto(_trace(h2), self.c2**2, outward)
        return GramState(
            (factor1 * factor2)[..., None, None] * m,
            (factor1**2)[..., None, None] * h1,
            (factor2**2)[..., None, None] * h2,
            time,
        )

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """c1²c2² min(λ1, 0), at rank 1 (Prop. 2)."""
        return frobenius_optimum(self._lowest(1), self.c1, self.c2)


class FrobeniusHeadFlow(HeadFlow):
    """One layer in a ball ‖m‖_F ≤ c: ṁ = −G, on the boundary and moving outward minus the radial part, G = ∂L/∂m.

        ṁ = −G + (⟨G, m⟩/‖m‖²) m  where ‖m‖_F = c and ⟨G, m⟩ < 0:

    gradient descent followed by scaling back onto the ball. For C it is the power flow of e^{−2Ct}, normalised: it ends
    at rank 1 with loss c² λ1.

    Args:
        moment: C, see `Flow`.
        c: radius > 0. A weight outside the ball is scaled onto it at the start.
    """

    name = "frobenius head"

    def __init__(self, moment: Moment, c: float = 1.0) -> None:
        super().__init__(moment)
        check_radius("c1", c)
        self.c = float(c)

    def _feasible(self, m: Tensor) -> Tensor:
        return _within(m, self.c)

    def _velocity(self, start: Tensor, moment: Moment) -> Callable[[Tensor], Tensor]:
        # Asked once a step: inner stages of one along the sphere lie a little inside it.
        held = self._held(start)

        def velocity(m: Tensor) -> Tensor:
            down = -2 * moment_product(moment, m)
            outward = (m * down).sum((-2, -1)).clamp_min(0)
            radial = outward / m.square().sum((-2, -1)).clamp_min(1e-300)
            return down - torch.where(held, radial, torch.zeros_like(radial))[..., None, None] * m

        return velocity

    def _held(self, m: Tensor) -> Tensor:
        """Whether m is on the boundary, (…)."""
        return m.square().sum((-2, -1)) >= self.c**2 * (1 - 2 * _ON)

    def _step(self, state: MapState, dt: float, moment: Moment) -> MapState:
        return self._split_step(state, dt, moment, depth=4)

    def _split_step(self, state: MapState, dt: float, moment: Moment, depth: int) -> MapState:
        """Halved a few times where the boundary is reached on the way."""
        held, after = self._held(state.m), super()._step(state, dt, moment)
        crossed = ~held & (after.m.square().sum((-2, -1)) > self.c**2)
        if depth > 0 and bool(crossed.any()):
            middle = self._split_step(state, dt / 2, moment, depth - 1)
            return self._split_step(middle, dt / 2, moment, depth - 1)
        # what was held and is not let go has left the boundary by the error of the step
        m = after.m
        pull = moment.recent(m) if isinstance(moment, LossGradient) else moment_product(moment, m)
        held &= (m * pull).sum((-2, -1)) < 0
        return MapState(
            torch.where(held[..., None, None], _onto_sphere(m, self.c), _within(m, self.c)), after.time
        )

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """c² min(λ1, 0), at rank 1."""
        return frobenius_optimum(self._lowest(1), self.c)


class FrobeniusScaledFlow(GramFlow):
    """Gradient flow of Tr(mᵀCm)/(‖W1‖_F² ‖W2‖_F²): smooth, conserves both norms, ends at rank 1 with loss λ1.

    With s_i = Tr H_i, ℓ = Tr(mᵀCm): g = −2Cm/(s1 s2), X11 = (2ℓ/(s1² s2)) I, X22 = (2ℓ/(s1 s2²)) I. On the
    Frobenius boundary this is the flow of `FrobeniusFlow` with time divided by c1²c2².
    """

    name = "frobenius_scaled"

    def _generators(self, m: Tensor, h1: LowRankUpdated, h2: Tensor, moment: Moment) -> Generators:
        cm = moment_product(moment, m)
        s1, s2 = h1.trace(), _trace(h2)
        loss = loss_at(moment, m, cm)
        x22 = (2 * loss / (s1 * s2**2))[..., None, None] * _eye_like(h2)
        return Generators((-2 / (s1 * s2))[..., None, None] * cm, alpha1=2 * loss / (s1**2 * s2), x22=x22)

    def _stiffness(self, state: GramState) -> float:
        return super()._stiffness(state) / float((_trace(state.h1) * _trace(state.h2)).min())

    def loss(self, state: GramState) -> Tensor:
        """Tr(mᵀCm)/(‖W1‖_F² ‖W2‖_F²), the objective as differentiated."""
        return loss_at(self.moment, state.m) / (_trace(state.h1) * _trace(state.h2))

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """min(λ1, 0): the scaled loss cannot go lower, and rank 1 reaches it."""
        return frobenius_optimum(self._lowest(1))


def check_radius(name: str, c: float) -> None:
    """Raise UserError unless c is a finite number > 0."""
    if not (c > 0 and c < float("inf")):
        raise UserError(f"{name}={c} must be a finite number above 0: set constraint.{name}=1")


def _onto_sphere(m: Tensor, c: float) -> Tensor:
    """m (…, d, z) scaled to ‖m‖_F = c."""
    return m * (c / torch.linalg.matrix_norm(m, keepdim=True).clamp_min(1e-300))


def _within(m: Tensor, c: float) -> Tensor:
    """m (…, d, z) scaled onto the ball ‖m‖_F ≤ c where it lies outside."""
    return m * (c / torch.linalg.matrix_norm(m, keepdim=True).clamp_min(c))


def _onto(squared: Tensor, bound: float, outward: Tensor) -> Tensor:
    """√(bound/squared) where the norm is above its bound, or a rounding below it and pushed outward; else 1."""
    held = (squared > bound) | (outward & (squared > bound * (1 - 1e-4)))
    return torch.where(held, (bound / squared.clamp_min(1e-300)).sqrt(), torch.ones_like(squared))


def _trace(h: Tensor) -> Tensor:
    return h.diagonal(dim1=-2, dim2=-1).sum(-1)


def _eye_like(h: Tensor) -> Tensor:
    return torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
