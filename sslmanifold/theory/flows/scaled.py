"""The loss divided by both squared operator norms (Prop. 3 item 1): the constraint-free form of the same problem."""

from __future__ import annotations

import torch
from torch import Tensor

from sslmanifold.theory.flows.capped import Cap, CappedFlow, Run, Runs, spiked
from sslmanifold.theory.flows.capped_head import CappedHeadFlow, MapLayer, capped
from sslmanifold.theory.flows.extrapolate import ExtrapolatedState
from sslmanifold.theory.gradient import loss_at
from sslmanifold.theory.limits import operator_norm_optimum
from sslmanifold.theory.moment_product import Moment, moment_product


class ScaledFlow(CappedFlow):
    """Gradient flow of Tr(mᵀCm)/(‖W1‖₂² ‖W2‖₂²) (Prop. 3 item 1), ties of the top singular value included.

    With s_i = λmax(H_i), ℓ = Tr(mᵀCm): g = −2Cm/(s1 s2), X11 = (2ℓ/(s1² s2)) Y1, X22 = (2ℓ/(s1 s2²)) Y2,
    where Y_i is positive semidefinite of trace 1 on the top eigenspace of H_i: w wᵀ for a simple one; for a
    tied one (at a Haar start all of it) the one that the flow itself selects, which keeps the tie while that
    is the fastest descent. The step shrinks the top of the spectrum to the level that spends exactly that
    trace, so no tolerance enters.
    """

    name = "scaled"
    step_limit = 0.11

    def _settle(self, m: Tensor, h1: Tensor, h2: Tensor) -> Run:
        top = torch.linalg.eigvalsh(h1)[-1]
        return Run(m, spiked(h1, top), h2)

    def _tops(self, run: Run) -> tuple[Tensor, Tensor]:
        s1 = run.h1.base
        if run.h1.sigma.numel():
            # Nothing is at the base when U is complete.
            complete = run.h1.u.shape[1] == run.h1.u.shape[0]
            s1 = run.h1.sigma.max() if complete else torch.maximum(s1, run.h1.sigma.max())
        return s1, torch.linalg.eigvalsh(run.h2)[-1]

    def _speed(self, run: Run) -> Tensor:
        s1, s2 = self._tops(run)
        return 1 / (s1 * s2)

    def _caps(self, run: Run, loss: Tensor, pull: Tensor, dt: float) -> tuple[Cap, Cap]:
        s1, s2 = self._tops(run)
        budget = 2 * dt * loss / (s1 * s2)
        grown = 4 * dt * (loss - pull) / (s1 * s2)
        first = Shrunk(budget / s1, _longer(run.h1.trace(), grown))
        return first, Shrunk(budget / s2, _longer(run.h2.trace(), grown))

    def _stiffness(self, state: ExtrapolatedState[Runs]) -> float:
        return max(2 * float(1 / s1 + 1 / s2) for s1, s2 in map(self._tops, state.fine.runs))

    def loss(self, state: ExtrapolatedState[Runs]) -> Tensor:
        """Tr(mᵀCm)/(‖W1‖₂² ‖W2‖₂²), the objective as differentiated, extrapolated like m: (…)."""

        def scaled(layers: Runs) -> Tensor:
            tops = torch.stack([torch.stack(self._tops(run)).prod() for run in layers.runs])
            return super(ScaledFlow, self).loss(ExtrapolatedState(layers, layers)) / tops.reshape(
                layers.batch
            )

        return 2 * scaled(state.fine) - scaled(state.coarse)

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """Σ_{i ≤ min(z, m)} λ_i (Prop. 3), for h ≥ min(z, m)."""
        return operator_norm_optimum(self._lowest(min(embedding, self.features)), embedding)


class ScaledHeadFlow(CappedHeadFlow):
    """Gradient flow of L(m)/‖m‖₂² of one layer, ties of the top singular value included.

    With s = ‖m‖₂² and G = ∂L/∂m: ṁ = −G/s + (2L/s²) m Y, Y ⪰ 0 of trace 1 on the right singular vectors at the top, as
    in `ScaledFlow`; d‖m‖²/dt = (4L − 2⟨m, G⟩)/s.
    """

    name = "scaled head"
    step_limit = 0.11

    def _settle(self, m: Tensor) -> Tensor:
        return m

    def _move(self, layers: MapLayer, dt: float, moment: Moment) -> MapLayer:
        m = layers.m
        cm, s = moment_product(moment, m), _top(m)
        loss, pull = loss_at(moment, m, cm), (m * cm).sum((-2, -1))
        budgets, grown = 2 * dt * loss / s**2, 4 * dt * (loss - pull) / s
        lengths = _longer(m.square().sum((-2, -1)), grown)
        caps = [
            Shrunk(budget, length)
            for budget, length in zip(budgets.reshape(-1), lengths.reshape(-1), strict=True)
        ]
        return MapLayer(capped(m - (2 * dt / s)[..., None, None] * cm, caps))

    def _stiffness(self, state: ExtrapolatedState[MapLayer]) -> float:
        return self.rate / float(_top(state.fine.m).min())

    def loss(self, state: ExtrapolatedState[MapLayer]) -> Tensor:
        """L(m)/‖m‖₂², the objective as differentiated, extrapolated like m: (…)."""
        fine, coarse = (loss_at(self.moment, x.m) / _top(x.m) for x in (state.fine, state.coarse))
        return 2 * fine - coarse

    def optimum(self, embedding: int, hidden: int | None = None) -> Tensor:
        """Σ_{i ≤ min(z, m)} λ_i."""
        return operator_norm_optimum(self._lowest(min(embedding, self.features)), embedding)


class Shrunk(Cap):
    """Singular values lowered to a common level x such that Σ (√s_i/x − 1)₊ = −budget, then Tr H restored.

    That is the proximal step of ½ |budget| ‖W‖₂². Growth and budget then balance exactly where the loss is stationary:
    any other first-order rule, such as Σ (1 − x/√s_i)₊, drains the tied values against the rest for as long as
    it runs, since nothing in the objective holds that ratio. The objective does not see the scale of a layer
    either, so the flow conserves ‖W_i‖_F = √(Tr H_i); left to itself the step would lose a little of it each time.
    (A loss that is not of degree two does see it: d‖W_i‖²/dt = (4L − 2⟨m, ∂L/∂m⟩)/(s1 s2).)
    """

    def __init__(self, budget: Tensor, trace: Tensor) -> None:
        self.budget, self.trace = budget, trace

    def __call__(self, squared: Tensor, base: Tensor, copies: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.budget <= 0:
            capped, base_capped, factor, base_factor = super().__call__(squared, base, copies)
        else:
            # A positive loss falls by growing the largest singular value: the flow never ties then.
            factor, base_factor = torch.ones_like(squared), torch.ones_like(base)
            factor[-1] += self.budget
            capped, base_capped = squared * factor**2, base
        ratio = self.trace / (capped.sum() + copies * base_capped)
        return capped * ratio, base_capped * ratio, factor * ratio.sqrt(), base_factor * ratio.sqrt()

    def level(self, squared: Tensor, base: Tensor, copies: int) -> Tensor:
        roots = torch.cat([squared.sqrt(), base.sqrt()[None]])
        weights = torch.cat([torch.ones_like(squared), base.new_tensor([float(copies)])])
        order = torch.argsort(roots, descending=True)
        roots, weights = roots[order], weights[order]
        count, total = weights.cumsum(0), (weights * roots).cumsum(0)
        candidates = total / (count - self.budget)
        # The level is the largest candidate: taking in a value below the level can only lower it.
        candidates = torch.where(count > 0, candidates, torch.zeros_like(candidates))
        return candidates.max() ** 2


def _top(m: Tensor) -> Tensor:
    """‖m‖₂² (…,) of m (…, d, z)."""
    return torch.linalg.eigvalsh(m.mT @ m)[..., -1]


def _longer(trace: Tensor, grown: Tensor) -> Tensor:
    """Tr H after a step that adds ``grown`` to it, to first order, and positive for every step."""
    ratio = grown / trace
    return trace * torch.where(ratio < 0, 1 / (1 - ratio), 1 + ratio)
