"""The product constraint ‖W2ᵀW1‖₂ ≤ c (Prop. 3 item 3): its projection, and the flow that the projection induces.

The projection takes the excess of each singular value of m = W1ᵀW2 = U Σ Vᵀ off the map, half from each
layer:

    W1 ← W1 (I − U(I − τ^{1/2})Uᵀ),  W2 ← W2 V τ^{1/2} Vᵀ,  τ = min(1, c/σ),  so that  m ← U min(Σ, c) Vᵀ.

It is idempotent, leaves feasible weights alone, does not see the width or a rotation of the hidden layer, and
treats both layers alike. (The nearest feasible pair in Frobenius norm has no closed form.) A step dt along
the gradient, ṁ0 = g H2 + H1 g with g = −2Cm, moves the active singular values (σ = c, vectors Ua, Va) by dt
times the eigenvalues of M = sym(Uaᵀ ṁ0 Va); the positive ones are projected off. With Z = [M]₊, τ^{1/2} = 1 −
dt Z/(2c) + O(dt²), hence

    X11 = −Ua Z Uaᵀ/(2c),  X22 = −Va Z Vaᵀ/(2c)

in the Gram equations. The minimum is c² Σ_{i ≤ min(z, m)} λ_i, and the balanced W1 u = W2 v is its attractor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.theory.flows.extrapolate import ExtrapolatedFlow, ExtrapolatedState
from sslmanifold.theory.flows.frobenius import check_radius
from sslmanifold.theory.flows.gram import gram_norm
from sslmanifold.theory.limits import optimum
from sslmanifold.theory.moment_product import Moment, moment_product, symmetric_product
from sslmanifold.theory.state import GramState, two_layers


def project_product(w1: Tensor, w2: Tensor, c: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights (…, h, d), (…, h, z) -> nearest in the sense above with ‖W2ᵀW1‖₂ ≤ c (Prop. 3 item 3).

    Any leading batch dimensions; dtype and device kept; differentiable where the singular values differ.
    """
    check_radius("c", c)
    u, sigma, vh = torch.linalg.svd(w1.mT @ w2, full_matrices=False)
    shrink = 1 - (c / sigma.clamp_min(c)).sqrt()  # 1 − τ^{1/2}, (…, k)
    v = vh.mT
    return w1 - (w1 @ u * shrink[..., None, :]) @ u.mT, w2 - (w2 @ v * shrink[..., None, :]) @ vh


class ProductFlow(ExtrapolatedFlow[GramState]):
    """Flow of gradient descent followed by `project_product`: X11 = −Ua Z Uaᵀ/(2c), X22 = −Va Z Vaᵀ/(2c).

    Args:
        moment: C, see `Flow`.
        c: bound on ‖W2ᵀW1‖₂, > 0. Weights outside are projected at the start.
    """

    name = "product"

    def __init__(self, moment: Moment, c: float = 1.0) -> None:
        super().__init__(moment)
        check_radius("c", c)
        self.c = float(c)

    def _begin(self, *weights: Tensor) -> GramState:
        return self._move(two_layers(*weights), 0.0, self.moment)

    def _move(self, layers: GramState, dt: float, moment: Moment) -> GramState:
        """W1 += dt W2 gᵀ, W2 += dt W1 g, then `project_product`, on the Gram matrices: one rank-5z update of H1."""
        m, h1, h2, time = layers
        g = -2 * moment_product(moment, m)
        h1g, mg = symmetric_product(h1, g), m.mT @ g
        moved = m + dt * (g @ h2 + h1g) + dt**2 * (g @ mg)
        squared, v = torch.linalg.eigh(moved.mT @ moved)
        sigma = squared.clamp_min(0).sqrt()
        half = (self.c / sigma.clamp_min(self.c)).sqrt() - 1  # τ^{1/2} − 1, (…, z)
        u = (moved @ v) / sigma.clamp_min(1e-300)[..., None, :] * (half < 0)[..., None, :]
        onto2 = (v * (1 + half)[..., None, :]) @ v.mT

        # H1 before the projection is h1 + m bᵀ + b mᵀ with b below; T = I + U half Uᵀ on both sides of it
        # adds U(half) (H1 U)ᵀ + its transpose + U half (Uᵀ H1 U) half Uᵀ.
        b = dt * g
        outer = dt**2 * (g @ h2)
        h1u = symmetric_product(h1, u) + m @ (b.mT @ u) + b @ (m.mT @ u) + outer @ (g.mT @ u)
        uh = u * half[..., None, :]
        tail = h1u + uh @ (u.mT @ h1u) / 2
        left = torch.cat([m, b, outer, uh, tail], -1)
        right = torch.cat([b, m, g, tail, uh], -1)
        h1 = torch.addmm(h1, left, right.mT) if h1.ndim == 2 else h1 + left @ right.mT
        h2 = onto2 @ (h2 + dt * (mg + mg.mT) + dt**2 * (g.mT @ h1g)) @ onto2
        return GramState((moved + uh @ (u.mT @ moved)) @ onto2, h1, h2, time + dt)

    def _stiffness(self, state: ExtrapolatedState[GramState]) -> float:
        return 2 * (gram_norm(state.fine.h1, state.fine.m) + gram_norm(state.fine.h2, state.fine.m.mT))

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """c² Σ_{i ≤ min(z, m)} λ_i (Prop. 3), for h ≥ min(z, m)."""
        return self.c**2 * optimum(self._lowest(min(embedding, self.features)), embedding)
