"""The Stiefel manifold with the κ-family of gradients, as a geoopt manifold."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.geometry.feasibility import orthonormality
from sslmanifold.geometry.haar import haar, matrix_shape
from sslmanifold.geometry.orthonormalize import add_to_diagonal, polar
from sslmanifold.geometry.precision import feasibility_tolerance, full_precision
from sslmanifold.geometry.retractions import OF_THE_SUM, RETRACTIONS, exponential

METRICS = {"grassmann": 0.0, "euclidean": 1.0, "canonical": 2.0}


def _skew(a: Tensor) -> Tensor:
    return (a - a.mT) * 0.5


def _sym(a: Tensor) -> Tensor:
    return (a + a.mT) * 0.5


class Stiefel(geoopt.Manifold):
    """Matrices with orthonormal columns (tall, n ≥ p) or orthonormal rows (wide), xᵀx = I on the small side.

    Gradient rule: grad = (I − xxᵀ)G + κ x skew(xᵀG), skew(X) = (X − Xᵀ)/2. Gradient descent with a small step
    follows the flow of the same κ:

    =============  ===  ==========================================================================
    ``metric``      κ   follows
    =============  ===  ==========================================================================
    ``grassmann``   0   Eq. 9, Theorem 2: motion within the span is left out
    ``euclidean``   1   Euclidean-metric gradient; a plain step followed by projection (Eq. 11)
    ``canonical``   2   canonical-metric gradient G − xGᵀx; Oja's flow
    =============  ===  ==========================================================================

    Args:
        metric: names κ.
        kappa: overrides κ (≥ 0).
        retraction: ``cholesky_qr``, ``polar``, ``cayley``, ``exponential``, ``auto`` (the fastest measured for
            the shape) or ``project``: the optimizer without momentum then takes a plain Euclidean step and
            projects it, and needs κ = 1 and two tall products instead of four. ``exponential`` follows geodesics,
            with the vector transport of ``expmap_transp``: reversible, as geoopt's samplers ask.

    Every method takes points ``(…, n, p)`` with leading batch dimensions, float32 or float64; bfloat16 and
    float16 are computed in float32 and rounded.

    Raises:
        UserError: unknown metric or retraction, negative κ, or ``project`` with κ ≠ 1.
    """

    name = "Stiefel"
    ndim = 2

    def __init__(
        self, metric: str = "grassmann", kappa: float | None = None, retraction: str = "auto", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if metric not in METRICS:
            raise UserError(
                f'no Stiefel metric {metric!r}: write metric="grassmann", "euclidean" or "canonical", '
                "or give the number, as in kappa=1.5"
            )
        if retraction not in (*RETRACTIONS, "exponential", "auto", "project"):
            raise UserError(
                f'no retraction {retraction!r}: write retraction="auto", "cholesky_qr", "polar", '
                '"cayley", "exponential" or "project"'
            )
        self.metric = metric
        self.kappa = METRICS[metric] if kappa is None else float(kappa)
        self.retraction = retraction
        if self.kappa < 0:
            raise UserError(f"kappa={kappa} has no flow that descends: write kappa=0 or a positive number")
        if retraction == "project" and self.kappa != 1.0:
            raise UserError(
                f"a plain step followed by projection follows κ = 1, not κ = {self.kappa:g}: write "
                'Stiefel("euclidean", retraction="project"), or keep the metric with retraction="polar"'
            )

    def extra_repr(self) -> str:
        return f"metric={self.metric!r}, kappa={self.kappa!r}, retraction={self.retraction!r}"

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        """Whether (x, u) ↦ ``retr_transp(x, u, u)`` followed by its negative leads back: for geodesics alone."""
        return self.retraction == "exponential"

    # How a computation on tall matrices in a sufficient precision serves every shape and dtype.
    @staticmethod
    def _on_tall(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        wide = tensors[0].shape[-2] < tensors[0].shape[-1]
        dtype = tensors[0].dtype
        if dtype in (torch.float16, torch.bfloat16):
            tensors = tuple(t.float() for t in tensors)
        if wide:
            tensors = tuple(t.mT for t in tensors)
        with full_precision(tensors[0]):
            out = function(*tensors)
        return (out.mT if wide else out).to(dtype)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Euclidean-orthogonal projection onto the tangent space: u − x sym(xᵀu); idempotent."""
        return self._on_tall(lambda x, u: (x @ _sym(x.mT @ u)).neg_().add_(u), x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The κ-gradient (I − xxᵀ)G + κ x skew(xᵀG) of the Euclidean gradient u = G."""
        return self._on_tall(self._gradient, x, u)

    def _component(self, x: Tensor, g: Tensor) -> Tensor:
        """The p×p matrix a with grad = g − x a: a = xᵀg − κ skew(xᵀg)."""
        a = x.mT @ g  # (…, p, p)
        if self.kappa == 0.0:
            return a
        return _sym(a) if self.kappa == 1.0 else a - self.kappa * _skew(a)

    def _gradient(self, x: Tensor, g: Tensor) -> Tensor:
        if self.kappa == 0.0 and x.shape[-2] == x.shape[-1]:
            return torch.zeros_like(g)  # exactly: nothing is horizontal, and Adam would blow up the roundoff
        return (x @ self._component(x, g)).neg_().add_(g)

    @property
    def _retraction(self) -> str:
        # Measured on a CPU from 128×16 to 4096×256 (scripts/benchmark_geometry.py): polar was the fastest or
        # within noise of it at every shape, and follows the exponential to one order more than Cholesky-QR.
        return "polar" if self.retraction in ("auto", "project") else self.retraction

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction R_x(u) with R(0) = x and R′(0)u = u; u is a tangent at x."""
        if self.retraction == "exponential":  # which keeps the roundoff that it is given, polar does not
            return self._on_tall(lambda x, u: polar(exponential(x, u, self._beta)), x, u)
        return self._on_tall(RETRACTIONS[self._retraction], x, u)

    def gradient_step(self, x: Tensor, egrad: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
        """One descent step of size lr along the Euclidean gradient G: R_x(−lr·egrad2rgrad(x, G)).

        With ``retraction="project"`` the plain step x − lr G followed by the polar projection, which agrees
        with that to first order at κ = 1.

        Args:
            x: ``(…, n, p)``.
            egrad: G, ``(…, n, p)``.
            lr: step size.
            out: where to write the new point; may be x itself.
        """
        if out is None or x.dtype in (torch.float16, torch.bfloat16):
            new = self._on_tall(lambda x, g: self._step(x, g, lr, None), x, egrad)
            return new if out is None else Tensor.copy_(out, new)
        wide = x.shape[-2] < x.shape[-1]
        with full_precision(x):
            self._step(*((x.mT, egrad.mT, lr, out.mT) if wide else (x, egrad, lr, out)))
        return out

    def _step(self, x: Tensor, g: Tensor, lr: float, out: Tensor | None) -> Tensor:
        if self.retraction == "project":
            return polar(torch.add(x, g, alpha=-lr), out)
        if self._retraction not in OF_THE_SUM:
            new = self.retr(x, self._gradient(x, g).mul_(-lr))
            return new if out is None else out.copy_(new)
        # x + u = x(I + lr a) − lr g: one array of the size of x, and the result goes where x was.
        y = x @ add_to_diagonal(self._component(x, g).mul_(lr), 1.0)
        return OF_THE_SUM[self._retraction](y.add_(g, alpha=-lr), out)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport of v to y by projection: onto y⊥ (horizontal) for κ = 0, else the tangent space."""
        if self.kappa == 0.0:
            return self._on_tall(lambda y, v: (y @ (y.mT @ v)).neg_().add_(v), y, v)
        return self.proju(y, v)

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """R_x(u), and v transported there: by projection, along geodesics as ``expmap_transp``."""
        if self.retraction == "exponential":
            y, w = self.expmap_transp(x, u, v)
            return self._on_tall(polar, y), w
        y = self.retr(x, u)
        return y, self.transp(x, y, v)

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """v transported to R_x(u)."""
        return self.retr_transp(x, u, v)[1]

    @property
    def _beta(self) -> float:
        return 1.0 / self.kappa if self.kappa > 0 else 1.0

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exact exponential of the metric dual to κ: β = 1/κ (Euclidean for κ = 0, where horizontal u agree).

        With A = xᵀu, K = u − xA, C = KᵀK: [x K] exp([[2βA, −C], [I, 0]]) [I; 0] exp((1 − 2β)A).
        Source: Zimmermann & Hüper, "Computing the Riemannian logarithm on the Stiefel manifold" (2022), freed
        of its QR decomposition.
        """
        return self._on_tall(lambda x, u: exponential(x, u, self._beta), x, u)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """exp_x(u), and v carried along by the rotations of the space and of the columns that move x there.

        With x ↦ Q x E: v ↦ Q v E. It keeps lengths, takes u to the velocity of the geodesic at its end (so the map
        is reversible), tangents to tangents and, for κ = 0, horizontal vectors to horizontal ones.
        """
        return (
            self.expmap(x, u),
            self._on_tall(lambda x, u, v: exponential(x, u, self._beta, v), x, u, v),
        )

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """v transported to exp_x(u), as ``expmap_transp`` does."""
        return self.expmap_transp(x, u, v)[1]

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:  # type: ignore[override]
        """⟨u, v⟩ = tr(uᵀv) + (1/κ − 1) tr((xᵀu)ᵀ xᵀv): the metric whose gradient the κ-rule is.

        For κ = 0 the metric is tr(uᵀv), on horizontal vectors (xᵀu = 0). Result (…) or (…, 1, 1).
        """
        v = u if v is None else v
        out = (u * v).sum((-2, -1), keepdim=keepdim)
        if self.kappa not in (0.0, 1.0):
            x, u, v = (t.mT if x.shape[-2] < x.shape[-1] else t for t in (x, u, v))
            xu = x.mT @ u
            xv = xu if v is u else x.mT @ v
            out = out + (1.0 / self.kappa - 1.0) * (xu * xv).sum((-2, -1), keepdim=keepdim)
        return out

    def projx(self, x: Tensor) -> Tensor:
        """The closest orthonormal matrix (polar factor), without an SVD."""
        return self._on_tall(polar, x).contiguous()

    def residual(self, x: Tensor) -> Tensor:
        """‖xᵀx − I‖_F/√p on the small side, shape (…)."""
        return orthonormality(x)

    def random(  # type: ignore[override]
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Haar-uniform points, as a ``geoopt.ManifoldTensor`` on this manifold."""
        return geoopt.ManifoldTensor(
            haar(matrix_shape(size, "random"), generator=generator, dtype=dtype, device=device), manifold=self
        )

    random_naive = random

    def origin(  # type: ignore[override]
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """[I; 0] or [I 0]; the seed is not used."""
        shape = matrix_shape(size, "origin")
        eye = torch.eye(shape[-2], shape[-1], dtype=dtype, device=device)
        return geoopt.ManifoldTensor(eye.expand(shape).clone(), manifold=self)

    def _check_point_on_manifold(  # type: ignore[override]
        self, x: Tensor, *, atol: float | None = None, rtol: float = 0.0
    ) -> tuple[bool, str | None]:
        residual = float(self.residual(x).amax()) if x.numel() else 0.0
        limit = max(feasibility_tolerance(x.dtype), atol or 0.0)
        if residual <= limit:
            return True, None
        return False, f"‖WᵀW − I‖_F/√p = {residual:.3g} > {limit:.1g}"

    def _check_vector_on_tangent(  # type: ignore[override]
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        x, u = (x.mT, u.mT) if x.shape[-2] < x.shape[-1] else (x, u)
        normal = float(_sym(x.mT @ u).abs().amax()) if u.numel() else 0.0
        limit = atol + rtol * float(u.abs().amax()) if u.numel() else atol
        return (True, None) if normal <= limit else (False, f"max |sym(xᵀu)| = {normal:.3g} > {limit:.1g}")
