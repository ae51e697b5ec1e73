"""Operator-norm balls ‖W_i‖₂ ≤ c_i (Prop. 3 item 2): no collapse, the min(z, m) most negative directions survive."""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.theory.flows.capped import Cap, CappedFlow, Run, spiked
from sslmanifold.theory.flows.capped_head import CappedHeadFlow, MapLayer, capped
from sslmanifold.theory.flows.frobenius import check_radius
from sslmanifold.theory.limits import operator_norm_optimum
from sslmanifold.theory.moment_product import Moment, moment_product


class OperatorNormFlow(CappedFlow):
    """Free flow inside the balls; on the active right singular subspace Va of W1 (H1 = c1² there)

        X11 = −Va [sym(Vaᵀ m X21 Va)]₊ Vaᵀ / c1², X21 = −2 mᵀC, and X22 likewise with mᵀX12, X12 = −2 C m:

    gradient descent followed by clipping the singular values at c_i. Ends at c1²c2² Σ_{i ≤ min(z, m)} λ_i
    (Prop. 3).

    Args:
        moment: C, see `Flow`.
        c1, c2: radii > 0. Weights outside a ball are clipped onto it at the start.
    """

    name = "operator_norm"

    def __init__(self, moment: Moment, c1: float = 1.0, c2: float = 1.0) -> None:
        super().__init__(moment)
        check_radius("c1", c1)
        check_radius("c2", c2)
        self.c1, self.c2 = float(c1), float(c2)

    def _settle(self, m: Tensor, h1: Tensor, h2: Tensor) -> Run:
        s1, u = torch.linalg.eigh(h1)
        s2, v = torch.linalg.eigh(h2)
        bound1, bound2 = m.new_tensor(self.c1**2), m.new_tensor(self.c2**2)
        capped1, capped2 = torch.minimum(s1, bound1), torch.minimum(s2, bound2)
        factor1 = (bound1 / torch.maximum(s1, bound1)).sqrt()
        factor2 = (bound2 / torch.maximum(s2, bound2)).sqrt()
        m = u @ (factor1[:, None] * (u.mT @ m @ v) * factor2) @ v.mT
        return Run(m, spiked((u * capped1) @ u.mT, bound1), (v * capped2) @ v.mT)

    def _speed(self, run: Run) -> Tensor:
        return run.m.new_ones(())

    def _caps(self, run: Run, loss: Tensor, pull: Tensor, dt: float) -> tuple[Cap, Cap]:
        return Fixed(self.c1**2), Fixed(self.c2**2)

    @property
    def rate(self) -> float:  # type: ignore[override]
        """2(‖H1‖₂ + ‖H2‖₂) at most."""
        return 2 * (self.c1**2 + self.c2**2)

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """c1²c2² Σ_{i ≤ min(z, m)} λ_i (Prop. 3), for h ≥ min(z, m)."""
        return operator_norm_optimum(self._lowest(min(embedding, self.features)), embedding, self.c1, self.c2)


class OperatorNormHeadFlow(CappedHeadFlow):
    """One layer in a ball ‖m‖₂ ≤ c: ṁ = −G + m X, G = ∂L/∂m, with Va the right singular vectors of m where σ = c and

        X = −Va [sym(Vaᵀ X0 Va)]₊ Vaᵀ / c²,  X0 = −mᵀG:

    gradient descent followed by clipping the singular values at c. For C it ends at c² Σ_{i ≤ min(z, m)} λ_i.

    Args:
        moment: C, see `Flow`.
        c: radius > 0. A weight outside the ball is clipped onto it at the start.
    """

    name = "operator norm head"

    def __init__(self, moment: Moment, c: float = 1.0) -> None:
        super().__init__(moment)
        check_radius("c1", c)
        self.c = float(c)

    def _settle(self, m: Tensor) -> Tensor:
        return self._clipped(m)

    def _move(self, layers: MapLayer, dt: float, moment: Moment) -> MapLayer:
        return MapLayer(self._clipped(layers.m - 2 * dt * moment_product(moment, layers.m)))

    def _clipped(self, m: Tensor) -> Tensor:
        return capped(m, [Fixed(self.c**2)] * m.shape[:-2].numel())

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """c² Σ_{i ≤ min(z, m)} λ_i."""
        return operator_norm_optimum(self._lowest(min(embedding, self.features)), embedding, self.c)


class Fixed(Cap):
    """Singular values capped at a given radius; ``bound`` is its square."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def level(self, squared: Tensor, base: Tensor, copies: int) -> Tensor:
        return squared.new_tensor(self.bound)
