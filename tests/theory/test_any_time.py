"""Times far beyond arrival: the limit, at a cost that does not grow with t, for every flow."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sslmanifold.constraints import NetworkShape, make_constraint
from sslmanifold.errors import UserError
from sslmanifold.theory import FreeFlow, OrthogonalFlow, limit_subspace, optimum, solve
from sslmanifold.theory import late as late_module
from sslmanifold.theory.late import oja_frames

D = 64


def spectrum(name: str) -> torch.Tensor:
    values = {
        "both signs": np.concatenate([-np.geomspace(1, 0.01, 40), np.geomspace(0.001, 0.1, 24)]),
        "few negative": np.concatenate([[-1.0, -0.3, -0.02], np.geomspace(0.01, 1, 61)]),
        "ties": np.repeat([-1.0, -0.5, -0.25, -0.125, 0.0, 0.1, 0.2, 0.5], 8),
        "zeros": np.concatenate([[-1.0, -0.7], np.zeros(60), [0.5, 1.0]]),
        "zeros to rounding": np.concatenate([[-1.0, -0.7], 1e-17 * np.linspace(-1, 1, 60), [0.5, 1.0]]),
        "positive": np.geomspace(0.05, 1, D),
    }[name]
    return torch.from_numpy(values)


def start(h: int, z: int, d: int = D, seed: int = 0) -> torch.Tensor:
    """W1ᵀW2 of Haar weights: the first d rows of one Haar frame."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(h, z, dtype=torch.float64, generator=generator))[0][:d]


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Right-hand sides evaluated at late times."""
    counted = [0]

    def counting(*arguments, **options):
        velocity = original(*arguments, **options)

        def counted_velocity(t, y):
            counted[0] += 1
            return velocity(t, y)

        return counted_velocity

    original = late_module.frame_velocity
    monkeypatch.setattr(late_module, "frame_velocity", counting)
    return counted


BILLION = [
    ("both signs", 200, 2),
    ("few negative", D + 2, 5),
    ("ties", D, 2),
    ("zeros to rounding", 200, 4),
    ("positive", D + 1, 2),
]


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("name", "h", "z"), BILLION, ids=[case[0] for case in BILLION])
def test_a_billion(evaluations, name, h, z, kappa) -> None:
    """The optimum to rounding, an orthonormal structure, and no more steps than to t = 1e6: half a second or less."""
    lam, counted = spectrum(name), []
    for t in (1e6, 1e9):
        evaluations[0] = 0
        end = solve(start(h, z), lam, [t], kappa=kappa, hidden=h)
        counted.append(evaluations[0])
    assert float(end.loss(lam)[0]) == pytest.approx(float(optimum(lam, z, h)), abs=1e-7)
    sigma = torch.linalg.svdvals(end.q[0])
    assert int((sigma > 1 - 1e-12).sum()) >= max(0, D + z - h)
    assert float(sigma.max()) < 1 + 1e-12
    assert counted[1] <= counted[0] + 200
    assert counted[1] < 8_000


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
def test_the_limit_is_conjecture_2(kappa) -> None:
    lam = spectrum("both signs")
    end = solve(start(200, 3), lam, [1e9], kappa=kappa).q[0]
    limit = limit_subspace(lam, 3)
    torch.testing.assert_close(end @ end.mT, limit @ limit.mT, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize(("h", "z"), [(6, 2), (7, 3), (30, 3)])
def test_late_times_against_another_integrator(kappa, h, z) -> None:
    """Radau on Eq. 9's family of the whole q, up to t = 200/‖Λ‖ with several times asked for."""
    lam = torch.tensor([-1.0, -0.9, -0.05, 0.0, 0.04, 0.6], dtype=torch.float64)
    q0 = 0.999 * start(h, z, 6, seed=3) if h > 6 + z else start(h, z, 6, seed=3)
    big = np.diag(lam.numpy())

    def velocity(_, flat):
        q = flat.reshape(6, z)
        out = -4 * big @ q + (2 - kappa) * big @ q @ q.T @ q + (2 + kappa) * q @ q.T @ big @ q
        return (out - q @ forced(q)).ravel()

    def forced(q: np.ndarray) -> np.ndarray:
        """Zero on solutions: singular values that the width forces to 1 are kept from drifting off."""
        if h >= 6 + z:
            return np.zeros((z, z))
        _, s, vt = np.linalg.svd(q, full_matrices=False)
        s = np.where(np.arange(z) < 6 + z - h, s - 1, 0.0)
        return 20 * (vt.T * s) @ vt

    times = [5.0, 30.0, 60.0, 200.0]
    solved = solve(q0, lam, times, kappa=kappa, hidden=h, method="adaptive").q
    other = solve_ivp(velocity, (0, 200.0), q0.numpy().ravel(), "Radau", times, rtol=1e-10, atol=1e-12).y.T
    np.testing.assert_allclose(solved.numpy().reshape(4, -1), other, atol=3e-7)


@pytest.mark.parametrize(
    ("name", "h"), [("both signs", 64), ("few negative", 66), ("ties", 200), ("zeros", 66)]
)
def test_late_times_against_the_closed_form(name, h) -> None:
    """κ = 2: DOP853 with what has arrived taken out, against the span in closed form, at all times."""
    lam, q0 = spectrum(name), start(h, 3)
    times = [1.0, 20.0, 40.0, 300.0, 1e4, 1e9]
    closed = solve(q0, lam, times, kappa=2, hidden=h)
    other = solve(q0, lam, times, kappa=2, hidden=h, method="adaptive")
    assert (closed.method, other.method) == ("closed_form", "adaptive")
    torch.testing.assert_close(closed.q, other.q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_a_near_tie_is_followed_for_as_long_as_it_takes(kappa) -> None:
    """λ2 and λ3 a relative 1e-9 apart: in the plane of the two, tan of the angle falls like e^{−(2+κ)(λ3 − λ2)t}."""
    lam = torch.tensor([-1.0, -0.8, -0.8 + 8e-10, 0.3, 0.5], dtype=torch.float64)
    times = [1e3, 1e8, 1e9]
    path = solve(start(20, 2, 5), lam, times, kappa=kappa).q
    torch.testing.assert_close(
        path.mT @ path, torch.eye(2, dtype=torch.float64).expand(3, 2, 2), atol=1e-12, rtol=0
    )
    projectors = path @ path.mT
    tangent = [float(p[2, 1] / p[1, 1]) for p in projectors]
    for t, value in zip(times[1:], tangent[1:], strict=True):
        expected = tangent[0] * np.exp(-(2 + kappa) * float(lam[2] - lam[1]) * (t - times[0]))
        assert value == pytest.approx(expected, rel=1e-7)


def test_batches_arrive_one_by_one() -> None:
    lam = spectrum("both signs")
    stack = torch.stack([start(80, 2, seed=1), 0.5 * start(80, 2, seed=2), 0 * start(80, 2)])
    both = solve(stack, lam, [0.5, 30.0, 1e9], kappa=0.0)
    for i in range(3):
        one = solve(stack[i], lam, [0.5, 30.0, 1e9], kappa=0.0)
        torch.testing.assert_close(both.q[:, i], one.q, rtol=0, atol=1e-10)
    assert float(both.q[:, 2].abs().max()) == 0.0


def test_a_row_of_zeros_stays_zero_and_a_small_one_grows() -> None:
    """What cannot be seen at t = 1 may still win: only what stays small is taken out."""
    lam = torch.tensor([-1.0, -0.5, 0.2], dtype=torch.float64)
    q0 = torch.tensor([[1e-10], [0.5], [0.1]], dtype=torch.float64)
    late = [1e9]
    for kappa, method in ((0.0, "auto"), (0.0, "adaptive"), (2.0, "auto"), (2.0, "adaptive")):
        grown = solve(q0, lam, late, kappa=kappa, method=method).q[0]
        assert abs(float(grown[0, 0])) == pytest.approx(1.0, abs=1e-12)
        held = solve(q0 * torch.tensor([[0.0], [1.0], [1.0]]), lam, late, kappa=kappa, method=method).q[0]
        assert float(held[0, 0]) == 0.0
        assert float(held[1, 0]) == pytest.approx(1.0, abs=1e-12)


def test_oja_frames_against_its_span() -> None:
    rows = torch.tensor([-1.0, -0.99, -0.3, -0.1, 0.0, 2.0], dtype=torch.float64)
    frame = start(6, 3, 6).numpy()
    path = oja_frames(frame, rows.numpy(), np.array([0.0, 0.3, 4.0, 1e6]))
    np.testing.assert_allclose(path[0], frame, atol=1e-15)
    for t, y in zip([0.3, 4.0], path[1:3], strict=True):
        naive = np.exp(-4 * (rows.numpy() + 1.0) * t)[:, None] * frame
        q, _ = np.linalg.qr(naive)
        np.testing.assert_allclose(y @ y.T, q @ q.T, atol=1e-12)
    np.testing.assert_allclose(path[3] @ path[3].T, np.diag([1.0, 1, 1, 0, 0, 0]), atol=1e-12)


CONSTRAINTS = [
    ("orthogonal", {}, 6),
    ("orthogonal", {"metric": "euclidean"}, 7),
    ("orthogonal", {"metric": "canonical"}, 12),
    ("orthogonal", {"w1": "rows"}, 4),
    ("frobenius", {}, 9),
    ("operator_norm", {}, 9),
    ("scaled", {}, 9),
    ("product", {}, 9),
]


@pytest.mark.parametrize(("name", "options", "h"), CONSTRAINTS, ids=[f"{c[0]}{c[1]}" for c in CONSTRAINTS])
def test_every_constraint_is_solved_to_its_end(name, options, h) -> None:
    """`sslmanifold dynamics time=1e9`: the optimum of the constraint, by its own solve()."""
    lam = torch.tensor([-1.0, -0.5, 0.0, 0.5, 0.5, 0.7], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    constraint = make_constraint(name, **options)
    network = NetworkShape(6, h, 2)
    weights = constraint.initial(network, [generator])
    moment = (basis * lam) @ basis.mT
    solved = constraint.solve(moment, network, weights, torch.tensor([0.0, 1.0, 1e9]))
    best = constraint.optimum(lam, network)
    assert solved.loss.shape == (3, 1)
    # what is extrapolated in the step is second order in it
    rough = name in ("operator_norm", "product")
    assert float(solved.loss[-1]) == pytest.approx(float(best), rel=1e-5 if rough else 1e-11)
    assert solved.times.tolist() == [0.0, 1.0, 1e9]


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.0])
def test_deep_nets_are_solved_to_their_end(kappa) -> None:
    constraint = make_constraint("orthogonal", kappa=kappa)
    network = NetworkShape(5, 5, 2, layers=4)
    lam = torch.tensor([-1.0, -0.6, 0.1, 0.2, 0.5], dtype=torch.float64)
    weights = constraint.initial(network, [torch.Generator().manual_seed(0)])
    times = torch.tensor([0.3, 2.0, 1e9], dtype=torch.float64)
    solved = constraint.solve(torch.diag(lam), network, weights, times)
    assert float(solved.loss[-1]) == pytest.approx(float(constraint.optimum(lam, network)), abs=1e-12)
    flow = constraint.flow(torch.diag(lam), network)
    state = flow.start(*weights)
    for _ in range(400):  # the stepping of training's companion
        state = flow.advance(state, 2.0 / 400)
    torch.testing.assert_close(solved.m[1], state.m, rtol=0, atol=1e-8)


def test_the_free_flow_without_a_negative_direction_comes_to_rest(draw) -> None:
    w1, w2, c = (torch.from_numpy(x) for x in draw(8, 4, 2, seed=1))
    flow = FreeFlow(c @ c + torch.eye(4))
    end = flow.advance(flow.start(w1, w2), 1e9)
    assert end.time == pytest.approx(1e9)
    assert float(end.m.abs().max()) < 1e-12


def test_advance_takes_any_time(draw) -> None:
    """The flow object too, R included, so that it goes on from there."""
    w1, w2, c = (torch.from_numpy(x) for x in draw(9, 5, 2, seed=2))
    for kappa in (0.0, 1.0, 2.0):
        flow = OrthogonalFlow(c, kappa)
        state = flow.start(w1, w2)
        far, near = flow.advance(state, 1e9), flow.advance(flow.advance(state, 400.0), 0.5)
        assert far.time == 1e9
        assert float(flow.loss(far)) == pytest.approx(float(flow.optimum(2, 9)), abs=1e-12)
        torch.testing.assert_close(far.m, near.m, rtol=0, atol=1e-9)
        frame = torch.cat([far.m, far.r])
        torch.testing.assert_close(frame.mT @ frame, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_flow_that_never_arrives_is_refused_in_time(draw, monkeypatch) -> None:
    from sslmanifold.theory.flows import base

    monkeypatch.setattr(base, "_LONGEST", 500)
    w1, w2, _ = draw(9, 4, 2, seed=2)
    lam = torch.tensor([-1.0, -1.0 + 1e-6, 0.5, 1.0], dtype=torch.float64)
    constraint, network = make_constraint("frobenius"), NetworkShape(4, 9, 2)
    with pytest.raises(UserError, match="still under way.*ask for a time up to"):
        constraint.solve(
            torch.diag(lam), network, [torch.from_numpy(w1), torch.from_numpy(w2)], torch.tensor([1e9])
        )
