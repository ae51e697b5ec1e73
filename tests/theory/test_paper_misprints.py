"""What the paper prints wrongly: each printed statement fails here, and its correction holds. (docs/theory.md.)"""

import numpy as np
import pytest
import torch

from sslmanifold.theory import OrthogonalFlow, cross_moment, linear_dynamics, optimum, solve
from sslmanifold.theory.integrate import euler


def triplets(n: int = 40, d: int = 3, shift: float = 0.0) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)) * np.linspace(1.5, 0.4, d) + shift
    return [torch.from_numpy(a) for a in (x, x + 0.3 * rng.standard_normal((n, d)), x[rng.permutation(n)])]


def test_eq_7_non_contrastive_lacks_its_minus() -> None:
    x, pos, _ = triplets()
    m = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = -((x @ m) * (pos @ m)).sum()  # Eq. 2
    printed = sum(torch.outer(a, b) for a, b in zip(x, pos, strict=True))
    printed = (printed + printed.T) / 2
    torch.testing.assert_close((m * (cross_moment(x, pos) @ m)).sum(), loss)
    torch.testing.assert_close((m * (printed @ m)).sum(), -loss)
    # the printed sign makes every direction positive: the flow would forget everything
    assert float(torch.linalg.eigvalsh(printed).min()) > 0


def test_eq_7_multi_pair_lacks_the_anchor_index() -> None:
    """Σ_i Σ_j x_i x_jᵀ without the anchor's index on the pair is (Σx)(Σx)ᵀ: zero on centred data."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 3))
    x -= x.mean(0)
    pos, neg = x[:, None] + rng.standard_normal((30, 2, 3)), x[rng.integers(30, size=(30, 4))]
    shared_neg, shared_pos = neg[0], pos[0]  # pairs x_j that do not know their anchor
    printed = sum(np.outer(a, shared_neg.sum(0) - shared_pos.sum(0)) for a in x)
    assert np.abs(printed).max() < 1e-12
    right = cross_moment(*map(torch.from_numpy, (x, pos, neg)))
    assert float(right.abs().max()) > 1


def test_unequal_pair_counts_add_an_artefact_to_sums() -> None:
    """p ≠ q, summed: n(αq − βp)μμᵀ appears, here of rank one along the mean; means have none."""
    rng = np.random.default_rng(2)
    n, mu = 4000, np.array([5.0, 0.0, 0.0])
    x = torch.from_numpy(rng.standard_normal((n, 3)) + mu)
    pos = x[:, None] + 0.1 * torch.from_numpy(rng.standard_normal((n, 1, 3)))
    neg = x[torch.from_numpy(rng.integers(n, size=(n, 4)))]
    summed, averaged = cross_moment(x, pos, neg), cross_moment(x, pos, neg, reduction="mean")
    assert float(summed[0, 0]) / n == pytest.approx(4 * 25 - 26, rel=0.05)
    assert float(averaged[0, 0]) == pytest.approx(-1.0, abs=0.5)


def test_eq_12_drops_a_factor_of_two_and_lags(paper_case, train_numpy) -> None:
    """As printed it is Eq. 9's Euler at half the step; refining the step leaves it behind training, Eq. 9 not."""
    lam, q0 = paper_case
    torch.testing.assert_close(
        euler(q0, lam, 0.02, 40, printed=True)[-1], euler(q0, lam, 0.01, 40)[-1], rtol=0, atol=1e-14
    )
    e, v = np.linalg.eigh(np.eye(2) - q0.numpy().T @ q0.numpy())
    w1, w2 = np.vstack([np.eye(5), np.zeros((2, 5))]), np.vstack([q0.numpy(), (v * np.sqrt(e)) @ v.T])
    printed, corrected = [], []
    for steps in (100, 200, 400):
        m = torch.from_numpy(train_numpy("orthogonal", w1, w2, np.diag(lam.numpy()), 0.2 / steps, steps))
        printed.append(float((euler(q0, lam, 0.2 / steps, steps, printed=True)[-1] - m).norm()))
        corrected.append(float((euler(q0, lam, 0.2 / steps, steps)[-1] - m).norm()))
    assert min(printed) > 0.3
    assert printed[1] / printed[2] < 1.05
    assert 1.9 < corrected[1] / corrected[2] < 2.1


def test_eq_11_climbs_with_the_printed_sign(draw, train_numpy) -> None:
    w1, w2, c = draw(9, 5, 2, seed=0)
    losses = {}
    for sign in (1, -1):  # the reference descends for lr > 0
        m = train_numpy("projected", w1, w2, c, -sign * 0.01, 500)
        losses[sign] = np.trace(m.T @ c @ m)
    start = np.trace((w1.T @ w2).T @ c @ (w1.T @ w2))
    assert losses[1] > start > losses[-1]


def test_what_the_paper_trains_is_not_what_theorem_2_describes(draw, gaps, follow) -> None:
    """Eq. 11 with projection follows κ = 1; Theorem 2 is κ = 0. Together with Eq. 12 this is Figure 3's lag."""
    w1, w2, c = draw(40, 5, 2, seed=3)
    stays = gaps(
        "projected", w1, w2, c, follow(OrthogonalFlow(torch.from_numpy(c), 0.0), w1, w2, 0.4), 0.4, (100, 400)
    )
    goes = gaps(
        "projected", w1, w2, c, follow(OrthogonalFlow(torch.from_numpy(c), 1.0), w1, w2, 0.4), 0.4, (100, 400)
    )
    assert stays[0] / stays[1] < 1.5
    assert goes[0] / goes[1] > 3.5


def test_projecting_by_qr_is_in_no_flow_of_the_family(draw) -> None:
    """A plain step followed by QR (positive diagonal) depends on the data's basis and stalls above the optimum."""

    def qr(w: np.ndarray) -> np.ndarray:
        q, r = np.linalg.qr(w)
        return q * np.sign(np.diag(r))

    w1, w2, c = draw(9, 5, 2, seed=2)
    rotation = qr(np.random.default_rng(0).standard_normal((5, 5)))
    ends = []
    for basis in (np.eye(5), rotation):
        a, b, moment = w1 @ basis, w2, basis.T @ c @ basis
        for _ in range(8000):
            cm = moment @ a.T @ b
            a, b = qr(a - 0.02 * 2 * b @ cm.T), qr(b - 0.02 * 2 * a @ cm)
        m = basis @ a.T @ b
        ends.append((m, np.trace(m.T @ c @ m)))
    best = float(optimum(torch.linalg.eigvalsh(torch.from_numpy(c)), 2))
    assert np.abs(ends[0][0] - ends[1][0]).max() > 1e-2
    assert max(end[1] for end in ends) > best + 1e-3


def test_expectation_of_c_is_the_covariance_not_the_second_moment() -> None:
    """E[C] = −n Cov(x): with a mean, the print's −n E[xxᵀ] is off by n μμᵀ."""
    x, pos, neg = triplets(n=20000, shift=3.0)
    c = cross_moment(x, pos, neg, reduction="mean")
    centred = x - x.mean(0)
    assert float((c + centred.T @ centred / len(x)).abs().max()) < 0.15
    assert float((c + x.T @ x / len(x)).abs().max()) > 5


def test_prop_3_prints_a_norm_for_a_trace() -> None:
    """ "ℒ = ‖W2ᵀW1CW1ᵀW2‖₂²" is not the loss of Eqs. 1–2; the trace is."""
    x, pos, neg = triplets()
    rng = np.random.default_rng(0)
    w1, w2 = (torch.from_numpy(rng.standard_normal((6, k))) for k in (3, 2))
    u = (x @ w1.T @ w2, pos @ w1.T @ w2, neg @ w1.T @ w2)
    loss = float((u[0] * (u[2] - u[1])).sum())
    small = w2.T @ w1 @ cross_moment(x, pos, neg) @ w1.T @ w2
    assert float(small.trace()) == pytest.approx(loss)
    assert abs(float(torch.linalg.matrix_norm(small, 2)) ** 2 - loss) > 1


def test_prop_3_item_4_needs_h_at_least_d_plus_z_minus_m() -> None:
    lam = torch.tensor([-1.0, 0.5, 0.8, 1.0], dtype=torch.float64)  # m = 1
    ball = -1.0
    generator = torch.Generator().manual_seed(0)
    for h, expected in ((4, 0.3), (5, -0.5), (6, ball), (9, ball)):  # d + z − m = 6 for z = 3
        w1, w2 = (
            torch.linalg.qr(torch.randn(h, k, dtype=torch.float64, generator=generator))[0] for k in (4, 3)
        )
        end = solve(w1.T @ w2, lam, [80.0], hidden=h)
        assert float(end.loss(lam)[0]) == pytest.approx(expected, abs=1e-8)
        assert float(optimum(lam, 3, h)) == pytest.approx(expected, abs=1e-12)


def test_theorem_3_goes_to_the_sign_and_needs_width_for_zero() -> None:
    """z = 1: the limit is sign(v1ᵀq0) v1; with all λ > 0, q → 0 only for h ≥ d + 1 (at h = d, |q| = 1 for ever)."""
    lam = torch.tensor([-1.0, 0.3, 0.8], dtype=torch.float64)
    q0 = torch.tensor([[0.2], [0.5], [-0.4]], dtype=torch.float64)
    for sign in (1.0, -1.0):
        end = solve(sign * q0, lam, [60.0]).q[0, :, 0]
        torch.testing.assert_close(end, sign * torch.eye(3, dtype=torch.float64)[0], rtol=0, atol=1e-10)
    positive = torch.tensor([0.3, 0.8, 1.0], dtype=torch.float64)
    assert float(solve(q0, positive, [60.0], hidden=4).q.norm()) < 1e-10
    unit = q0 / q0.norm()
    end = solve(unit, positive, [60.0], hidden=3).q[0]
    assert float(end.norm()) == pytest.approx(1.0, abs=1e-12)
    assert abs(float(end[0, 0])) == pytest.approx(1.0, abs=1e-10)


def test_prop_1_is_about_directions_since_nothing_converges() -> None:
    """The linear model diverges (Θ0 e^{−2Ct}); what collapses is its direction: σ2/σ1 → 0."""
    x, pos, neg = triplets()
    theta0 = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta = linear_dynamics(theta0, cross_moment(x, pos, neg), [0.0, 0.05, 0.2])
    sigma = torch.linalg.svdvals(theta)
    assert float(sigma[2, 0]) > 1e4 * float(sigma[0, 0])
    assert float(sigma[2, 1]) > float(sigma[0, 1])  # the second direction grows too, only slower
    ratio = sigma[:, 1] / sigma[:, 0]
    assert float(ratio[2]) < 0.01 * float(ratio[0])
