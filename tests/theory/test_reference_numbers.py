"""The family's reference values, by every method and by training: to 1e-10."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sslmanifold.theory import OrthogonalFlow, orthogonal_flow, solve
from sslmanifold.theory.integrate import euler, rk4

CASES = [
    (0.0, 0.1, -1.352363086989, 0.586927681401, 0.124257592705),
    (1.0, 0.1, -1.458418045878, 0.610553619478, 0.125943635469),
    (2.0, 1.0, -4.499377118243, 0.944507093544, 0.328491011903),
]


@pytest.mark.parametrize("method", ["auto", "adaptive", "lifted_rk4"])
@pytest.mark.parametrize(("kappa", "t", "loss", "q00", "q01"), CASES)
def test_solve(paper_case, kappa, t, loss, q00, q01, method) -> None:
    lam, q0 = paper_case
    trajectory = solve(q0, lam, [t], kappa=kappa, method=method)
    assert abs(float(trajectory.loss(lam)[0]) - loss) < 1e-10 + 5e-13
    assert abs(float(trajectory.q[0, 0, 0]) - q00) < 1e-10 + 5e-13
    assert abs(float(trajectory.q[0, 0, 1]) - q01) < 1e-10 + 5e-13
    assert trajectory.method == (
        ("closed_form" if kappa == 2 else "adaptive") if method == "auto" else method
    )


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0, 4.0])
def test_solve_against_scipy_on_the_printed_formula(paper_case, kappa) -> None:
    """A second implementation: Eq. 9's family written out entry by entry, Radau instead of DOP853."""
    lam, q0 = paper_case
    big = np.diag(lam.numpy())

    def velocity(_, flat):
        q = flat.reshape(5, 2)
        return (-4 * big @ q + (2 - kappa) * big @ q @ q.T @ q + (2 + kappa) * q @ q.T @ big @ q).ravel()

    times = [0.05, 0.3, 1.0, 2.0]
    other = solve_ivp(velocity, (0, 2), q0.numpy().ravel(), "Radau", times, rtol=1e-11, atol=1e-13).y.T
    mine = solve(q0, lam, times, kappa=kappa).q.numpy().reshape(4, 10)
    np.testing.assert_allclose(mine, other, atol=2e-9)


def test_euler_of_eq_12_corrected_and_as_printed(paper_case) -> None:
    lam, q0 = paper_case

    def loss(q: torch.Tensor) -> float:
        return float((q * lam[:, None] * q).sum())

    assert abs(loss(euler(q0, lam, 0.01, 50)[-1]) - -4.343383399215) < 1e-10
    assert abs(loss(euler(q0, lam, 0.01, 50, printed=True)[-1]) - -3.372530790457) < 1e-10


@pytest.mark.parametrize(
    ("kind", "kappa", "expected"),
    [
        ("orthogonal", 0.0, -4.336741987348),
        ("projected", 1.0, -4.378393698337),  # a plain step before the polar factor, not a tangent one
    ],
)
def test_training_from_the_lift(paper_case, train_numpy, kind, kappa, expected) -> None:
    """50 steps at η = .01 from W1 = [I; 0], W2 = [q0; E0^{1/2}]: the training side of the comparison."""
    lam, q0 = paper_case
    e, v = np.linalg.eigh(np.eye(2) - q0.numpy().T @ q0.numpy())
    w1 = np.vstack([np.eye(5), np.zeros((2, 5))])
    w2 = np.vstack([q0.numpy(), (v * np.sqrt(e)) @ v.T])
    m = train_numpy(kind, w1, w2, np.diag(lam.numpy()), 0.01, 50)
    assert abs((m * lam.numpy()[:, None] * m).sum() - expected) < 1e-10
    # and the flow object starts from those weights at exactly q0
    state = OrthogonalFlow(lam, kappa).start(torch.from_numpy(w1), torch.from_numpy(w2))
    torch.testing.assert_close(state.m, q0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_orders_of_the_integrators(paper_case, kappa) -> None:
    lam, q0 = paper_case
    exact = solve(q0, lam, [0.4], kappa=kappa).q[0]

    def slope(errors: list[float]) -> float:
        return float(np.log2(errors[0] / errors[1]))

    first = [float((euler(q0, lam, 0.4 / n, n, kappa=kappa)[-1] - exact).norm()) for n in (200, 400)]
    fourth = [float((rk4(q0, lam, 0.4 / n, n, kappa=kappa)[-1] - exact).norm()) for n in (20, 40)]
    assert 0.95 < slope(first) < 1.05
    assert 3.8 < slope(fourth) < 4.4
    flow = OrthogonalFlow(lam, kappa)
    flow.step_limit = float("inf")  # so that each advance is one step
    lifted = []
    for n in (20, 40):
        from sslmanifold.theory.frame import frame_state

        state = frame_state(q0, rows=2)
        for _ in range(n):
            state = flow.advance(state, 0.4 / n)
        lifted.append(float((state.m - exact).norm()))
    assert 3.7 < slope(lifted) < 4.6


def test_batches_are_independent_runs(paper_case) -> None:
    lam, q0 = paper_case
    stack = torch.stack([q0, 0.5 * q0, q0.flip(-1)]).reshape(3, 1, 5, 2)
    for kappa in (0.0, 2.0):
        both = solve(stack, lam, [0.3, 2.0], kappa=kappa)
        assert both.q.shape == (2, 3, 1, 5, 2)
        for i in range(3):
            one = solve(stack[i, 0], lam, [0.3, 2.0], kappa=kappa).q
            torch.testing.assert_close(both.q[:, i, 0], one, rtol=0, atol=1e-11)
    torch.testing.assert_close(orthogonal_flow(stack, lam, 1.0)[1, 0], orthogonal_flow(0.5 * q0, lam, 1.0))


def test_solve_matches_small_cases_by_hand() -> None:
    """d = z = 1, κ = 0: q̇ = −4λq(1 − q²), so q²/(1 − q²) grows like e^{−8λt}."""
    lam, t = torch.tensor([-0.7], dtype=torch.float64), torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    q = solve(torch.tensor([[0.2]]), lam, t).q[:, 0, 0]
    odds = 0.2**2 / (1 - 0.2**2) * torch.exp(8 * 0.7 * t)
    torch.testing.assert_close(q, (odds / (1 + odds)).sqrt(), rtol=1e-7, atol=0)  # 0.2 came in as float32
    assert solve(torch.tensor([[0.2]], dtype=torch.float64), lam, [0.0]).q[0, 0, 0] == pytest.approx(
        0.2, abs=1e-15
    )
