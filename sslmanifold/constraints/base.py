"""What a constraint is: one object that knows its geometry and its theory."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.geometry import haar, residual
from sslmanifold.geometry._geoopt import geoopt
from sslmanifold.theory.flows.base import FlowBlowUp
from sslmanifold.theory.trajectory import Solution

if TYPE_CHECKING:
    from geoopt import Manifold

    from sslmanifold.theory.flows.base import Flow
    from sslmanifold.theory.moment_product import Moment


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of u(x) = W_Lᵀ φ(… φ(W1 x)): W1 is h×d, hidden layers h×h, the last h×z; of a head u(x) = Wᵀx, W is d×z.

    Attributes:
        dim: d, the number of input features.
        hidden: h, the width; None for one layer, which has none.
        embedding: z, the number of embedding dimensions.
        layers: L, the number of weight matrices.

    Raises:
        UserError: for a width of one layer, or several layers without one.
    """

    dim: int
    hidden: int | None
    embedding: int
    layers: int = 2

    def __post_init__(self) -> None:
        if (self.hidden is None) != (self.layers == 1):
            raise UserError(
                f"hidden={self.hidden} with layers={self.layers}: one layer has no hidden width, more have one; write "
                f"NetworkShape({self.dim}, None, {self.embedding}, layers=1) for a head"
            )

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(rows, columns) of every weight, first layer first."""
        if self.hidden is None:
            return [(self.dim, self.embedding)]
        inner = [(self.hidden, self.hidden)] * (self.layers - 2)
        return [(self.hidden, self.dim), *inner, (self.hidden, self.embedding)]

    @property
    def rank(self) -> int:
        """The largest rank of the map: min(d, z), and h where there is one."""
        sizes = (self.dim, self.embedding, self.hidden)
        return min(size for size in sizes if size is not None)


@dataclass(kw_only=True)
class Constraint(ABC):
    """A constraint on the weights of a network, its manifolds and its exact flow.

    Nothing else in the package asks which constraint it deals with. A new constraint is one file in this
    package (a subclass with a ``name``) and one yaml in ``conf/constraint``.
    """

    name: ClassVar[str]

    def width(self, dim: int, embedding: int) -> int:
        """h where ``model.hidden`` is auto: max(128, d + z), wide enough for every constraint and the free limit."""
        return max(128, dim + embedding)

    def check(self, shape: NetworkShape) -> None:
        """Raise :class:`~sslmanifold.errors.UserError` where no weights of this shape are feasible."""
        return

    def notices(self, shape: NetworkShape) -> list[str]:
        """What is feasible at this shape and yet not what one would expect, one line each, with what to write."""
        return []

    @classmethod
    def alone(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the constraint where each weight stands alone, from those given for it.

        Named as in the yaml, with defaults that suit a weight of which nothing else is known.

        Raises:
            UserError: for an option that speaks of a chain of layers.
        """
        return dict(options)

    def manifold(self, rows: int, columns: int) -> "Manifold":
        """The geoopt manifold of one weight (rows, columns) that stands alone, in whatever module it is.

        Raises:
            UserError: where the constraint binds layers together, or no weight of this shape is feasible.
        """
        raise UserError(
            f"constraint={self.name} is no constraint on a single weight: write Trainer(callbacks="
            f'[ConstrainedStep("{self.name}", weights=[…])]) with the names of the layers, from input to output'
        )

    def manifolds(self, shape: NetworkShape) -> list["Manifold"]:
        """The geoopt manifold of each weight of a chain, first layer first."""
        return [self.manifold(rows, columns) for rows, columns in shape.matrices]

    def initial(
        self, shape: NetworkShape, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float64
    ) -> list[Tensor]:
        """Haar weights (rows orthonormal where a matrix is wide), projected onto the constraint.

        One generator per replica, so that replica i does not depend on how many there are. Drawn in float64
        and rounded last: the same seed gives the same weights at every precision.

        Returns:
            One tensor (replicas, rows, columns) per layer.
        """
        drawn = [
            [haar(rows, cols, generator=g, dtype=torch.float64) for rows, cols in shape.matrices]
            for g in generators
        ]
        layers = [torch.stack(replicas) for replicas in zip(*drawn, strict=True)]  # L × (S, rows, cols)
        return [
            manifold.projx(manifold.projx(weight).to(dtype))
            for weight, manifold in zip(layers, self.manifolds(shape), strict=True)
        ]

    def project_jointly(self, weights: Sequence[Tensor]) -> None:
        """Put the weights back onto the constraint in place, after a step, where it binds layers together.

        Constraints on single weights do that in their manifolds' retractions and leave this alone. Of weights some
        of which learn (``requires_grad``) and some of which are frozen, the frozen ones stay as they are.
        """
        return

    def objective(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """What is differentiated, (replicas,): the loss itself unless the constraint scales it."""
        return loss

    def smooth_part(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """What a training step differentiates, (replicas,): the objective, its kinks held fixed.

        The value is the objective's. A constraint whose objective has kinks takes their share of the step in
        :meth:`add_kinks`; one without has nothing to do.
        """
        return self.objective(loss, weights)

    def embedding_scale(self, weights: Sequence[Tensor]) -> Tensor | None:
        """s, (S,), where the objective of any loss ℓ(u) is ℓ(u/s); None where it is what :meth:`objective` makes of it.

        The two agree for losses of degree two in u, which is what the flows are of. A loss of no degree, such as
        the cross-entropy of fine-tuning, is to see u/s: divided by s² it would only ask for larger weights.
        """
        return None

    def add_kinks(self, weights: Sequence[Tensor], objective: Tensor, lr: float) -> None:
        """Turn the gradients of :meth:`smooth_part`, in place, into those of a proximal step of size lr.

        Called between backward and the optimizer's step.

        Args:
            weights: (replicas, ·, ·) each, with their gradients.
            objective: its value at these weights, (replicas,).
            lr: the step size of the optimizer; where it adapts steps by itself, the size it was given.
        """
        return

    def residual(self, weights: Sequence[Tensor]) -> Tensor:
        """How far the weights are from feasible, worst layer, (replicas,); 0 for a free weight."""
        free = geoopt.Euclidean(ndim=2)
        return torch.stack([residual(w.detach(), getattr(w, "manifold", free)) for w in weights]).amax(0)

    @property
    def step_scale(self) -> float:
        """max(1, c1², c2²): by how much larger weights shorten the stable step."""
        return 1.0

    def flow(self, moment: "Moment", shape: NetworkShape) -> "Flow | None":
        """The exact flow that training with a small step follows, or None where it does not close.

        Args:
            moment: C as differentiated, (d, d) or its eigenvalues (d,), float64; a ``LossGradient`` for a loss
                without one.
        """
        return None

    def solve(
        self, moment: "Moment", shape: NetworkShape, weights: Sequence[Tensor], times: Tensor
    ) -> Solution:
        """The flow from these weights (S, ·, ·) at ascending times (Σ lr), C dense (d, d) or a ``LossGradient``.

        Raises:
            UserError: where the constraint has no exact flow at this shape.
        """
        flow = self.flow(moment, shape)
        if flow is None:
            raise UserError(
                f"constraint={self.name} has no exact flow for {shape.layers} layers: set model=two_layer, or train"
            )
        state, now, blow_up = flow.start(*weights), 0.0, None
        maps, losses = [], []
        for t in times.tolist():
            try:
                state = flow.advance(state, t - now)
            except FlowBlowUp as end:
                blow_up = end.time
                break
            now = t
            maps.append(state.m)
            losses.append(flow.loss(state))
        return Solution(times[: len(maps)], torch.stack(maps), torch.stack(losses), flow.name, blow_up)

    def limit_subspace(self, moment: Tensor, shape: NetworkShape) -> Tensor | None:
        """Basis (d, r) of the span that the map converges to; None where there is no such statement.

        Raises:
            UserError: where it depends on the start (a tie in the spectrum).
        """
        return None

    def predictions(self, moment: Tensor, shape: NetworkShape) -> dict[str, float]:
        """What the theory says of a run before it starts: entries of the summary, named ``predicted/…``."""
        return {}

    def optimum(self, eigvals: Tensor, shape: NetworkShape) -> Tensor | None:
        """L*, the smallest value of the objective for a linear network; None where there is none.

        Args:
            eigvals: the eigenvalues of C as differentiated, ascending, (d,).
        """
        return None
