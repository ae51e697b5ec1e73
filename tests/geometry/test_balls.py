"""Norm balls: exact projection, and a retraction that is one in the interior."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.geometry import FrobeniusBall, SpectralBall, residual
from sslmanifold.geometry._geoopt import geoopt

BALLS = st.sampled_from([FrobeniusBall, SpectralBall])
DTYPES = st.sampled_from([torch.float32, torch.float64])
BATCHES = st.sampled_from([(), (1,), (4,), (2, 2)])


def by_svd(ball, x):
    """The projection from the full SVD, in float64."""
    u, s, vt = torch.linalg.svd(x.double(), full_matrices=False)
    if isinstance(ball, SpectralBall):
        s = s.clamp(max=ball.radius)
    else:
        s = s * (ball.radius / s.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    return (u * s.unsqueeze(-2)) @ vt


@given(
    BALLS,
    st.integers(1, 9),
    st.integers(1, 9),
    BATCHES,
    DTYPES,
    st.floats(-2, 3),
    st.sampled_from([0.3, 1.0, 5.0]),
    st.integers(0, 2**20),
)
def test_projection_is_the_one_of_the_svd(kind, n, p, batch, dtype, scale, radius, seed):
    ball = kind(radius)
    g = torch.Generator().manual_seed(seed)
    x = 10**scale * torch.randn(*batch, n, p, generator=g, dtype=dtype)
    y = ball.projx(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    # eigenpairs of the Gram matrix carry eps·(σ1/σ)², on singular values that get clipped only
    tol = 200 * eps * max(radius, float(x.abs().max()))
    torch.testing.assert_close(y.double(), by_svd(ball, x), atol=tol, rtol=1e-6 if eps > 1e-10 else 1e-13)
    assert float(ball.residual(y).max()) < 100 * eps * max(1.0, 10**scale / radius)
    torch.testing.assert_close(ball.projx(y), y, atol=tol, rtol=100 * eps)  # idempotent
    inside = x * (0.5 * radius / torch.linalg.matrix_norm(x, keepdim=True))
    assert torch.equal(ball.projx(inside), inside)


@given(BALLS, st.integers(2, 8), st.integers(2, 8), BATCHES, st.integers(0, 2**20))
def test_projection_is_nonexpansive(kind, n, p, batch, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = (2 * torch.randn(*batch, n, p, generator=g, dtype=torch.float64) for _ in range(2))
    ball = kind(1.0)
    before = torch.linalg.matrix_norm(x - y)
    after = torch.linalg.matrix_norm(ball.projx(x) - ball.projx(y))
    assert bool((after <= before * (1 + 1e-12)).all())


@pytest.mark.parametrize("ball", [FrobeniusBall(2.0), SpectralBall(2.0)])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 6, 3)])
def test_interior_retraction_is_the_straight_line(ball, shape):
    x = torch.randn(*shape, dtype=torch.float64)
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    u = torch.randn_like(x)
    torch.testing.assert_close(ball.retr(x, torch.zeros_like(x)), x, atol=0, rtol=0)
    t = 1e-3
    torch.testing.assert_close((ball.retr(x, t * u) - x) / t, u, atol=1e-12, rtol=0)
    assert torch.equal(ball.egrad2rgrad(x, u), u)
    assert torch.equal(ball.proju(x, u), u)
    assert torch.equal(ball.expmap(x, u), ball.retr(x, u))


@pytest.mark.parametrize("kind", [FrobeniusBall, SpectralBall])
def test_batch_entries_do_not_touch_each_other(kind):
    x = torch.randn(3, 7, 4)
    x[0] *= 1e-3  # inside
    x[2, 0, 0] = torch.nan  # broken
    ball = kind(1.0)
    y = ball.projx(x)
    assert torch.equal(y[0], x[0])
    torch.testing.assert_close(y[1], ball.projx(x[1]))
    assert torch.isnan(y[2]).any()


@pytest.mark.parametrize("kind", [FrobeniusBall, SpectralBall])
def test_residual_and_check(kind):
    x = torch.zeros(2, 4, 3, dtype=torch.float64)
    x[0, 0, 0], x[1, 1, 1] = 3.0, 0.5
    ball = kind(2.0)
    torch.testing.assert_close(ball.residual(x), torch.tensor([0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(residual(x, ball), torch.tensor([0.5, 0.0], dtype=torch.float64))
    ok, reason = ball.check_point_on_manifold(x, explain=True)
    assert not ok
    assert "0.5" in reason
    assert ball.check_point_on_manifold(x[1])
    assert isinstance(ball, geoopt.Euclidean)
    assert ball.check_point_on_manifold(ball.random(5, 4))


def test_spectral_projection_uses_no_svd(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("SVD in the step")

    for name in ("svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, never)
    monkeypatch.setattr(torch, "svd", never)
    assert float(SpectralBall().residual(SpectralBall().projx(torch.randn(50, 40)))) < 1e-5


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("kind", [FrobeniusBall, SpectralBall])
def test_radius_must_be_positive(kind, radius):
    with pytest.raises(UserError, match=r"radius=1\.0"):
        kind(radius)
