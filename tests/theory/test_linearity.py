"""Theorem 1 and Conjecture 1, measured: slopes in the width, absolute and relative."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from sslmanifold.errors import UserError
from sslmanifold.theory import linearity_gap, linearity_scan
from sslmanifold.theory.linearity import EXPECTED_SLOPES, comparison_time, haar, loglog_slope, theorem1_bound

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "softplus_centred": lambda x: 2 * (torch.nn.functional.softplus(x) - math.log(2)),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


def moons() -> torch.Tensor:
    return torch.from_numpy(make_moons(200, noise=0.05, random_state=0)[0])


@pytest.mark.parametrize("name", EXPECTED_SLOPES)
def test_slopes_in_the_width(name) -> None:
    scan = linearity_scan(moons(), ACTIVATIONS[name], [64, 256, 1024, 4096], draws=40, seed=1)
    absolute, relative = EXPECTED_SLOPES[name]
    assert scan.absolute_slope == pytest.approx(absolute, abs=0.15)
    assert scan.relative_slope == pytest.approx(relative, abs=0.2)


def test_the_bound_of_theorem_1_holds_with_its_constants_stated() -> None:
    x = moons()
    for h in (16, 64, 256, 1024):
        generator = torch.Generator().manual_seed(h)
        w1, w2 = haar(h, 2, 50, generator), haar(h, 2, 50, generator)
        gap = (torch.tanh(x @ w1.mT) @ w2 - (x @ w1.mT) @ w2).norm(dim=-1)  # (50, n)
        curvature = 4 / (3 * math.sqrt(3))  # max |tanh''|
        bound = torch.tensor(
            [theorem1_bound(h, 2, float(r), curvature) for r in x.norm(dim=-1)], dtype=torch.float64
        )
        assert bool((gap <= bound).all())
        assert (
            float(w1.square().max()) <= 16 * math.log(h) ** 2 / h
        )  # Lemma 2 with the constant that K = 8 comes from
    assert theorem1_bound(10**6, 2, 1.0, 1.0) < theorem1_bound(10**4, 2, 1.0, 1.0)


def test_gap_against_numpy_and_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    w1, w2, x = (
        haar(20, 3, 4, generator),
        haar(20, 2, 4, generator),
        torch.randn(7, 3, dtype=torch.float64, generator=generator),
    )
    absolute, relative = linearity_gap(w1, w2, x, torch.tanh)
    for i in range(4):
        a, b = w1[i].numpy(), w2[i].numpy()
        linear = np.array([b.T @ (a @ v) for v in x.numpy()])
        nonlinear = np.array([b.T @ np.tanh(a @ v) for v in x.numpy()])
        gap = np.sqrt(((nonlinear - linear) ** 2).sum() / 7)
        assert float(absolute[i]) == pytest.approx(gap, rel=1e-12)
        assert float(relative[i]) == pytest.approx(gap / np.sqrt((linear**2).sum() / 7), rel=1e-12)


def test_haar_is_uniform_where_plain_qr_is_not() -> None:
    """First column's first entry: symmetric about 0 and of variance 1/h; LAPACK's sign convention spoils the mean."""
    generator = torch.Generator().manual_seed(0)
    q = haar(4, 2, 20000, generator)
    assert float(q[:, 0, 0].mean()) == pytest.approx(0.0, abs=0.015)
    assert float(q[:, 0, 0].square().mean()) == pytest.approx(0.25, abs=0.01)
    plain = torch.linalg.qr(torch.randn(2000, 4, 2, dtype=torch.float64, generator=generator))[0]
    assert abs(float(plain[:, 0, 0].mean())) > 0.2


def test_conjecture_1_is_nearly_vacuous_at_a_fixed_time() -> None:
    """At fixed t the absolute gap → 0 even for ReLU, whose relative gap does not: compare at log h/(8|λ1|)."""
    x = moons()
    scan = linearity_scan(x, torch.relu, [64, 1024], draws=40)
    assert float(scan.absolute[1]) < 0.35 * float(scan.absolute[0])
    assert float(scan.relative[1]) > 0.7 * float(scan.relative[0])
    assert comparison_time(100, -2.0, 0.5) == pytest.approx(math.log(100) / 16 + 0.5)
    with pytest.raises(UserError, match="not negative"):
        comparison_time(100, 0.1)


def test_helpers_and_mistakes() -> None:
    assert loglog_slope([10, 100, 1000], torch.tensor([1.0, 0.1, 0.01])) == pytest.approx(-1.0, abs=1e-6)
    with pytest.raises(UserError, match="two or more"):
        linearity_scan(moons(), torch.tanh, [64])
    with pytest.raises(UserError, match="hidden=1"):
        theorem1_bound(1, 2, 1.0, 1.0)
