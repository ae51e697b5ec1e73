"""R(0) = x, R′(0)u = u, and the order of agreement with the exact exponential."""

import pytest
import scipy.linalg
import torch
from scipy.integrate import solve_ivp

from sslmanifold.geometry import Stiefel, haar

RETRACTIONS = ["auto", "cholesky_qr", "polar", "cayley", "exponential"]
METRICS = ["grassmann", "euclidean", "canonical"]
SHAPES = [(12, 5), (5, 12), (6, 6), (2, 9, 4)]


def tangent(manifold, x, seed=1234):
    g = torch.Generator().manual_seed(seed)
    u = manifold.proju(x, torch.randn(x.shape, generator=g, dtype=x.dtype))
    if manifold.kappa == 0.0:
        tall = x if x.shape[-2] >= x.shape[-1] else x.mT
        ut = u if x.shape[-2] >= x.shape[-1] else u.mT
        ut = ut - tall @ (tall.mT @ ut)
        u = ut if x.shape[-2] >= x.shape[-1] else ut.mT
    return u / torch.linalg.matrix_norm(u, keepdim=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_value_and_derivative_at_zero(retraction, shape):
    # Any tangent, the vertical part x·skew included, whatever the metric.
    manifold = Stiefel("canonical", retraction=retraction)
    x = haar(*shape, dtype=torch.float64)
    u = tangent(manifold, x)
    torch.testing.assert_close(manifold.retr(x, torch.zeros_like(x)), x, atol=1e-14, rtol=0)
    t = 1e-4
    derivative = (manifold.retr(x, t * u) - manifold.retr(x, -t * u)) / (2 * t)
    torch.testing.assert_close(derivative, u, atol=1e-7, rtol=0)


# Order k: the distance to the exponential after a step t is O(t^k).
ORDER = {
    ("cholesky_qr", "grassmann"): 2,
    ("cholesky_qr", "euclidean"): 2,
    ("cholesky_qr", "canonical"): 2,
    ("polar", "grassmann"): 3,
    ("polar", "euclidean"): 3,
    ("polar", "canonical"): 2,
    ("cayley", "grassmann"): 3,
    ("cayley", "euclidean"): 2,
    ("cayley", "canonical"): 3,
}


@pytest.mark.parametrize(("retraction", "metric"), list(ORDER))
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (2, 9, 4)])
def test_order_against_the_exponential(retraction, metric, shape):
    manifold = Stiefel(metric, retraction=retraction)
    x = haar(*shape, dtype=torch.float64)
    u = tangent(manifold, x, seed=3)
    error = [float((manifold.retr(x, t * u) - manifold.expmap(x, t * u)).norm()) for t in (2e-2, 1e-2)]
    assert error[0] / error[1] == pytest.approx(2 ** ORDER[retraction, metric], rel=0.03)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (4, 4), (2, 6, 2)])
def test_exponential_stays_on_the_manifold_and_starts_along_u(metric, shape):
    manifold = Stiefel(metric)
    x = haar(*shape, dtype=torch.float64)
    u = tangent(manifold, x) if min(shape[-2:]) < max(shape[-2:]) or metric != "grassmann" else x * 0
    assert float(manifold.residual(manifold.expmap(x, 2.0 * u)).max()) < 1e-13
    t = 1e-4
    derivative = (manifold.expmap(x, t * u) - manifold.expmap(x, -t * u)) / (2 * t)
    torch.testing.assert_close(derivative, u, atol=1e-7, rtol=0)
    half = manifold.expmap(x, u / 2)
    assert float(manifold.residual(half).max()) < 1e-13


@pytest.mark.parametrize("kappa", [1.0, 2.0, 0.7, 3.0])
def test_exponential_solves_the_geodesic_equation(kappa):
    # Independent: the geodesic equation x'' = −x (x'ᵀx') − 2(1 − β)(I − xxᵀ)x' (x'ᵀx), β = 1/κ, integrated
    # as an ODE (the Levi-Civita connection of the metric in ambient coordinates).
    beta = 1 / kappa
    n, p = 7, 3
    x = haar(n, p, dtype=torch.float64)
    manifold = Stiefel(kappa=kappa)
    u = tangent(manifold, x)

    def rhs(_t, state):
        state = torch.from_numpy(state).reshape(2, n, p)
        y, v = state
        normal = y @ (v.mT @ v)
        slant = (v - y @ (y.mT @ v)) @ (v.mT @ y)
        return torch.stack((v, -normal - 2 * (1 - beta) * slant)).reshape(-1).numpy()

    start = torch.stack((x, u)).reshape(-1).numpy()
    end = solve_ivp(rhs, (0, 1.5), start, rtol=1e-11, atol=1e-12).y[:, -1].reshape(2, n, p)[0]
    torch.testing.assert_close(manifold.expmap(x, 1.5 * u), torch.from_numpy(end), atol=1e-8, rtol=0)


def test_cayley_is_the_full_cayley_transform():
    # Wen and Yin: (I − W/2)⁻¹(I + W/2)x with W = Pu xᵀ − x uᵀP, P = I − xxᵀ/2, an n×n system.
    x = haar(9, 4, dtype=torch.float64)
    manifold = Stiefel("canonical", retraction="cayley")
    u = 0.7 * tangent(manifold, x)
    eye = torch.eye(9, dtype=torch.float64)
    pu = (eye - x @ x.mT / 2) @ u
    w = pu @ x.mT - x @ pu.mT
    full = torch.linalg.solve(eye - w / 2, (eye + w / 2) @ x)
    torch.testing.assert_close(manifold.retr(x, u), full, atol=1e-13, rtol=0)


def test_polar_is_the_closest_point_and_qr_the_triangular_one():
    x = haar(9, 4, dtype=torch.float64)
    u = tangent(Stiefel("euclidean"), x)
    closest = torch.from_numpy(scipy.linalg.polar((x + u).numpy())[0])
    torch.testing.assert_close(Stiefel(retraction="polar").retr(x, u), closest, atol=1e-13, rtol=0)
    r = Stiefel(retraction="cholesky_qr").retr(x, u).mT @ (x + u)
    assert float(r.tril(-1).abs().max()) < 1e-13
    assert float(r.diagonal().min()) > 0
