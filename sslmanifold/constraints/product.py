"""The product constraint ‖W2ᵀW1‖₂ ≤ c, which bounds the map alone (Proposition 3, item 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import geoopt
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.operator_norm import OperatorNormHeadFlow
from sslmanifold.theory.flows.product import ProductFlow
from sslmanifold.theory.moment_product import Moment


def chain_map(weights: Sequence[Tensor]) -> Tensor:
    """m = W_1ᵀ W_2ᵀ ⋯ W_L of weights (…, h, d), (…, h, h), …, (…, h, z), (…, d, z) in float64."""
    m = weights[-1].double()
    for weight in reversed(weights[:-1]):
        m = weight.double().mT @ m  # (…, h, d) -> (…, d, h) @ (…, h, z)
    return m


def _excess(m: Tensor, c: float) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right singular vectors of m (…, d, z) where σ > c, zero elsewhere, and min(1, c/σ)."""
    squares, v = torch.linalg.eigh(m.mT @ m)  # z×z: no SVD in the training loop
    sigma = squares.clamp_min(0).sqrt()
    outside = sigma > c
    u = (m @ v) * (outside / sigma.clamp_min(c)).unsqueeze(-2)  # (…, d, z)
    return u, v * outside.unsqueeze(-2), c / sigma.clamp_min(c)


@dataclass(kw_only=True)
class Product(Constraint):
    """‖W2ᵀW1‖₂ ≤ c: after a gradient step, singular values of the map above c are cut back to it, half of the
    excess (as a factor) from each layer, or all of it from the one that learns where the other is frozen. The
    derivation is in :mod:`sslmanifold.theory.flows.product`.

    With more than two layers the map is W_Lᵀ⋯W_1, and the first and the last layer give up the excess; there is no
    exact flow. A head is its map: this is the operator-norm ball ‖W‖₂ ≤ c.
    """

    name = "product"

    c: Annotated[float, Field(gt=0)] = 1.0

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        """Free weights: nothing of this is a constraint on one of them."""
        return [geoopt.Euclidean(ndim=2) for _ in shape.matrices]

    def initial(
        self, shape: NetworkShape, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float64
    ) -> list[Tensor]:
        weights = super().initial(shape, generators, torch.float64)
        self.project_jointly(weights)
        return [weight.to(dtype) for weight in weights]

    def project_jointly(self, weights: Sequence[Tensor]) -> None:
        w1, w2 = weights[0], weights[-1]
        u, v, kept = _excess(chain_map(weights), self.c)
        if not bool((kept < 1).any()):
            return
        if len(weights) == 1:  # the map itself
            w1.sub_(((w1.double() @ v * (1 - kept).unsqueeze(-2)) @ v.mT).to(w1.dtype))
            return
        if not (w1.requires_grad or w2.requires_grad) and any(weight.requires_grad for weight in weights):
            raise UserError(
                "constraint=product takes the excess of the map from its first and last layer, and both are frozen: "
                "let one of them learn, or freeze the others too"
            )
        # A frozen layer stays as it is, and the other gives all of the excess.
        alone = w1.requires_grad != w2.requires_grad
        shrink = (1 - (kept if alone else kept.sqrt())).unsqueeze(-2)
        if w1.requires_grad or not alone:
            w1.sub_(((w1.double() @ u * shrink) @ u.mT).to(w1.dtype))
        if w2.requires_grad or not alone:
            w2.sub_(((w2.double() @ v * shrink) @ v.mT).to(w2.dtype))

    def residual(self, weights: Sequence[Tensor]) -> Tensor:
        m = chain_map([weight.detach() for weight in weights])
        norm = torch.linalg.eigvalsh(m.mT @ m)[..., -1].clamp_min(0).sqrt()
        return (norm / self.c - 1).clamp_min(0)

    @property
    def step_scale(self) -> float:
        """max(1, c): balanced layers under a map of norm c have squared norm c each."""
        return max(1.0, self.c)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return OperatorNormHeadFlow(moment, self.c)
        return ProductFlow(moment, self.c) if shape.layers == 2 else None

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """c² Σ of the min(z, h) most negative eigenvalues (Proposition 3)."""
        return self.c**2 * eigvals[..., : shape.rank].clamp(max=0).sum(-1)
