"""Flows whose constraint caps singular values, where ties are the rule: operator-norm balls and the scaled loss.

At a Haar start every singular value of W1 sits on the cap at once, and the tangent cone there is that of the
cone of positive semidefinite matrices; `extrapolate` says how such flows are stepped. H1 stays flat outside a
few directions, so that a step costs O(d (r + 2z)²) with r around ten or twenty, not a d×d eigenproblem.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sslmanifold.theory.flows.extrapolate import ExtrapolatedFlow
from sslmanifold.theory.gradient import loss_at
from sslmanifold.theory.moment_product import Moment, moment_product
from sslmanifold.theory.state import two_layers

# Eigenvalues this close to the cap (relative) are on it and leave the stored basis.
_AT_CAP = 1e-12
# At the start the same of float32 weights: left as they are, their rounding would make every direction one of its own.
_ROUNDING = 4e-6


class Spiked(NamedTuple):
    """H = base (I − UUᵀ) + U diag(σ) Uᵀ: a Gram matrix that is flat except for a few directions U (d, r)."""

    base: Tensor
    u: Tensor
    sigma: Tensor

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.base * x + self.u @ ((self.sigma - self.base)[:, None] * (self.u.mT @ x))

    def trace(self) -> Tensor:
        """Tr H."""
        return self.sigma.sum() + (self.u.shape[0] - self.u.shape[1]) * self.base


class Run(NamedTuple):
    """One run's (m, H1, H2), H1 spiked."""

    m: Tensor
    h1: Spiked
    h2: Tensor


class Runs(NamedTuple):
    """Independent runs and the leading shape that they fill; solved in turn, since their ranks r differ."""

    runs: tuple[Run, ...]
    batch: tuple[int, ...]

    @property
    def m(self) -> Tensor:
        """(…, d, z)."""
        if not self.batch:
            return self.runs[0].m
        return torch.stack([run.m for run in self.runs]).reshape(*self.batch, *self.runs[0].m.shape)


class CappedFlow(ExtrapolatedFlow[Runs]):
    """Base: W1 and W2 move along their free gradients and then have their singular values capped."""

    def _begin(self, *weights: Tensor) -> Runs:
        gram = two_layers(*weights)
        singles = zip(*(x.reshape(-1, *x.shape[-2:]) for x in gram[:3]), strict=True)
        return Runs(tuple(self._settle(m, h1, h2) for m, h1, h2 in singles), tuple(gram.m.shape[:-2]))

    def _move(self, layers: Runs, dt: float, moment: Moment) -> Runs:
        return Runs(tuple(self._move_run(run, dt, moment) for run in layers.runs), layers.batch)

    @abstractmethod
    def _settle(self, m: Tensor, h1: Tensor, h2: Tensor) -> Run:
        """The spiked state of dense Gram matrices, put on the constraint."""

    @abstractmethod
    def _speed(self, run: Run) -> Tensor:
        """s in g = −2 s C m."""

    @abstractmethod
    def _caps(self, run: Run, loss: Tensor, pull: Tensor, dt: float) -> tuple[Cap, Cap]:
        """How W1's and W2's squared singular values are capped after this step, by L and ½⟨m, ∂L/∂m⟩ (equal for C)."""

    def _move_run(self, run: Run, dt: float, moment: Moment) -> Run:
        """One training step of size dt in Gram variables: W1 += dt W2 gᵀ, W2 += dt W1 g, cap both spectra."""
        m, h1, h2 = run
        z = m.shape[1]
        cm = moment_product(moment, m)
        g = -2 * self._speed(run) * cm
        h1g, mg = h1 @ g, m.mT @ g
        pull = (m * cm).sum()
        cap1, cap2 = self._caps(run, loss_at(moment, m, cm), pull, dt)

        directions = torch.cat([m, g], 1)  # (d, 2z)
        basis = _extend(h1.u, directions)  # (d, k)
        inside = basis.mT @ directions  # (k, 2z)
        change = torch.zeros(2 * z, 2 * z, dtype=m.dtype, device=m.device)
        change[:z, z:] = change[z:, :z] = dt * torch.eye(z, dtype=m.dtype, device=m.device)
        change[z:, z:] = dt**2 * h2
        small = inside @ change @ inside.mT
        flat = h1.base.expand(basis.shape[1] - h1.sigma.shape[0])
        small.diagonal().add_(torch.cat([h1.sigma, flat]))
        s1, w = torch.linalg.eigh(small)
        s1 = s1.clamp_min(0)
        squared, base, factor, base_factor = cap1(s1, h1.base, basis.shape[0] - basis.shape[1])
        u = basis @ w  # (d, k)

        s2, v = torch.linalg.eigh(h2 + dt * (mg + mg.mT) + dt**2 * (g.mT @ h1g))
        s2 = s2.clamp_min(0)
        squared2, _, factor2, _ = cap2(s2, s2.new_zeros(()), 0)

        moved = m + dt * (g @ h2 + h1g) + dt**2 * (g @ mg)
        moved = base_factor * moved + u @ ((factor - base_factor)[:, None] * (u.mT @ moved))
        moved = (moved @ v) * factor2 @ v.mT
        kept = (squared - base).abs() > _AT_CAP * base
        return Run(moved, Spiked(base, u[:, kept], squared[kept]), (v * squared2) @ v.mT)


class Cap:
    """Turns squared singular values into capped ones, and the factors on the singular values that do it."""

    def __call__(
        self, squared: Tensor, base: Tensor, copies: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """(k,) values and ``copies`` more at ``base`` -> capped values, capped base, and their factors."""
        level = self.level(squared, base, copies)
        capped, base_capped = torch.minimum(squared, level), torch.minimum(base, level)
        factor = torch.where(squared > level, (level / squared).sqrt(), torch.ones_like(squared))
        base_factor = torch.where(base > level, (level / base).sqrt(), torch.ones_like(base))
        return capped, base_capped, factor, base_factor

    def level(self, squared: Tensor, base: Tensor, copies: int) -> Tensor:
        """The cap."""
        raise NotImplementedError


def spiked(h: Tensor, base: Tensor) -> Spiked:
    """Dense positive semidefinite H (d, d) with no eigenvalue above ``base``, cleaned of float32's rounding at it."""
    sigma, u = torch.linalg.eigh(h)
    kept = sigma < base * (1 - _ROUNDING)
    return Spiked(base, u[:, kept], sigma[kept].clamp_min(0))


def _extend(u: Tensor, directions: Tensor) -> Tensor:
    """Orthonormal basis (d, k) of span(U, directions), U orthonormal (d, r) first."""
    if u.shape[1] >= u.shape[0]:
        return u
    scaled = directions / directions.norm(dim=0).clamp_min(1e-300)
    rest = scaled - u @ (u.mT @ scaled)
    left, s, _ = torch.linalg.svd(rest, full_matrices=False)
    left = left[:, s > 1e-13][:, : u.shape[0] - u.shape[1]]
    # A direction nearly inside U comes out of the subtraction with rounding along U: take it off once more.
    left = left - u @ (u.mT @ left)
    left, _ = torch.linalg.qr(left)
    return torch.cat([u, left], 1)
