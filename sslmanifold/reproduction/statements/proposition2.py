"""Proposition 2 and Section 3's penalties: Frobenius norms, as constraint or penalty, do not prevent collapse."""

import torch
from torch import Tensor

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.models.activation import ACTIVATIONS
from sslmanifold.models.network import ConstrainedNetwork
from sslmanifold.reproduction.claims import Check, Claim
from sslmanifold.reproduction.descent import descend, last, moment_loss, triplet_loss
from sslmanifold.reproduction.part import Part, Result, Settings
from sslmanifold.reproduction.problem import Problem, problem, streams

C1, C2 = 2.0, 1.5


def second_singular_value(m: Tensor) -> Tensor:
    """σ2/σ1 (…)."""
    sigma = torch.linalg.svdvals(m)
    return sigma[..., 1] / sigma[..., 0]


def random_moments(count: int, d: int, generator: torch.Generator) -> Tensor:
    """Symmetric C (count, d, d) of norm 1 whose lowest eigenvalue is negative and apart from the next."""
    q = torch.linalg.qr(torch.randn(count, d, d, generator=generator, dtype=torch.float64)).Q
    values = torch.rand(count, d, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    values[:, 0] = -1.0
    return q @ torch.diag_embed(values) @ q.mT


def linear_case(settings: Settings, generator: torch.Generator) -> list[Check]:
    """Projected gradient descent on random C: does the best of all starts have rank 1 and the stated loss?"""
    d, h, z = 5, 8, 3
    moments = random_moments(settings.choose(40, 16), d, generator)
    shape = NetworkShape(d, h, z)
    ball = make_constraint("frobenius", c1=C1, c2=C2)
    weights = ball.initial(shape, [generator] * len(moments))
    network = last(descend(ball, shape, weights, moment_loss(moments), 0.01, settings.choose(1500, 1000)))
    m = network.map().detach()
    expected = (C1 * C2) ** 2 * torch.linalg.eigvalsh(moments)[:, 0]
    loss = (m * (moments @ m)).sum((-2, -1))
    return [
        Check("linear: largest |L − c1²c2²λ1|/|L*|", float(((loss - expected) / expected).abs().max()), 1e-6),
        Check("linear: largest σ2/σ1 of the map", float(second_singular_value(m).max()), 1e-3),
    ]


def nonlinear_case(settings: Settings, scene: Problem, generator: torch.Generator) -> list[Check]:
    """tanh on half moons: given W1 the best W2 has rank 1 and loss c2² λmin of the symmetric part of f(X, W1)."""
    shape = NetworkShape(scene.x.shape[1], 20, 3)
    ball = make_constraint("frobenius", c1=C1, c2=C2)
    weights = ball.initial(shape, [generator] * 4)
    loss = triplet_loss(scene.batch)
    network = last(descend(ball, shape, weights, loss, 0.1, settings.choose(4000, 1500), "tanh"))
    with torch.no_grad():
        w1, w2 = network.weights
        phi = ACTIVATIONS["tanh"]
        assert scene.batch.negatives is not None
        x, pos, neg = (
            phi(part @ w1.mT) for part in (scene.batch.x, scene.batch.positives, scene.batch.negatives)
        )
        f = x.mT @ (neg - pos) / scene.x.shape[0]  # (S, h, h)
        lowest = torch.linalg.eigvalsh((f + f.mT) / 2)[:, 0]
        gap = (loss(network) - C2**2 * lowest) / lowest.abs()
        return [
            Check("tanh: largest (L − c2²λmin(f))/|L| after training", float(gap.abs().max()), 1e-3),
            Check("tanh: largest σ2/σ1 of W2 after training", float(second_singular_value(w2).max()), 2e-2),
        ]


def penalised(scene: Problem, generator: torch.Generator, kind: str, share: float, steps: int) -> Tensor:
    """σ2/σ1 of the map under L + ρ(‖W1‖² + ‖W2‖²) or L + ρ‖W2ᵀW1‖², ρ = share·|λ1|; (S,).

    These losses have no minimum, so each step is scaled by the weights' size: the same path, in a time that does
    not end.
    """
    free = make_constraint("none")
    shape = NetworkShape(scene.x.shape[1], 20, 2)
    # three times Haar: from small weights a penalty of this size can win, and everything shrinks to 0 instead
    weights = [3 * weight for weight in free.initial(shape, [generator] * 6)]
    network = ConstrainedNetwork(shape, free, weights)
    rho = share * float(scene.eigvals[0].abs())
    for _ in range(steps):
        w1, w2 = network.weights
        m = network.map()
        loss = (m * (scene.moment @ m)).sum((-2, -1))
        if kind == "sum":
            loss = loss + rho * (w1.square().sum((-2, -1)) + w2.square().sum((-2, -1)))
        else:
            loss = loss + rho * m.square().sum((-2, -1))
        gradients = torch.autograd.grad(loss.sum(), [w1, w2])
        with torch.no_grad():
            size = (w1.square().sum((-2, -1)) + w2.square().sum((-2, -1))).clamp_min(1.0)
            grown = size > 1e12  # these stop where they are, the others go on
            if bool(grown.all()):
                break
            step = torch.where(grown, 0.0, 0.02 / (scene.norm * size))[:, None, None]
            for weight, gradient in zip((w1, w2), gradients, strict=True):
                weight.sub_(step * gradient)
    return second_singular_value((scene.x @ network.map()).detach())


def compute(settings: Settings) -> Result:
    """Trainings of many starts side by side, float64."""
    generator = streams(settings.seed, 1)[0]
    scene = problem(HalfMoons(), settings.seed)
    linear = linear_case(settings, generator)
    nonlinear = nonlinear_case(settings, scene, generator)
    steps = settings.choose(3000, 2000)
    penalties = {
        kind: max(
            float(penalised(scene, generator, kind, share, steps).max())
            for share in settings.track((0.0, 0.3))
        )
        for kind in ("sum", "product")
    }
    command = settings.command("proposition2")
    claims = [
        Claim(
            "Proposition 2: under ‖W1‖_F ≤ c1, ‖W2‖_F ≤ c2 there is a global solution of one output dimension (linear)",
            linear,
            evidence="projected gradient descent on random C, d = 5, h = 8, z = 3; L* = c1²c2²λ1",
            command=command,
        ),
        Claim(
            "Proposition 2 with a nonlinear φ (tanh)",
            nonlinear,
            evidence="half moons, h = 20, z = 3, four starts, trained to convergence",
            command=command,
        ),
        Claim(
            "Section 3: the penalties ‖W1‖_F² + ‖W2‖_F² and ‖W2ᵀW1‖_F² do not prevent collapse",
            [
                Check("σ2/σ1 of the embedding, penalty ‖W1‖² + ‖W2‖²", penalties["sum"], 1e-2),
                Check("σ2/σ1 of the embedding, penalty ‖W2ᵀW1‖²", penalties["product"], 1e-2),
            ],
            evidence="half moons, h = 20, z = 2, six starts of norm 3, ρ = 0 and 0.3 |λ1|; the loss is unbounded below",
            command=command,
        ),
    ]
    return Result(claims)


PART = Part("proposition2", "Proposition 2 and Section 3's penalties", compute)
