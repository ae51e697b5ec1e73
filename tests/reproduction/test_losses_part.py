"""Remark 2's flows against plain gradient descent, and the quadratic parts that their small starts are timed by."""

import pytest
import torch

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.data import HalfMoons
from sslmanifold.metrics import effective_rank
from sslmanifold.reproduction.descent import descend, last
from sslmanifold.reproduction.figures.losses import LOSSES, path
from sslmanifold.reproduction.problem import problem, streams


@pytest.mark.parametrize(
    ("name", "constraint"), [("infonce", "none"), ("spectral", "frobenius"), ("barlow", "orthogonal")]
)
def test_gradient_descent_follows_the_path(name: str, constraint: str) -> None:
    """The rank at the same time t = Σ lr, to first order: half the difference at half the step."""
    scene, loss = problem(HalfMoons(n=40), 0), LOSSES[name]
    made, shape = make_constraint(constraint), NetworkShape(dim=2, hidden=4, embedding=2)
    weights = made.initial(shape, streams(0, 1))
    end = 4.0 if name == "barlow" else 1.0
    times, ranks = path(made, scene, loss, weights, torch.tensor([0.0, end], dtype=torch.float64), 3000)
    assert times.tolist() == [0.0, end]
    batch = scene.batch if loss.contrastive else scene.batch[:2]
    off = []
    for steps in (200, 400):
        trained = last(
            descend(
                made, shape, weights, lambda net: loss(*(net(part) for part in batch)), end / steps, steps
            )
        )
        off.append(float(effective_rank(trained(scene.x))[0] - ranks[-1]))
    assert abs(off[1]) < 0.02
    assert off[0] / off[1] == pytest.approx(2, abs=0.2)


def test_to_second_order_in_the_map() -> None:
    """InfoNCE is half of Eq. 1 and a constant, the spectral loss twice Eq. 2."""
    scene = problem(HalfMoons(n=40), 0)
    pulled = problem(HalfMoons(n=40), 0, contrastive=False).moment
    generator = torch.Generator().manual_seed(0)
    m = 1e-3 * torch.randn(2, 2, generator=generator, dtype=torch.float64)

    def value(name: str, m: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](*(part @ m for part in scene.batch))

    zero = torch.zeros_like(m)
    for name, moment in (("infonce", scene.moment / 2), ("spectral", 2 * pulled)):
        seen = float(value(name, m) - value(name, zero))
        assert seen == pytest.approx(float((m * (moment @ m)).sum()), rel=1e-4)
