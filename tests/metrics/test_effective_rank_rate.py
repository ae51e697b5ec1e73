"""The rate of the effective rank against differences of high order, autograd, and what holds of it by symmetry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sslmanifold.errors import UserError
from sslmanifold.metrics import effective_rank, effective_rank_rate
from sslmanifold.theory import OrthogonalFlow

# the central difference of order 8
_WEIGHTS = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
sizes = {"n": st.integers(3, 30), "z": st.integers(1, 6), "seed": st.integers(0, 999)}


def drawn(n: int, z: int, seed: int, *batch: int) -> tuple[Tensor, Tensor]:
    """An embedding whose singular values differ in size, and a velocity."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * n + z)
    make = {"generator": generator, "dtype": torch.float64}
    u = torch.randn(*batch, n, z, **make) * (0.3 + torch.arange(z)) @ torch.randn(z, z, **make) + 1.0
    return u, torch.randn(*batch, n, z, **make) + 0.5


def difference(u: Tensor, velocity: Tensor, centered: bool, step: float) -> Tensor:
    """dr/dt by values of the effective rank alone, of order 8."""
    terms = [
        weight
        * (
            effective_rank(u + k * step * velocity, centered)
            - effective_rank(u - k * step * velocity, centered)
        )
        for k, weight in _WEIGHTS.items()
    ]
    return torch.stack(terms).sum(0) / step


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("n", "z"), [(40, 2), (40, 5), (8, 8), (5, 9)])
def test_it_is_the_derivative(n: int, z: int, centered: bool) -> None:
    u, velocity = drawn(n, z, 0, 3)
    rate = effective_rank_rate(u, velocity, centered)
    assert rate.shape == (3,)
    assert rate.dtype == torch.float64
    # a matrix with fewer rows than columns, centred, keeps zeros: the singular values that there are move alone
    torch.testing.assert_close(rate, difference(u, velocity, centered, 1e-3), rtol=1e-8, atol=1e-8)


@given(**sizes)
@settings(max_examples=30, deadline=None)
def test_autograd_through_the_singular_values_agrees(n: int, z: int, seed: int) -> None:
    u, velocity = drawn(max(n, z + 2), z, seed)

    def rank(x: Tensor) -> Tensor:
        sigma = torch.linalg.svdvals(x - x.mean(-2, keepdim=True))
        p = sigma / sigma.sum()
        return torch.exp(-(p * p.log()).sum())

    _, expected = torch.func.jvp(rank, (u,), (velocity,))
    torch.testing.assert_close(effective_rank_rate(u, velocity), expected, rtol=1e-8, atol=1e-10)


@given(**sizes, factor=st.floats(-3, 3), size=st.sampled_from([1e-150, 1e-9, 2.0, 1e150]))
@settings(max_examples=30, deadline=None)
def test_what_leaves_the_rank_has_no_rate(n: int, z: int, seed: int, factor: float, size: float) -> None:
    """A change of scale and a common shift; the rate is linear, and that of a scaled embedding scaled likewise."""
    u, velocity = drawn(n, z, seed)
    scale = float(velocity.norm())
    rate = effective_rank_rate(u, velocity)
    assert torch.isfinite(rate)  # of fewer points than dimensions too: their mean is no direction to open
    assert abs(float(effective_rank_rate(u, factor * u))) < 1e-9
    assert abs(float(effective_rank_rate(u, torch.ones_like(u)))) < 1e-9
    close = {"rtol": 1e-7, "atol": 1e-9 * scale}
    torch.testing.assert_close(effective_rank_rate(u, velocity + factor * u + 3), rate, **close)
    torch.testing.assert_close(effective_rank_rate(u, factor * velocity), factor * rate, **close)
    torch.testing.assert_close(effective_rank_rate(size * u, size * velocity), rate, **close)


@given(**sizes)
@settings(max_examples=30, deadline=None)
def test_rotations_change_nothing(n: int, z: int, seed: int) -> None:
    u, velocity = drawn(max(n, z + 2), z, seed)
    n = u.shape[0]
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (
        torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0] for k in (n, z)
    )
    close = {"rtol": 1e-8, "atol": 1e-10}
    for centered in (True, False):
        rate = effective_rank_rate(u, velocity, centered)
        torch.testing.assert_close(
            effective_rank_rate(u @ columns, velocity @ columns, centered), rate, **close
        )
    turned = effective_rank_rate(rows @ u @ columns, rows @ velocity @ columns, centered=False)
    torch.testing.assert_close(turned, rate, **close)


def test_ties_do_not_depend_on_the_vectors_that_lapack_gives() -> None:
    """Singular values 2, 2, 1 with orthonormal vectors: the sum of the tied rates is a trace."""
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(9, 3, generator=generator, dtype=torch.float64))
    u = q * torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
    velocity = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    expected = difference(u, velocity, False, 1e-3)
    assert float(effective_rank_rate(u, velocity, False)) == pytest.approx(float(expected), abs=1e-8)


def test_zeros_open_at_once_or_add_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    narrow, velocity = drawn(12, 2, 3)
    mix = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    u = narrow @ mix  # rank 2 of 4
    inside = effective_rank_rate(u, velocity @ mix)
    assert float(inside) == pytest.approx(float(difference(u, velocity @ mix, True, 1e-3)), abs=1e-8)
    # turning the row space keeps the zeros: σ̇ = 0 to first order
    skew = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    assert abs(float(effective_rank_rate(u, u @ (skew - skew.mT)))) < 1e-9
    outside = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    assert effective_rank_rate(u, outside) == torch.inf
    slopes = [float(effective_rank(u + t * outside) - effective_rank(u)) / t for t in (1e-3, 1e-6, 1e-9)]
    assert slopes[0] < slopes[1] < slopes[2]  # −log t


def test_a_point_what_is_not_finite_and_what_has_no_shape() -> None:
    u, velocity = drawn(6, 3, 0)
    point = torch.ones_like(u)
    assert effective_rank_rate(point, torch.zeros_like(u)) == 0
    assert effective_rank_rate(point, 0.3 * torch.ones_like(u)) == 0
    assert effective_rank_rate(point, velocity) == torch.inf
    both = torch.stack([u, u])
    both[1, 0, 0] = torch.nan
    rates = effective_rank_rate(both, velocity.expand_as(both))
    assert torch.isfinite(rates[0])
    assert torch.isnan(rates[1])
    assert torch.isnan(effective_rank_rate(u[:0], velocity[:0]))
    with pytest.raises(UserError, match=r"velocity of shape \(5, 3\)"):
        effective_rank_rate(u, velocity[:5])


def test_along_a_flow() -> None:
    """Oja's flow from given weights: the rate times a short time is what the rank changes by, to second order."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((50, 4)))
    c = torch.diag(torch.tensor([-1.0, -0.4, 0.2, 0.5], dtype=torch.float64))
    flow = OrthogonalFlow(c, "canonical")
    w1, w2 = (torch.linalg.qr(torch.from_numpy(rng.standard_normal((9, k))))[0] for k in (4, 3))
    state = flow.start(w1, w2)
    m = state.m
    velocity = -4 * (c @ m - m @ (m.mT @ c @ m))
    rate = float(effective_rank_rate(x @ m, x @ velocity))
    off = []
    for dt in (1e-3, 5e-4):
        later = flow.advance(state, dt).m
        off.append(float(effective_rank(x @ later) - effective_rank(x @ m)) / dt - rate)
    assert abs(off[1]) < 0.05 * abs(rate)
    assert off[0] / off[1] == pytest.approx(2, abs=0.02)
