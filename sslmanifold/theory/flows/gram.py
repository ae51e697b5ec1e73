"""Flows on (m, H1, H2): the gradient flow of a two-layer linear net closes on its Gram matrices, whatever its width.

With Ẇ1 = W1 X11 + W2 gᵀ and Ẇ2 = W1 g + W2 X22,

    ṁ = X11 m + g H2 + H1 g + m X22,  Ḣ1 = H1 X11 + m gᵀ + (·)ᵀ,  Ḣ2 = H2 X22 + mᵀg + (·)ᵀ,

and every constraint here has g = −2 s C m with a scalar s (−s ∂L/∂m for any loss), and symmetric X11, X22 of low
rank or a multiple of I.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.gradient import tableau
from sslmanifold.theory.moment_product import Moment, symmetric_product
from sslmanifold.theory.state import GramState, two_layers


class Generators(NamedTuple):
    """What drives a Gram state: g (…, d, z); X11 = α1 I + U Z Uᵀ (α1 (…,), U (…, d, k), Z (…, k, k)); X22 (…, z, z)."""

    g: Tensor
    alpha1: Tensor | None = None
    u: Tensor | None = None
    z: Tensor | None = None
    x22: Tensor | None = None


class LowRankUpdated(NamedTuple):
    """H = scale·base + L Rᵀ + R Lᵀ: a d×d Gram matrix inside a Runge–Kutta step, whose stages never form it."""

    base: Tensor
    scale: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None

    def __matmul__(self, x: Tensor) -> Tensor:
        out = symmetric_product(self.base, x)
        if self.scale is not None:
            out = self.scale[..., None, None] * out
        if self.left is not None and self.right is not None:
            out = out + self.left @ (self.right.mT @ x) + self.right @ (self.left.mT @ x)
        return out

    def trace(self) -> Tensor:
        """Tr H (…)."""
        out = self.base.diagonal(dim1=-2, dim2=-1).sum(-1)
        if self.scale is not None:
            out = self.scale * out
        if self.left is not None and self.right is not None:
            out = out + 2 * (self.left * self.right).sum((-2, -1))
        return out

    def dense(self) -> Tensor:
        """H (…, d, d)."""
        out = self.base if self.scale is None else self.scale[..., None, None] * self.base
        if self.left is None or self.right is None:
            return out
        left, right = torch.cat([self.left, self.right], -1), torch.cat([self.right, self.left], -1)
        if out.ndim == 2:
            return torch.addmm(out, left, right.mT)
        return out + left @ right.mT


class GramFlow(Flow[GramState]):
    """Base of the flows on `GramState`: RK4 in the Gram variables (`tableau`), O(d² z) a step."""

    holds_gram = True

    def start(self, *weights: Tensor) -> GramState:
        """State of W1 (…, h, d), W2 (…, h, z) at time 0: any widths."""
        return self._settle(two_layers(*weights), self.moment)

    @abstractmethod
    def _generators(self, m: Tensor, h1: LowRankUpdated, h2: Tensor, moment: Moment) -> Generators:
        """g, X11, X22 at a state."""

    def _settle(self, state: GramState, moment: Moment) -> GramState:
        """Put a state that a step has moved off the constraint (by its error, or by reaching it) back on."""
        return state

    def _velocity(
        self, m: Tensor, h1: LowRankUpdated, h2: Tensor, moment: Moment
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        gen = self._generators(m, h1, h2, moment)
        dm = gen.g @ h2 + h1 @ gen.g
        lefts, rights, dscale = [m], [gen.g], None
        dh2 = m.mT @ gen.g
        if gen.alpha1 is not None:
            alpha = gen.alpha1[..., None, None]
            dm = dm + alpha * m
            dscale = 2 * gen.alpha1 * (1.0 if h1.scale is None else h1.scale)
            if h1.left is not None and h1.right is not None:
                lefts.append(2 * alpha * h1.left)
                rights.append(h1.right)
        if gen.u is not None and gen.z is not None:
            dm = dm + gen.u @ (gen.z @ (gen.u.mT @ m))
            lefts.append(h1 @ gen.u @ gen.z)
            rights.append(gen.u)
        if gen.x22 is not None:
            dm = dm + m @ gen.x22
            dh2 = dh2 + h2 @ gen.x22
        return dm, dscale, torch.cat(lefts, -1), torch.cat(rights, -1), dh2 + dh2.mT

    def _crosses(self, before: GramState, after: GramState) -> bool:
        """Whether this step went from inside the constraint to outside: it is then halved a few times."""
        return False

    def _step(self, state: GramState, dt: float, moment: Moment) -> GramState:
        return self._split_step(state, dt, moment, depth=4)

    def _split_step(self, state: GramState, dt: float, moment: Moment, depth: int) -> GramState:
        after = self._runge_kutta(state, dt, moment)
        if depth > 0 and self._crosses(state, after):
            middle = self._split_step(state, dt / 2, moment, depth - 1)
            return self._split_step(middle, dt / 2, moment, depth - 1)
        return self._settle(after, moment)

    def _runge_kutta(self, state: GramState, dt: float, moment: Moment) -> GramState:
        m, h1, h2, time = state
        stages: list[tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]] = []
        method = tableau(moment)
        for fraction in method.fractions:
            if not stages:
                stages.append(self._velocity(m, LowRankUpdated(h1), h2, moment))
                continue
            dm, dscale, left, right, dh2 = stages[-1]
            step = fraction * dt
            scale = None if dscale is None else 1 + step * dscale
            moved = LowRankUpdated(h1, scale, step * left, right)
            stages.append(self._velocity(m + step * dm, moved, h2 + step * dh2, moment))
        weights = [dt * weight for weight in method.weights]
        m = m + sum(w * s[0] for w, s in zip(weights, stages, strict=True))
        h2 = h2 + sum(w * s[4] for w, s in zip(weights, stages, strict=True))
        scales = [w * s[1] for w, s in zip(weights, stages, strict=True) if s[1] is not None]
        h1 = LowRankUpdated(
            h1,
            1 + sum(scales) if scales else None,  # type: ignore[arg-type]
            torch.cat([w * s[2] for w, s in zip(weights, stages, strict=True)], -1),
            torch.cat([s[3] for s in stages], -1),
        ).dense()
        return GramState(m, h1, h2, time + dt)

    def _moved(self, before: GramState | None, after: GramState) -> float:
        """Of all three matrices."""
        if before is None:
            return max(float(x.abs().max()) for x in after[:3])
        return max(float((b - a).abs().max()) for a, b in zip(before[:3], after[:3], strict=True))

    def _stiffness(self, state: GramState) -> float:
        """2(‖H1‖₂ + ‖H2‖₂): how much faster than C itself the map can change."""
        return 2 * (gram_norm(state.h1, state.m) + gram_norm(state.h2, state.m.mT))


def gram_norm(h: Tensor, towards: Tensor) -> float:
    """‖H‖₂ of a positive semidefinite (…, k, k), by power iteration from a mixture of ``towards``; 1 % is enough."""
    if h.shape[-1] <= 16:
        norm = float(torch.linalg.eigvalsh(h)[..., -1].max())
        return norm if norm == norm else float("inf")
    k = h.shape[-1]
    v = torch.cos(torch.arange(k, dtype=h.dtype, device=h.device) ** 2 + 0.5)[:, None]
    t = towards.sum(-1, keepdim=True)
    v = v / v.norm() + t / t.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
    norm = 0.0
    for _ in range(5):
        v = v / v.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
        v = symmetric_product(h, v)
    norm = float(v.norm(dim=(-2, -1)).max())
    return 1.05 * norm if norm == norm else float("inf")
