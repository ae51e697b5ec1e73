"""How a loss enters a flow: C·m where it is Tr(mᵀCm), and ½ ∂L/∂m by autograd where it is any other function of m."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.theory.moment_product import Moment, moment_product

Loss = Callable[[Tensor], Tensor]

# Products that estimate the curvature at the start, and the relative length of their differences.
_PRODUCTS = 8
_DIFFERENCE = {torch.float64: 1e-6, torch.float32: 1e-2}
# A step shorter than this (relative to m) says nothing about curvature.
_TELLING = 1e-4
# How fast a curvature that is not seen again is forgotten, per step.
_FORGET = 0.98


class Unfinished(UserError):
    """A flow takes more evaluations of its loss than it was allowed."""


class Tableau(NamedTuple):
    """A Runge–Kutta method each of whose stages starts from the one before: stage times and weights."""

    fractions: tuple[float, ...]
    weights: tuple[float, ...]


RK4 = Tableau((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
MIDPOINT = Tableau((0.0, 0.5), (0.0, 1.0))


class LossGradient:
    """Any differentiable loss L(m) as a flow takes it, in the place of C: ``gradient @ m`` is ½ ∂L/∂m, as C m would be.

    A linear network's loss depends on its weights through m = W1ᵀW2 alone, so the data enter its gradient flow through
    G = ∂L/∂m and nothing else, whatever the constraint and the width.

    Args:
        loss: m (…, d, z) -> (…,), differentiable by autograd; each entry depends on its own m.
        features: d.
        order: of the steps that a flow takes with it: 4, or 2 at half the evaluations, as far below the error of a
            training step of the same length.
        dtype, device: in and on which the loss is evaluated; states stay float64 where they are.

    Attributes:
        allowed: gradients that may still be asked for, None for any number.

    Raises:
        UserError: for another order, or a dtype other than float32 and float64; from a product, for a loss that does
            not give (…,), does not depend on m, or has no finite gradient.
    """

    def __init__(
        self,
        loss: Loss,
        features: int,
        *,
        order: int = 4,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        if order not in (2, 4):
            raise UserError(f"order={order} is not one of 2 and 4: set order=4")
        if dtype not in _DIFFERENCE:
            kind = str(dtype).removeprefix("torch.")
            raise UserError(
                f"dtype={kind}: a gradient of that precision steers no flow: set dtype=torch.float32"
            )
        self.loss = loss
        self.features = features
        self.dtype, self.device = dtype, device
        self.tableau = RK4 if order == 4 else MIDPOINT
        self.allowed: int | None = None
        self._curvature: float | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def on(self, loss: Loss) -> LossGradient:
        """The same for the loss of another batch, which goes on with what is known of the curvature."""
        order = 4 if self.tableau is RK4 else 2
        other = LossGradient(loss, self.features, order=order, dtype=self.dtype, device=self.device)
        other._curvature, other.allowed = self._curvature, self.allowed
        return other

    def state_dict(self) -> dict[str, object]:
        """What it knows of the path so far, for a checkpoint."""
        last = None if self._last is None else list(self._last)
        return {"curvature": self._curvature, "last": last, "allowed": self.allowed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._curvature, self.allowed = state["curvature"], state.get("allowed", self.allowed)
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])

    def value(self, m: Tensor) -> Tensor:
        """L (…,), float64."""
        with torch.no_grad():
            return self._checked(m.detach().to(self.device, self.dtype)).double().to(m.device)

    def __matmul__(self, m: Tensor) -> Tensor:
        """½ ∂L/∂m (…, d, z), float64."""
        if self._last is not None:  # a flow asks twice at one map: for its rate, and to step
            known, half = self._last
            if known.numel() == m.numel() and torch.equal(known.reshape(m.shape), m):
                return half.reshape(m.shape)
        half = self.gradient(m) / 2
        self._last = (m, half)
        return half

    def recent(self, m: Tensor) -> Tensor:
        """½ ∂L/∂m as last evaluated, close to this m: enough for a sign, at no cost."""
        if self._last is not None and self._last[1].shape == m.shape:
            return self._last[1]
        return self @ m

    def gradient(self, m: Tensor) -> Tensor:
        """∂L/∂m (…, d, z), float64."""
        if self.allowed is not None:
            self.allowed -= 1
            if self.allowed < 0:
                raise Unfinished(
                    "the loss changes too fast on the path: its flow takes ever more evaluations (a singularity, such "
                    "as a norm at 0, or a kink); start elsewhere, or smooth it"
                )
        with torch.enable_grad():
            point = m.detach().to(self.device, self.dtype).requires_grad_()
            value = self._checked(point)
            if not value.requires_grad:
                raise UserError("the loss does not depend on m: write it as a function of its argument")
            (gradient,) = torch.autograd.grad(value.sum(), point)
        if not torch.isfinite(gradient).all():
            raise UserError(
                "the loss has no finite gradient at a map on the path: a singularity, such as a norm at 0; start "
                "elsewhere, or smooth it, u / (‖u‖² + ε)^{1/2}"
            )
        return gradient.to(m.device, torch.float64)

    def norm(self, m: Tensor | None = None) -> float:
        """The rate of the flow at m, in the place of ‖C‖₂: the larger of ½‖∂²L/∂m²‖₂ and ½‖G‖₂/‖m‖₂.

        The curvature comes from a few differences of gradients the first time and from those of successive maps
        afterwards. Largest over leading dimensions; an estimate from below, for choosing sub-steps.
        """
        if m is None:
            if self._curvature is None:
                raise UserError("the curvature of a loss is that at a map: give it, norm(m)")
            return self._curvature
        before = self._last
        half = self @ m
        size = torch.linalg.matrix_norm(m).clamp_min(1e-300)  # (…,)
        if self._curvature is None:
            self._curvature = self._curvature_at(m, half, size)
        elif before is not None and before[0].shape == m.shape:
            moved = torch.linalg.matrix_norm(m - before[0])
            secant = torch.linalg.matrix_norm(half - before[1]) / moved.clamp_min(1e-300)
            secant = secant[moved > _TELLING * size]
            seen = float(secant.max()) if secant.numel() else 0.0
            self._curvature = max(_FORGET * self._curvature, seen)
        return max(self._curvature, float((torch.linalg.matrix_norm(half) / size).max()))

    def _curvature_at(self, m: Tensor, half: Tensor, size: Tensor) -> float:
        """½‖∂²L/∂m²‖₂ by power iteration on differences of gradients."""
        entries = torch.arange(m.shape[-2] * m.shape[-1], dtype=m.dtype, device=m.device)
        direction = torch.cos(entries**2 + 0.5).reshape(m.shape[-2:]).expand(m.shape)
        length = torch.linalg.matrix_norm(direction)
        step = _DIFFERENCE[self.dtype] * size[..., None, None]
        norm = 0.0
        for _ in range(_PRODUCTS):
            direction = direction / length.clamp_min(1e-300)[..., None, None]
            direction = (self.gradient(m + step * direction) / 2 - half) / step
            length = torch.linalg.matrix_norm(direction)
            norm = max(norm, float(length.max()))
        return norm

    def _checked(self, m: Tensor) -> Tensor:
        try:
            value = self.loss(m)
        except RuntimeError as error:
            kind = str(m.dtype).removeprefix("torch.")
            raise UserError(
                f"the loss fails for m of shape {tuple(m.shape)}, {kind}: {error}: give its data as {kind} tensors "
                "that broadcast over leading dimensions, x @ m"
            ) from error
        if not isinstance(value, Tensor) or value.shape != m.shape[:-2]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"the loss maps m of shape {tuple(m.shape)} to {shape}, it must give one number a map, "
                f"{tuple(m.shape[:-2])}: reduce over samples and coordinates alone"
            )
        return value


class SampleLoss:
    """A loss of embeddings as a function of the linear map: m ↦ loss(X m, X⁺ m, X⁻ m), for `solve_loss` and the flows.

    One product embeds all samples: forward and backward cost 6 N d z for N of them, whatever the network's width.

    Args:
        loss: u (…, n, z), u⁺ (…, n, z) or (…, n, p, z), u⁻ likewise or None -> (…,): any of :mod:`sslmanifold.losses`.
        x, positives, negatives: (n, d), (n, d) or (n, p, d), (n, d) or (n, q, d).
        dtype: of the samples, which must be that of the maps it is called with.
        device: of the samples.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        x: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        self.loss = loss
        parts = [part.detach().to(device, dtype) for part in (x, positives, negatives) if part is not None]
        self.rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])  # (N, d)
        self.shapes = [part.shape[:-1] for part in parts]

    def of(self, loss: Callable[..., Tensor]) -> SampleLoss:
        """Another loss of the same samples, which are not copied."""
        other = object.__new__(SampleLoss)
        other.loss, other.rows, other.shapes = loss, self.rows, self.shapes
        return other

    def embeddings(self, m: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """u, u⁺ and u⁻ at m (…, d, z)."""
        split = (self.rows @ m).split([shape.numel() for shape in self.shapes], dim=-2)  # (…, N, z)
        shaped = [
            u.reshape(*u.shape[:-2], *shape, u.shape[-1]) for u, shape in zip(split, self.shapes, strict=True)
        ]
        return shaped[0], shaped[1], shaped[2] if len(shaped) > 2 else None

    def __call__(self, m: Tensor) -> Tensor:
        return self.loss(*self.embeddings(m))


def loss_at(moment: Moment, m: Tensor, product: Tensor | None = None) -> Tensor:
    """L at m (…,): Tr(mᵀCm), with ``product`` = C m where that is known, or the loss of a `LossGradient`."""
    if isinstance(moment, LossGradient):
        return moment.value(m)
    return torch.sum(m * (moment_product(moment, m) if product is None else product), dim=(-2, -1))


def tableau(moment: Moment) -> Tableau:
    """RK4 unless a `LossGradient` asks for fewer evaluations."""
    return moment.tableau if isinstance(moment, LossGradient) else RK4
