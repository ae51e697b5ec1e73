"""Predictions against solved runs and plain gradient descent."""

import itertools
import math

import numpy as np
import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.theory import (
    cross_moment,
    default_step,
    frobenius_optimum,
    largest_stable_step,
    limit_rank,
    limit_subspace,
    operator_norm_optimum,
    optimum,
    rates,
    solve,
    steps_to_tolerance,
    time_to_tolerance,
)

LAM = torch.tensor([-3.0, -1.5, -0.5, 0.4, 1.2], dtype=torch.float64)


def start(h: int, z: int, seed: int, d: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    w1 = torch.linalg.qr(torch.randn(h, d, dtype=torch.float64, generator=generator))[0]
    w2 = torch.linalg.qr(torch.randn(h, z, dtype=torch.float64, generator=generator))[0]
    return w1.T @ w2


@pytest.mark.parametrize(("h", "z"), list(itertools.product([5, 6, 7, 8, 20], [1, 2, 4, 5])))
def test_optimum_by_brute_force(h, z) -> None:
    """The smallest Σ over which singular values may be 0 or 1, d + z − h of them forced, of diagonal maps."""
    values = LAM.tolist()
    forced = max(0, 5 + z - h)
    best = min(sum(s) for k in range(forced, z + 1) for s in itertools.combinations(values, k))
    assert float(optimum(LAM, z, h)) == pytest.approx(best, abs=1e-12)
    assert float(optimum(LAM.flip(0), z, h)) == pytest.approx(best, abs=1e-12)


def test_item_four_of_prop_3_needs_width() -> None:
    """h = d with few negative eigenvalues: orthogonality costs; operator-norm balls do not pay it."""
    lam = torch.tensor([-1.0, 0.3, 0.5], dtype=torch.float64)
    assert float(optimum(lam, 2, hidden=3)) == pytest.approx(-0.7)
    assert float(optimum(lam, 2, hidden=4)) == pytest.approx(-1.0)
    assert float(operator_norm_optimum(lam, 2)) == pytest.approx(-1.0)
    end = solve(start(3, 2, 0, d=3), lam, [80.0], hidden=3)
    assert float(end.loss(lam)[0]) == pytest.approx(-0.7, abs=1e-9)


def test_other_optima_and_batches() -> None:
    assert float(frobenius_optimum(LAM, 2.0, 0.5)) == pytest.approx(-3.0)
    assert float(operator_norm_optimum(LAM, 2, 2.0)) == pytest.approx(-18.0)
    assert float(frobenius_optimum(LAM.abs())) == 0.0
    stacked = optimum(torch.stack([LAM, -LAM]), 2)
    assert stacked.tolist() == pytest.approx([-4.5, -1.6])


@pytest.mark.parametrize(("h", "z"), [(5, 2), (5, 4), (6, 5), (12, 2), (12, 4)])
@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_limit_subspace_and_rank_are_reached(h, z, kappa) -> None:
    q = solve(start(h, z, 3), LAM, [60.0], kappa=kappa, hidden=h).q[0]
    rank = limit_rank(LAM, z, h)
    left, sigma, _ = torch.linalg.svd(q)
    assert sigma[:rank].tolist() == pytest.approx([1.0] * rank, abs=1e-9)
    assert sigma[rank:].tolist() == pytest.approx([0.0] * (z - rank), abs=1e-9)
    basis = limit_subspace(LAM, z, h)
    torch.testing.assert_close(left[:, :rank] @ left[:, :rank].T, basis @ basis.T, rtol=0, atol=1e-9)
    v = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(limit_subspace(LAM, z, h, v), v @ basis)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_span_radial_and_excess_rates(kappa) -> None:
    """Measured exponents: exp(−(2+κ)(λ_{z+1} − λ_z)t), exp(−8|λ_z|t), exp(−4λ_{m+1}t)."""
    span = rates(LAM, 2, kappa=kappa)
    basis = torch.eye(5, dtype=torch.float64)[:, :2]
    t = [1.5, 2.5]
    q = solve(start(20, 2, 1), LAM, t, kappa=kappa).q
    outside = [float((x - basis @ (basis.T @ x)).norm()) for x in q]
    assert math.log(outside[0] / outside[1]) == pytest.approx(span.span, rel=0.02)
    radial = [
        float(1 - torch.linalg.svdvals(x)[-1] ** 2)
        for x in solve(start(20, 2, 1), LAM, [1.0, 1.3], kappa=kappa).q
    ]
    assert math.log(radial[0] / radial[1]) / 0.3 == pytest.approx(span.radial, rel=0.05)
    assert span.excess == math.inf
    four = rates(LAM, 4, kappa=kappa)
    q = solve(start(20, 4, 1), LAM, [4.0, 5.0], kappa=kappa).q
    last = [float(torch.linalg.svdvals(x)[-1]) for x in q]
    assert math.log(last[0] / last[1]) == pytest.approx(four.excess, rel=0.02)


@pytest.mark.parametrize("z", [1, 2, 4])
@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_predicted_time_is_when_it_happens(z, kappa) -> None:
    q0 = start(30, z, 2)
    time = time_to_tolerance(LAM, z, 1e-4, kappa=kappa, q0=q0)
    best = float(optimum(LAM, z))
    gap = [
        (float(x) - best) / abs(best)
        for x in solve(q0, LAM, [0.99 * time, 1.01 * time], kappa=kappa).loss(LAM)
    ]
    assert gap[0] > 1e-4 > gap[1]
    blind = time_to_tolerance(LAM, z, 1e-4, kappa=kappa)
    assert 0.2 < blind / time < 5
    assert steps_to_tolerance(LAM, z, 1e-4, kappa=kappa, q0=q0, step=0.01) == math.ceil(time / 0.01)


def test_flat_gaps_take_for_ever() -> None:
    tied = torch.tensor([-1.0, -1.0, 0.5], dtype=torch.float64)
    assert math.isinf(time_to_tolerance(tied, 1, 1e-3))
    with pytest.raises(UserError, match="equal"):
        limit_subspace(tied, 1)
    with pytest.raises(UserError, match="tolerance"):
        time_to_tolerance(LAM, 1, 2.0)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("spectrum", [[-3.0, -1.5, -0.5, 0.4, 1.2], [-1.0, -0.9, 2.0, 3.0, 4.0]])
def test_the_largest_stable_step_is_the_boundary(train_numpy, kappa, spectrum) -> None:
    """Euler of q̇ near its minimum: contracts just below the stated step, leaves it just above."""
    lam = torch.tensor(spectrum, dtype=torch.float64)
    limit = largest_stable_step(lam, kappa)
    generator = torch.Generator().manual_seed(0)
    for factor, stable in ((0.97, True), (1.05, False)):
        q = torch.eye(5, 1, dtype=torch.float64) * (1 - 1e-6)
        q = q + 1e-6 * torch.randn(5, 1, dtype=torch.float64, generator=generator)
        from sslmanifold.theory.integrate import euler

        end = euler(q, lam, factor * limit, 400, kappa=kappa)[-1]
        away = float((end - torch.eye(5, 1, dtype=torch.float64)).norm())
        assert (away < 1e-6) == stable


def test_default_step_is_stable_and_scales() -> None:
    assert default_step(LAM) == pytest.approx(1 / 60)
    assert default_step(LAM, 2.0, 1.0) == pytest.approx(1 / 240)
    assert default_step(LAM, 0.5, 0.5) == pytest.approx(1 / 60)
    for kappa in (0.0, 1.0, 2.0):
        assert default_step(LAM) < largest_stable_step(LAM, kappa)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = cross_moment(x, x)
    assert default_step(torch.linalg.eigvalsh(10 * c)) == pytest.approx(
        default_step(torch.linalg.eigvalsh(c)) / 10
    )
    with pytest.raises(UserError, match="nothing to learn"):
        default_step(torch.zeros(3))
    with pytest.raises(UserError, match="hidden=5"):
        optimum(LAM, 2, hidden=4)
    with pytest.raises(UserError, match="embedding=0"):
        optimum(LAM, 0)
    assert np.isfinite(largest_stable_step(LAM))
