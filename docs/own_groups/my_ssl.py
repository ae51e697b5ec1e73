"""A data set, a loss and a constraint of one's own, used without touching sslmanifold.

    PYTHONPATH=docs/own_groups sslmanifold train --config-dir docs/own_groups/conf \
        data=spiral loss=logistic_pairs constraint=unit_rows optimizer.lr=3e-4
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import geoopt
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints import Constraint
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples


@dataclass(kw_only=True)
class Spiral(PairData):
    """Two arms of a noisy spiral in the plane, d = 2, two classes."""

    name: ClassVar[str] = "spiral"

    n: Annotated[int, Field(gt=1)] = 200
    noise: Annotated[float, Field(ge=0)] = 0.05

    def read(self, seed: int) -> Samples:
        train = self._arms(np.random.default_rng([seed, 0]))
        test = self._arms(np.random.default_rng([seed, 1]))
        return Samples.from_arrays(*train, *test, name=self.name, classes=[0, 1])

    def _arms(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.n) % 2
        angle = rng.uniform(0.5, 3 * np.pi, self.n)
        arm = np.stack([np.cos(angle + np.pi * label), np.sin(angle + np.pi * label)], axis=1)
        return arm * angle[:, None] / 5 + rng.normal(scale=self.noise, size=(self.n, 2)), label


@dataclass(kw_only=True)
class LogisticPairs:
    """Σ_i Σ_j log(1 + exp(u(x_i)ᵀu(x⁻_ij) − u(x_i)ᵀu(x⁺_ij)) / τ): every negative below its positive."""

    name: ClassVar[str] = "logistic_pairs"
    contrastive: ClassVar[bool] = True  # wants negatives
    quadratic: ClassVar[bool] = False  # no C: its exact flow goes by the gradient at its own map
    evaluate: ClassVar[str] = "samples"
    reduction: ClassVar[str] = "sum"

    temperature: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, u: Tensor, u_pos: Tensor, u_neg: Tensor | None = None) -> Tensor:
        assert u_neg is not None
        pairs = (u * (u_neg - u_pos)).sum(-1) / self.temperature  # (replicas, n)
        return torch.nn.functional.softplus(pairs).sum(-1)  # (replicas,)


@dataclass(kw_only=True)
class UnitRows(Constraint):
    """Every row of every weight matrix has length 1, as in weight normalisation."""

    name = "unit_rows"

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        return geoopt.Sphere()

    def residual(self, weights: list[Tensor]) -> Tensor:
        """The largest | ‖row‖ − 1 |, (replicas,)."""
        worst = [(w.detach().norm(dim=-1) - 1).abs().amax(-1) for w in weights]
        return torch.stack(worst).amax(0)
