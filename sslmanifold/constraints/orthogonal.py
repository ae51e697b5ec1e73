"""Orthonormal columns W1ᵀW1 = I, W2ᵀW2 = I: the constraint of Eq. 8 and Theorem 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import geoopt
from pydantic import Field
from torch import Tensor

from sslmanifold.constraints.base import Constraint, NetworkShape
from sslmanifold.errors import UserError
from sslmanifold.geometry import Stiefel
from sslmanifold.theory import (
    eigenbasis,
    eigenvalues,
    largest_stable_head_step,
    largest_stable_step,
    limit_rank,
    limit_subspace,
    optimum,
)
from sslmanifold.theory.flows.base import Flow
from sslmanifold.theory.flows.deep_linear import DeepLinearFlow
from sslmanifold.theory.flows.head import OrthogonalHeadFlow
from sslmanifold.theory.flows.orthogonal import OrthogonalFlow
from sslmanifold.theory.moment_product import Moment
from sslmanifold.theory.trajectory import Solution


@dataclass(kw_only=True)
class Orthogonal(Constraint):
    """Weights on Stiefel manifolds. The metric chooses κ, and with it the flow that training follows.

    Attributes:
        metric: "grassmann" (κ = 0, Theorem 2), "euclidean" (κ = 1) or "canonical" (κ = 2, Oja's flow).
        kappa: any other member of the family; overrides ``metric``.
        retraction: how a step returns to the manifold. "project" takes the plain gradient step and then
            projects, as the paper's experiments do (Eq. 11); it follows κ = 1.
        w1: "columns" for W1ᵀW1 = I_d (needs h ≥ d), "rows" for W1 W1ᵀ = I_h (needs h ≤ d, κ = 0).

    The one weight of a head is W ∈ St(d, z), WᵀW = I_z, which needs d ≥ z.
    """

    name = "orthogonal"

    metric: Literal["grassmann", "euclidean", "canonical"] = "grassmann"
    kappa: Annotated[float, Field(ge=0)] | None = None
    retraction: Literal["auto", "cholesky_qr", "polar", "cayley", "project"] = "auto"
    w1: Literal["columns", "rows"] = "columns"

    def __post_init__(self) -> None:
        if self.retraction == "project" and self.flow_kappa != 1:
            raise UserError(
                f"constraint.retraction=project follows κ = 1, got κ = {self.flow_kappa:g}: "
                "set constraint.metric=euclidean, or another constraint.retraction"
            )
        if self.w1 == "rows" and self.flow_kappa != 0:
            raise UserError(
                f"constraint.w1=rows has an exact flow for κ = 0 alone, got κ = {self.flow_kappa:g}: "
                "set constraint.metric=grassmann"
            )

    @property
    def flow_kappa(self) -> float:
        """κ of the flow that training follows."""
        if self.kappa is not None:
            return float(self.kappa)
        return {"grassmann": 0.0, "euclidean": 1.0, "canonical": 2.0}[self.metric]

    def width(self, dim: int, embedding: int) -> int:
        """d, the widest that orthonormal rows can be; else as for every constraint."""
        return dim if self.w1 == "rows" else super().width(dim, embedding)

    def check(self, shape: NetworkShape) -> None:
        h, d, z = shape.hidden, shape.dim, shape.embedding
        if h is None:
            self._check_head(d, z)
            return
        if h < z:
            wider = "constraint.w1=columns" if self.w1 == "rows" and d < z else f"model.hidden={max(z, d)}"
            raise UserError(
                f"orthogonal W2 (h×z) needs h ≥ z, got h={h}, z={z}: set {wider} or model.embedding={h}"
            )
        if self.w1 == "columns" and h < d:
            rows = ", or constraint.w1=rows for orthonormal rows" if self.flow_kappa == 0 else ""
            raise UserError(
                f"orthogonal W1 (h×d) needs h ≥ d, got h={h}, d={d}: "
                f"set model.hidden={d} or data.pca={h}{rows}"
            )
        if self.w1 == "rows" and h > d:
            raise UserError(
                f"constraint.w1=rows (W1 W1ᵀ = I_h) needs h ≤ d, got h={h}, d={d}: "
                f"set model.hidden={d} or constraint.w1=columns"
            )

    def _check_head(self, d: int, z: int) -> None:
        if self.w1 == "rows":
            raise UserError(
                "constraint.w1=rows is about the first of two layers, and a head has one, W (d×z) with orthonormal "
                "columns: leave it out, or set model=two_layer"
            )
        if d < z:
            raise UserError(
                f"orthogonal W (d×z) of a head needs d ≥ z, got d={d}, z={z}: set model.embedding={d}, or "
                "constraint=operator_norm"
            )

    def notices(self, shape: NetworkShape) -> list[str]:
        """That a square head does not move under κ = 0."""
        d, z = shape.dim, shape.embedding
        if shape.layers > 1 or d > z or (self.flow_kappa != 0 and d > 1):
            return []
        why = ", which leaves out motion within the span" if self.flow_kappa == 0 else ""
        instead = f"model.embedding={d - 1}, or constraint.metric=euclidean" if d > 1 else "constraint=none"
        return [
            f"orthogonal W of a head is square here, d = z = {d}, and never moves under κ = {self.flow_kappa:g}{why}: "
            f"set {instead}"
        ]

    @classmethod
    def alone(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """κ = 1 where nothing is said: κ = 0 leaves out motion within the span, which only a chain can spare."""
        if "w1" in options:
            raise UserError(
                f"w1={options['w1']} speaks of the first layer of a chain; a single weight has orthonormal rows where "
                "it is wide and orthonormal columns where it is tall: leave w1 out"
            )
        return dict(options) if {"metric", "kappa"} & options.keys() else {"metric": "euclidean", **options}

    def manifold(self, rows: int, columns: int) -> geoopt.Manifold:
        manifold = Stiefel(metric=self.metric, kappa=self.kappa, retraction=self.retraction)
        if manifold.kappa == 0 and rows == columns:
            raise UserError(
                f"a square weight {rows}×{columns} never moves under κ = 0 (grassmann), which leaves out motion within "
                'the span: write metric="euclidean"'
            )
        if rows == columns == 1:
            raise UserError("an orthogonal weight of 1×1 is 1 or −1 and never moves: leave it free")
        return manifold

    def manifolds(self, shape: NetworkShape) -> list[geoopt.Manifold]:
        manifold = Stiefel(metric=self.metric, kappa=self.kappa, retraction=self.retraction)
        return [manifold] * len(shape.matrices)

    def flow(self, moment: Moment, shape: NetworkShape) -> Flow | None:
        if shape.layers == 1:
            return OrthogonalHeadFlow(moment, self.flow_kappa)
        if shape.layers > 2:
            return DeepLinearFlow(moment, shape.layers, self.flow_kappa) if self.w1 == "columns" else None
        return OrthogonalFlow(moment, self.flow_kappa, rows=self.w1 == "rows")

    def solve(
        self, moment: Moment, shape: NetworkShape, weights: Sequence[Tensor], times: Tensor
    ) -> Solution:
        """In C's eigenbasis, by the closed form where there is one, else adaptively: O(d z²) an evaluation."""
        flow = self.flow(moment, shape)
        if not isinstance(flow, OrthogonalFlow) or not isinstance(moment, Tensor):
            # no flow, which it says; or a loss without C, step by step
            return super().solve(moment, shape, weights, times)
        path, method = flow.at(flow.start(*weights), times)
        return Solution(times, path.m, flow.loss(path), method)

    def limit_subspace(self, moment: Tensor, shape: NetworkShape) -> Tensor | None:
        """Eigenvectors of the max(min(z, m), d + z − h) smallest eigenvalues (Conjecture 2, corrected), (d, r).

        Of the z smallest where the map has orthonormal columns, a head's or that of ``w1=rows``.
        """
        eigvals, eigvecs = eigenbasis(moment)
        if self._orthonormal_map(shape):
            return eigvecs[:, : shape.embedding]
        return limit_subspace(eigvals, shape.embedding, shape.hidden, eigvecs)

    def predictions(self, moment: Tensor, shape: NetworkShape) -> dict[str, float]:
        """Rank of the limit and the largest stable step (Conjecture 2; Euler's limit at the optimum)."""
        eigvals = eigenvalues(moment)
        if shape.layers == 1 and shape.embedding < shape.dim:
            return {
                "predicted/limit_rank": shape.embedding,
                "predicted/largest_stable_step": largest_stable_head_step(eigvals),
            }
        if shape.layers != 2 or self.w1 == "rows":
            return {}
        return {
            "predicted/limit_rank": limit_rank(eigvals, shape.embedding, shape.hidden),
            "predicted/largest_stable_step": largest_stable_step(eigvals, self.flow_kappa),
        }

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor:
        """Σ of the max(min(z, m), d + z − h) smallest eigenvalues (Conjecture 2 and its correction)."""
        if self._orthonormal_map(shape):  # every direction is used, whatever the sign
            return eigvals[..., : shape.embedding].sum(-1)
        return optimum(eigvals, shape.embedding, shape.hidden)

    def _orthonormal_map(self, shape: NetworkShape) -> bool:
        """Whether mᵀm = I: a head's W, and W1ᵀW2 where W1 has orthonormal rows."""
        return shape.layers == 1 or self.w1 == "rows"
