"""Closed forms: against the integrator to 1e-10 for t ≤ 20, and by their own laws at t = 1e4."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.theory import solve
from sslmanifold.theory.closed_form import OjaSubspace, projector
from sslmanifold.theory.frame import frame_state

LATE = [0.01, 0.2, 1.0, 5.0, 20.0]


def start(d: int, z: int, h: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    w1 = torch.linalg.qr(torch.randn(h, d, dtype=torch.float64, generator=generator))[0]
    w2 = torch.linalg.qr(torch.randn(h, z, dtype=torch.float64, generator=generator))[0]
    return w1.T @ w2


SPECTRA = {
    "both signs": [-3.0, -1.5, -0.5, 0.4, 1.2],
    "repeats": [-1.0, -1.0, 0.5, 0.5, 2.0],
    "zeros": [-1.0, 0.0, 0.0, 0.7, 0.7],
    "positive": [0.2, 0.3, 0.5, 1.0, 2.0],
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("h", "z"), [(5, 2), (6, 3), (20, 1), (20, 3), (5, 5)])
def test_canonical_against_the_integrator(spectrum, h, z) -> None:
    lam, q0 = torch.tensor(SPECTRA[spectrum], dtype=torch.float64), start(5, z, h, seed=h + z)
    closed = solve(q0, lam, LATE, kappa=2, hidden=h)
    assert closed.method == "closed_form"
    other = solve(q0, lam, LATE, kappa=2, hidden=h, method="adaptive")
    torch.testing.assert_close(closed.q, other.q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_one_output_against_the_integrator(spectrum, kappa) -> None:
    lam, q0 = torch.tensor(SPECTRA[spectrum], dtype=torch.float64), start(5, 1, 9, seed=2)
    closed = solve(q0, lam, LATE, kappa=kappa)
    assert closed.method == "closed_form"
    torch.testing.assert_close(
        closed.q, solve(q0, lam, LATE, kappa=kappa, method="adaptive").q, rtol=0, atol=1e-10
    )


def test_one_output_grassmann_by_its_own_formula() -> None:
    """κ = 0: with p = e^{−Λσ}q0 and K = |p|⁴/(1 − s0), |q|² = (−K + √(K² + 4K))/2 at every point of the curve."""
    lam, q0 = torch.tensor(SPECTRA["both signs"], dtype=torch.float64), start(5, 1, 9, seed=4)
    trajectory = solve(q0, lam, [0.05, 0.2, 0.6], kappa=0.0)
    for q in trajectory.q[:, :, 0]:
        # σ from the ratio of two coordinates, which only p's exponentials change
        sigma = float(torch.log((q[0] / q[4]) / (q0[0, 0] / q0[4, 0])) / (lam[4] - lam[0]))
        k = float((torch.exp(-lam * sigma) * q0[:, 0]).square().sum()) ** 2 / (1 - float(q0.square().sum()))
        assert float(q.square().sum()) == pytest.approx((-k + np.sqrt(k * k + 4 * k)) / 2, abs=1e-11)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("h", "z"), [(5, 3), (6, 3), (20, 3)])
def test_projector_is_good_to_rounding_at_any_time(spectrum, h, z) -> None:
    """P(t) against 60-digit-safe scaling: by expm on early times, by its own group law up to t = 1e4."""
    lam, q0 = torch.tensor(SPECTRA[spectrum], dtype=torch.float64), start(5, z, h, seed=1)
    state = frame_state(q0, rows=min(z, h - 5))
    naive = scipy.linalg.expm(-4 * np.diag(lam.numpy()) * 0.2) @ q0.numpy()
    s = np.eye(z) - q0.numpy().T @ q0.numpy() + naive.T @ naive
    np.testing.assert_allclose(
        projector(state, lam, 0.2).numpy(), naive @ np.linalg.solve(s, naive.T), atol=1e-13
    )
    frame = torch.cat([state.m, state.r]).numpy()
    subspace = OjaSubspace(frame, lam.numpy())
    for t in (1.0, 30.0, 1e4):
        p = projector(state, lam, t)
        assert torch.isfinite(p).all()
        values = torch.linalg.eigvalsh(p)
        assert float(values.min()) > -1e-14
        assert float(values.max()) < 1 + 1e-14
        half = subspace.basis(t / 2)
        again = OjaSubspace(half, lam.numpy()).basis(t / 2)[:5]
        if t <= 30.0:  # later, what the half-way basis has lost below rounding cannot come back
            np.testing.assert_allclose(again @ again.T, p.numpy(), atol=1e-9)


@pytest.mark.parametrize(("h", "z"), [(5, 2), (6, 2), (6, 3), (20, 2), (20, 4)])
def test_converged_long_before_ten_thousand(h, z) -> None:
    lam, q0 = torch.tensor(SPECTRA["both signs"], dtype=torch.float64), start(5, z, h, seed=7)
    end = solve(q0, lam, [100.0, 1e4], kappa=2, hidden=h).q
    torch.testing.assert_close(end[0], end[1], rtol=0, atol=1e-12)
    rank = max(min(z, 3), 5 + z - h)
    expected = torch.zeros(5, dtype=torch.float64)
    expected[:rank] = 1
    torch.testing.assert_close(end[1] @ end[1].T, torch.diag(expected), rtol=0, atol=1e-13)


@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0.01, 3.0), st.floats(0.01, 3.0))
@settings(max_examples=20, deadline=None)
def test_the_flow_is_a_semigroup(seed, z, first, second) -> None:
    lam, q0 = torch.tensor(SPECTRA["both signs"], dtype=torch.float64), start(5, z, 12, seed)
    for kappa in (2.0,) if z > 1 else (0.0, 1.0, 2.0):
        middle = solve(q0, lam, [first], kappa=kappa).q[0]
        torch.testing.assert_close(
            solve(middle, lam, [second], kappa=kappa).q[0],
            solve(q0, lam, [first + second], kappa=kappa).q[0],
            rtol=0,
            atol=1e-7,  # I − qᵀq of a nearly converged start has lost half its digits
        )


def test_there_is_no_closed_form_elsewhere() -> None:
    with pytest.raises(UserError, match="no closed form"):
        solve(start(5, 2, 9, 0), torch.ones(5), [1.0], kappa=0.0, method="closed_form")


def test_zero_and_unit_starts() -> None:
    lam = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    zero = solve(torch.zeros(2, 1, dtype=torch.float64), lam, [0.0, 3.0], kappa=0.0)
    assert float(zero.q.abs().max()) == 0.0
    unit = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    for kappa in (0.0, 1.0, 2.0):
        q = solve(unit, lam, [0.5, 50.0], kappa=kappa).q
        torch.testing.assert_close(q.norm(dim=1), torch.ones(2, 1, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            q[1], torch.tensor([[1.0], [0.0]], dtype=torch.float64), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("z", [1, 2, 3])
@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_a_time_may_be_asked_for_twice(z: int, kappa: float) -> None:
    """Ascending times need not be distinct, whatever method answers."""
    generator = torch.Generator().manual_seed(z)
    eigvals = torch.tensor([-3.0, -1.5, -0.5, 0.4, 1.2], dtype=torch.float64)
    q0 = 0.2 * torch.randn(5, z, generator=generator, dtype=torch.float64)
    twice = solve(q0, eigvals, [0.0, 0.0, 0.5, 0.5, 2.0], kappa=kappa)
    once = solve(q0, eigvals, [0.0, 0.5, 2.0], kappa=kappa)
    assert twice.times.tolist() == [0.0, 0.0, 0.5, 0.5, 2.0]
    assert torch.equal(twice.q, once.q[[0, 0, 1, 1, 2]])
