"""``optimizer.lr=auto``: a step that suits the loss, the model, the constraint and the optimizer.

================================== ====================================================================
run                                optimizer.lr=auto
================================== ====================================================================
gradient steps, a loss with C      1/(20 ‖Λ‖₂ max(1, c1², c2²)), Λ the spectrum of C as differentiated
gradient steps, any other loss     1/(5 ‖H‖₂ max(1, c1², c2²)), H the Hessian of the objective at the start
Adam                               the step that moves no weight by more than 1 % of its norm
================================== ====================================================================

H is taken at the initial weights; those of a norm ball, which may start small and grow, are lengthened to operator norm
one, as Λ speaks of such weights. There ‖H‖₂ is about 4 ‖Λ‖₂ for a loss that has both, so the first two agree. Gradient
descent on a quadratic is stable up to 2/‖H‖₂: either rule is ten times below that, since curvature grows on the way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from sslmanifold.constraints import Constraint
from sslmanifold.data import PairDataModule, TripletBatch
from sslmanifold.errors import UserError
from sslmanifold.theory import default_step, eigenvalues
from sslmanifold.training.module import SSLModule

_SAFETY = 5.0
_RELATIVE = 0.01  # of a weight's norm, one step of Adam
_ITERATIONS = 12
# anchors that the Hessian is taken of: as many as keep one evaluation below this number of multiplications
_ANCHORS = (64, 1024)
_MULTIPLICATIONS = 5e8


class AutomaticRate(NamedTuple):
    """A learning rate and the rule it came from, in words."""

    value: float
    rule: str


def moment_rate(moment: Tensor, constraint: Constraint) -> AutomaticRate:
    """1/(20 ‖Λ‖₂ max(1, c1², c2²)), Λ the spectrum of C (d, d) as one step differentiates it.

    Raises:
        UserError: for C = 0.
    """
    eigvals = eigenvalues(moment)
    if float(eigvals.abs().max()) == 0:
        raise UserError("C is zero: the data carry no signal for this loss, so there is nothing to train")
    value = float(default_step(eigvals)) / constraint.step_scale
    return AutomaticRate(value, "1/(20 ‖Λ‖₂ max(1, c1², c2²)), Λ the spectrum of C")


def curvature_rate(module: SSLModule, datamodule: PairDataModule) -> AutomaticRate:
    """1/(5 ‖H‖₂ max(1, c1², c2²)), H the Hessian of one step's objective at the initial weights of replica 0.

    Replica 0 alone, so that it trains the same whatever their number; flat weights at operator norm one. Of many
    anchors at most 1,024, evenly spread, stand for the others.

    Raises:
        UserError: where the objective is flat, or not finite.
    """
    batch, factor = _sample(module, datamodule)
    manifolds = [weight.manifold for weight in module.network.weights]
    weights = [weight.detach()[:1].double() for weight in module.network.weights]
    for index, manifold in enumerate(manifolds):
        if isinstance(manifold, geoopt.Euclidean):
            weights[index] = weights[index] / torch.linalg.matrix_norm(weights[index], 2)

    def norm_along(directions: Sequence[Any]) -> float:
        return factor * hessian_norm(lambda w: module.sample_objective(w, batch).sum(), weights, directions)

    # where no step moves anything (square weights, κ = 0), of all directions: the run is without effect, not an error
    norm = norm_along(manifolds) or norm_along([geoopt.Euclidean(ndim=2)] * len(weights))
    if not (math.isfinite(norm) and norm > 0):
        raise UserError(
            f"optimizer.lr=auto: the Hessian of the objective at the initial weights has norm {norm:g}, so no step "
            "follows from it: check the data and the pairs, or set optimizer.lr=0.01"
        )
    value = 1 / (_SAFETY * norm * module.constraint.step_scale)
    return AutomaticRate(value, "1/(5 ‖H‖₂ max(1, c1², c2²)), H the Hessian of the objective at the start")


def adaptive_rate(module: SSLModule) -> AutomaticRate:
    """The lr at which a step of Adam moves no weight by more than 1 % of its norm: min 0.01 ‖W‖_F/√k.

    k is the number of second moments of W, whose steps have length lr each: its entries, or 1 on a Stiefel manifold.
    """
    rates = []
    for weight in module.network.weights:
        first = weight.detach()[0].double()
        moments = weight.manifold.component_inner(first, first).numel()
        rates.append(_RELATIVE * float(first.norm()) / math.sqrt(moments))
    return AutomaticRate(min(rates), "Adam's steps move no weight by more than 1 % of its norm")


def hessian_norm(
    objective: Callable[[list[Tensor]], Tensor],
    weights: Sequence[Tensor],
    manifolds: Sequence[Any],
    *,
    iterations: int = _ITERATIONS,
) -> float:
    """‖H‖₂ of an objective on manifolds: the fastest that its Riemannian gradient changes along feasible directions.

    Power iteration in float64 from a fixed start on products H v = P (D grad)ᵀ v, each one differentiation of the
    gradient field; P projects onto the directions that steps take. From below, to a few percent.

    Args:
        objective: weights → a number, twice differentiable.
        weights: one tensor (…, rows, columns) per layer, on its manifold.
        iterations: number of products.
    """
    generator = torch.Generator().manual_seed(0)
    points = [weight.detach().double().requires_grad_(True) for weight in weights]
    gradients = torch.autograd.grad(objective(points), points, create_graph=True)
    field = [m.egrad2rgrad(x, g) for m, x, g in zip(manifolds, points, gradients, strict=True)]
    moving = [
        index for index, part in enumerate(field) if part.requires_grad
    ]  # no gradient at all: W square, κ = 0

    def feasible(vectors: Sequence[Tensor | None]) -> tuple[list[Tensor], float]:
        """Unit vector along the projection, and the length of that."""
        with torch.no_grad():
            # transport to where one is: for κ = 0 onto the horizontal space, narrower than the tangent space
            parts = [
                torch.zeros_like(x) if v is None else m.transp(x, x, v)
                for m, x, v in zip(manifolds, points, vectors, strict=True)
            ]
            length = math.sqrt(sum(float(part.square().sum()) for part in parts))
            return [part / length for part in parts] if length > 0 else parts, length

    drawn = [torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for x in points]
    direction, length = feasible(drawn)
    norm = 0.0
    for _ in range(iterations):
        if not moving or length == 0 or not math.isfinite(length):
            break
        products = torch.autograd.grad(
            [field[i] for i in moving],
            points,
            grad_outputs=[direction[i] for i in moving],
            retain_graph=True,
            allow_unused=True,
        )
        direction, length = feasible(products)
        norm = max(norm, length)
    return norm if math.isfinite(length) else length


def _sample(module: SSLModule, datamodule: PairDataModule) -> tuple[TripletBatch, float]:
    """Anchors that stand for those of one step, float64, and the factor on their loss."""
    data, shape = datamodule.data, module.network.shape
    pairs = 1 + data.positives + (data.negatives if datamodule.contrastive else 0)
    per_anchor = pairs * sum(rows * columns for rows, columns in shape.matrices)
    fewest, most = _ANCHORS
    count = min(datamodule.n, most, max(fewest, int(_MULTIPLICATIONS / per_anchor)))
    anchors = torch.linspace(0, datamodule.n - 1, count, dtype=torch.float64).round().long()
    batch = datamodule.triplets.batch(anchors, 0, torch.float64)
    step = min(data.batch_size or datamodule.n, datamodule.n)
    return batch, 1.0 if datamodule.reduction == "mean" else step / count
