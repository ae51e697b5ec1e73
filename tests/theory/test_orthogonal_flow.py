"""Laws of the orthogonal family, its long runs, and training that converges to it at first order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.theory import OrthogonalFlow, limit_rank, optimum, orthogonal_flow, solve
from sslmanifold.theory.frame import frame_state
from sslmanifold.theory.integrate import rk4
from sslmanifold.theory.velocities import frame_flow, printed_flow

KAPPAS = st.sampled_from([0.0, 1.0, 2.0, 4.0, 0.37])


def random_case(seed: int, d: int, z: int, scale: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lam = torch.randn(d, dtype=torch.float64, generator=generator)
    q = torch.randn(d, z, dtype=torch.float64, generator=generator)
    return lam, scale * q / torch.linalg.matrix_norm(q, 2)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 4), KAPPAS)
@settings(max_examples=60, deadline=None)
def test_law_of_e_for_every_kappa(seed, d, z, kappa) -> None:
    """Ė = 4(NE + EN), E = I − qᵀq, N = qᵀΛq; and the frame's R keeps RᵀR = E."""
    lam, q = random_case(seed, d, z)
    e, n = torch.eye(z, dtype=q.dtype) - q.T @ q, q.T @ (lam[:, None] * q)
    dq = orthogonal_flow(q, lam, kappa)
    torch.testing.assert_close(-(dq.T @ q + q.T @ dq), 4 * (n @ e + e @ n), rtol=0, atol=1e-12)
    state = frame_state(q, rows=z)
    dm, dr = frame_flow(state.m, state.r, lam, kappa)
    torch.testing.assert_close(dm, dq, rtol=0, atol=1e-12)
    torch.testing.assert_close(dr.T @ state.r + state.r.T @ dr, 4 * (n @ e + e @ n), rtol=0, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 3), KAPPAS)
@settings(max_examples=40, deadline=None)
def test_symmetries_of_the_right_hand_side(seed, d, z, kappa) -> None:
    """Equivariance under rotations of C's basis and of the outputs; linear in Λ."""
    lam, q = random_case(seed, d, z)
    generator = torch.Generator().manual_seed(seed + 1)
    o = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    p = torch.linalg.qr(torch.randn(z, z, dtype=torch.float64, generator=generator))[0]
    c = o @ torch.diag(lam) @ o.T
    expected = o @ orthogonal_flow(q, lam, kappa) @ p
    torch.testing.assert_close(orthogonal_flow(o @ q @ p, c, kappa), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        orthogonal_flow(q, -2.5 * lam, kappa), -2.5 * orthogonal_flow(q, lam, kappa), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(printed_flow(q, lam), orthogonal_flow(q, lam) / 2, rtol=0, atol=1e-13)


@given(st.integers(0, 10**6), st.integers(2, 5), KAPPAS)
@settings(max_examples=40, deadline=None)
def test_projector_flow_has_its_mirror(seed, d, kappa) -> None:
    """If P = qqᵀ solves the P-equation for Λ, so does I − P for −Λ."""
    lam, q = random_case(seed, d, d)
    big, eye = torch.diag(lam), torch.eye(d, dtype=q.dtype)

    def of_q(q: torch.Tensor, eigenvalues: torch.Tensor) -> torch.Tensor:
        dq = orthogonal_flow(q, eigenvalues, kappa)
        return dq @ q.T + q @ dq.T

    p = q @ q.T
    values, vectors = torch.linalg.eigh(eye - p)
    mirror = vectors * values.clamp_min(0).sqrt()
    torch.testing.assert_close(of_q(mirror, -lam), -of_q(q, lam), rtol=0, atol=1e-11)
    assert big.shape == (d, d)


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 3), st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=15, deadline=None)
def test_the_ball_is_invariant_and_rotations_commute_with_time(seed, d, z, kappa) -> None:
    z = min(z, d)
    lam, q = random_case(seed, d, z, scale=0.99)
    times = [0.1, 1.0, 5.0]
    trajectory = solve(q, lam, times, kappa=kappa).q
    assert float(torch.linalg.matrix_norm(trajectory, 2).max()) <= 1 + 1e-9
    generator = torch.Generator().manual_seed(seed)
    p = torch.linalg.qr(torch.randn(z, z, dtype=torch.float64, generator=generator))[0]
    torch.testing.assert_close(solve(q @ p, lam, times, kappa=kappa).q, trajectory @ p, rtol=0, atol=3e-9)


@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]), min_size=3, max_size=6),
    st.integers(1, 3),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.integers(0, 6),
)
@settings(max_examples=15, deadline=None)
def test_limits_and_ranks_with_repeats_and_zeros(values, z, seed, kappa, extra) -> None:
    """lim L = Σ_{i ≤ max(min(z, m), d + z − h)} λ_i for generic starts, spectra with repeats and zeros included."""
    lam = torch.tensor(values, dtype=torch.float64)
    d, z = len(values), min(z, len(values))
    h = max(d, z) + extra
    generator = torch.Generator().manual_seed(seed)
    w1 = torch.linalg.qr(torch.randn(h, d, dtype=torch.float64, generator=generator))[0]
    w2 = torch.linalg.qr(torch.randn(h, z, dtype=torch.float64, generator=generator))[0]
    end = solve(w1.T @ w2, lam, [60.0], kappa=kappa, hidden=h)
    assert abs(float(end.loss(lam)[0]) - float(optimum(lam, z, h))) < 1e-6
    if 0.0 not in values:  # zero directions keep some norm for ever: the rank is then not the rule's
        rank = int((torch.linalg.svdvals(end.q[0]) > 1e-6).sum())
        assert rank == limit_rank(lam, z, h)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("h", "z"), [(5, 2), (5, 5), (6, 3), (9, 3)])
def test_long_runs_stay_exact_at_every_width(h, z, kappa) -> None:
    """h = d and h < d + z to t = 100: finite, orthonormal structure to rounding, and the loss at its optimum."""
    lam = torch.tensor([-1.0, 0.3, 0.5, 1.0, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(h)
    w1 = torch.linalg.qr(torch.randn(h, 5, dtype=torch.float64, generator=generator))[0]
    w2 = torch.linalg.qr(torch.randn(h, z, dtype=torch.float64, generator=generator))[0]
    flow = OrthogonalFlow(lam, kappa)
    state = flow.start(w1, w2)
    assert state.r.shape[-2] == min(z, h - 5)
    for dt in (0.5, 1.5, 3.0, 15.0, 80.0):
        state = flow.advance(state, dt)
    assert torch.isfinite(state.m).all()
    frame = torch.cat([state.m, state.r])
    torch.testing.assert_close(frame.T @ frame, torch.eye(z, dtype=torch.float64), rtol=0, atol=1e-12)
    forced = max(0, 5 + z - h)
    assert int((torch.linalg.svdvals(state.m) > 1 - 1e-12).sum()) >= forced
    assert abs(float(flow.loss(state)) - float(flow.optimum(z, h))) < 1e-9
    solved = solve(w1.T @ w2, lam, [0.5, 100.0], kappa=kappa, hidden=h)
    assert abs(float(solved.loss(lam)[-1]) - float(optimum(lam, z, h))) < 1e-9


def test_integrating_q_itself_blows_up_where_the_frame_does_not() -> None:
    """h = d: singular values forced to 1 in positive directions; roundoff grows like e^{8λt} without the frame."""
    lam = torch.tensor([-1.0, 0.3, 0.5, 1.0, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    q0 = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64, generator=generator))[0]
    plain = rk4(q0, lam, 0.01, 1000)[-1]
    assert not abs(float((plain.T @ plain - torch.eye(3)).abs().max())) < 0.1
    robust = solve(q0, lam, [10.0], hidden=5).q[0]
    torch.testing.assert_close(robust.T @ robust, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("z", [1, 2, 3])
@pytest.mark.parametrize("h", [5, 6, 8, 60])
@pytest.mark.parametrize(("kind", "kappa"), [("orthogonal", 0.0), ("projected", 1.0), ("orthogonal", 2.0)])
def test_training_converges_to_its_flow_at_first_order(draw, gaps, follow, kind, kappa, h, z) -> None:
    w1, w2, c = draw(h, 5, z, seed=h + z)
    options = {"kappa": kappa} if kind == "orthogonal" else {}
    m = follow(OrthogonalFlow(torch.from_numpy(c), kappa), w1, w2, 0.4, pieces=20)
    errors = gaps(kind, w1, w2, c, m, 0.4, (50, 100, 200), **options)
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize(("kind", "kappa"), [("orthogonal", 1.0), ("projected", 0.0), ("projected", 2.0)])
def test_a_wrong_pairing_does_not_converge(draw, gaps, follow, kind, kappa) -> None:
    w1, w2, c = draw(12, 5, 2, seed=1)
    m = follow(OrthogonalFlow(torch.from_numpy(c), kappa), w1, w2, 0.4)
    errors = gaps(
        kind, w1, w2, c, m, 0.4, (100, 200, 400), **({"kappa": 0.0} if kind == "orthogonal" else {})
    )
    assert errors[1] / errors[2] < 1.3


@pytest.mark.parametrize(("h", "d", "z"), [(4, 6, 2), (4, 6, 4), (3, 7, 1)])
def test_orthonormal_rows_below_d(draw, gaps, follow, h, d, z) -> None:
    """W1W1ᵀ = I_h, κ = 0: q̇ = −2(I − qqᵀ)Λq, all z directions are used whatever the sign."""
    w1, w2, c = draw(h, d, z, seed=h)
    flow = OrthogonalFlow(torch.from_numpy(c), 0.0, rows=True)
    errors = gaps("rows", w1, w2, c, follow(flow, w1, w2, 0.4), 0.4, (100, 200, 400))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1
    positive = OrthogonalFlow(torch.arange(1.0, d + 1), 0.0, rows=True)
    end = positive.advance(positive.start(torch.from_numpy(w1), torch.from_numpy(w2)), 30.0)
    assert float(positive.loss(end)) == pytest.approx(z * (z + 1) / 2, abs=1e-9)
    assert float(positive.optimum(z)) == z * (z + 1) / 2


def test_advance_is_exact_enough_and_additive(draw, follow) -> None:
    w1, w2, c = draw(20, 6, 2, seed=3)
    for kappa in (0.0, 1.0, 2.0):
        flow = OrthogonalFlow(torch.from_numpy(c), kappa)
        at_once, in_pieces = follow(flow, w1, w2, 1.0), follow(flow, w1, w2, 1.0, pieces=500)
        assert float((at_once - in_pieces).norm()) < 2e-5
        values, vectors = np.linalg.eigh(c)
        q = solve(torch.from_numpy(vectors.T @ w1.T @ w2), torch.from_numpy(values), [1.0], kappa=kappa).q[0]
        torch.testing.assert_close(torch.from_numpy(vectors.T) @ in_pieces, q, rtol=0, atol=1e-9)
        trajectory = flow.trajectory(flow.start(torch.from_numpy(w1), torch.from_numpy(w2)), [0.0, 0.5, 1.0])
        assert trajectory.q.shape == (3, 6, 2)
        torch.testing.assert_close(trajectory.m[-1], in_pieces, rtol=0, atol=2e-5)


def test_mistakes_are_named() -> None:
    lam = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    q = torch.tensor([[0.5], [0.1]], dtype=torch.float64)
    with pytest.raises(UserError, match="ascending"):
        solve(q, lam, [1.0, 0.5])
    with pytest.raises(UserError, match="‖q0‖"):
        solve(3 * q, lam, [1.0])
    with pytest.raises(UserError, match="hidden=2"):
        solve(q, lam, [1.0], hidden=1)
    with pytest.raises(UserError, match="must be 1"):
        solve(q, lam, [1.0], hidden=2)
    with pytest.raises(UserError, match="NaN"):
        solve(q * torch.nan, lam, [1.0])
    with pytest.raises(UserError, match="h ≥ d"):
        OrthogonalFlow(torch.ones(4)).start(torch.eye(4)[:3], torch.eye(4)[:3, :1])
    with pytest.raises(UserError, match="differs from the identity"):
        OrthogonalFlow(torch.ones(2)).start(2 * torch.eye(3)[:, :2], torch.eye(3)[:, :1])
    with pytest.raises(UserError, match="metric=grassmann"):
        OrthogonalFlow(torch.ones(2), 1.0, rows=True)
