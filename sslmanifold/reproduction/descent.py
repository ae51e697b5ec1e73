"""Plain training loops over many initialisations at once, with the package's own networks and optimizers.

The statements need hundreds of short trainings of tiny networks. Lightning's bookkeeping costs 1–5 ms a step,
ten times the step itself, so these loops do without it; what a step *is* stays the same: the same
``ConstrainedNetwork``, constraint, ``RiemannianSGD`` and order of a step. That ``SSLModule`` under Lightning
does the same is checked where training is compared with its flow (Figure 3, Theorem 2).
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from sslmanifold.constraints import Constraint, NetworkShape
from sslmanifold.constraints.step import take_step
from sslmanifold.data import TripletBatch
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.losses import contrastive_loss
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.theory.moments import Reduction

Loss = Callable[[ConstrainedNetwork], Tensor]


def moment_loss(moment: Tensor) -> Loss:
    """Tr(mᵀ C m) of a linear network (Eq. 8); C (d, d) or one per replica (S, d, d) → (S,)."""

    def loss(network: ConstrainedNetwork) -> Tensor:
        m = network.map()  # (S, d, z)
        return (m * (moment @ m)).sum((-2, -1))

    return loss


def triplet_loss(batch: TripletBatch, reduction: Reduction = "mean") -> Loss:
    """Eq. 1 of any network on frozen triplets → (S,)."""

    def loss(network: ConstrainedNetwork) -> Tensor:
        assert batch.negatives is not None
        return contrastive_loss(
            network(batch.x), network(batch.positives), network(batch.negatives), reduction
        )

    return loss


def descend(
    constraint: Constraint,
    shape: NetworkShape,
    weights: Sequence[Tensor],
    loss: Loss,
    lr: float,
    steps: int,
    activation: str = "linear",
) -> Iterator[ConstrainedNetwork]:
    """Gradient descent of rate lr from these weights (S, ·, ·): yields the network before the first step and
    after each, always the same object."""
    network = ConstrainedNetwork(shape, constraint, [w.clone() for w in weights], activation)
    optimizer = RiemannianSGD(list(network.weights), lr=lr)
    yield network
    for _ in range(steps):
        take_step(constraint, list(network.weights), optimizer, lambda: loss(network))
        yield network


def last(networks: Iterator[ConstrainedNetwork]) -> ConstrainedNetwork:
    """The network after its last step."""
    network = None
    for network in networks:  # noqa: B007
        pass
    assert network is not None
    return network
