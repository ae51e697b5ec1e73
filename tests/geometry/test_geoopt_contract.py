"""What geoopt, torch.func and torch.autograd ask of a manifold, asked of ours."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from sslmanifold.errors import UserError
from sslmanifold.geometry import FrobeniusBall, ManifoldParameter, SpectralBall, Stiefel, haar, residual
from sslmanifold.geometry._geoopt import geoopt

STIEFEL = [
    Stiefel(kappa=kappa, retraction=retraction)
    for kappa in (0.0, 1.0, 2.0)
    for retraction in ("polar", "cholesky_qr", "cayley", "exponential")
]
BALLS = [FrobeniusBall(0.6), SpectralBall(0.6)]


@pytest.fixture(params=[(8, 3), (3, 8), (5, 5)], ids=str)
def shape(request):
    return request.param


def tangents(manifold, x, seed=0, count=1):
    g = torch.Generator().manual_seed(seed)
    out = [manifold.proju(x, torch.randn(x.shape, generator=g, dtype=x.dtype)) for _ in range(count)]
    if isinstance(manifold, Stiefel) and manifold.kappa == 0:
        out = [manifold.transp(x, x, u) for u in out]
    return out if count > 1 else out[0]


def test_random_points_are_contiguous(shape):
    for size in (shape, (4, *shape)):
        for x in (
            haar(*size),
            *(m.random(*size) for m in (Stiefel(), *BALLS)),
            Stiefel().projx(torch.randn(size)),
        ):
            assert x.is_contiguous()
    layer = torch.nn.Linear(*shape[::-1])
    layer.weight = ManifoldParameter(haar(*shape), Stiefel())
    vector = parameters_to_vector(layer.parameters())
    vector_to_parameters(vector, layer.parameters())
    assert residual(layer.weight, Stiefel()) < 1e-6
    prune.l1_unstructured(layer, "bias", 0.5)


def test_random_and_origin():
    for manifold in (Stiefel(), *BALLS):
        for draw in (manifold.random_naive, manifold.origin):
            for size in ((4, 8, 3), (4, 3, 8)):
                x = draw(*size, dtype=torch.float64)
                assert torch.equal(torch.as_tensor(x.shape), torch.as_tensor(size))
                assert x.manifold is manifold
                assert draw(size).shape == size
                assert float(residual(x, manifold).max()) < 1e-14
    for draw, name in (
        (Stiefel().origin, "origin"),
        (Stiefel().random_naive, "random|haar"),
        (BALLS[0].random, "random"),
    ):
        for size in ((3,), ((),)):
            with pytest.raises(UserError, match=rf"({name}) needs a matrix shape .*write ({name})\(n, p\)"):
                draw(*size)


@pytest.mark.parametrize("manifold", STIEFEL[-4:], ids=lambda m: f"{m.kappa:g}-{m.retraction}")
def test_derivatives_of_the_retraction(manifold, shape):
    x = haar(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for length in (0.0, 0.3, 3.0):
        u = length * tangents(manifold, x) / 4
        if not length and manifold.retraction == "exponential":
            u = u + 1e-3 * tangents(manifold, x)
        # of u as it is, so that differences leave the tangent space; and of x with u taken there
        assert torch.autograd.gradcheck(lambda u: manifold.retr(x, u), u.requires_grad_())
        assert torch.autograd.gradcheck(
            lambda x, u: manifold.retr(x, manifold.proju(x, u)),
            (x.clone().requires_grad_(), u.detach().requires_grad_()),
        )


@pytest.mark.parametrize("manifold", [Stiefel(), *BALLS], ids=repr)
def test_derivatives_of_the_projection(manifold, shape):
    g = torch.Generator().manual_seed(0)
    for distance in (1e-4, 1e-2, 1.0):
        y = haar(*shape, generator=g, dtype=torch.float64) + distance * torch.randn(
            shape, generator=g, dtype=torch.float64
        )
        assert torch.autograd.gradcheck(manifold.projx, y.requires_grad_())


@pytest.mark.parametrize("manifold", [*STIEFEL, *BALLS], ids=repr)
def test_vmap_is_a_batch(manifold, shape):
    g = torch.Generator().manual_seed(0)
    near = haar(4, *shape, generator=g, dtype=torch.float64)
    y = near + torch.tensor([0.0, 1e-4, 0.3, 30.0], dtype=torch.float64)[:, None, None] * torch.randn(
        4, *shape, generator=g, dtype=torch.float64
    )
    x = manifold.projx(y)
    u = tangents(manifold, x) * torch.tensor([0.0, 1e-4, 0.3, 3.0], dtype=torch.float64)[:, None, None]
    close = {"atol": 1e-11, "rtol": 0}
    torch.testing.assert_close(torch.vmap(manifold.projx)(y), x, **close)
    torch.testing.assert_close(torch.vmap(manifold.retr)(x, u), manifold.retr(x, u), **close)
    torch.testing.assert_close(
        torch.vmap(manifold.retr, (None, 0))(x[2], u[2:3]), manifold.retr(x[2:3], u[2:3]), **close
    )
    torch.testing.assert_close(torch.vmap(manifold.residual)(y), manifold.residual(y), **close)
    jacobian = torch.vmap(torch.func.jacrev(manifold.projx))(y[1:3])
    for each, point in zip(jacobian, y[1:3], strict=True):
        torch.testing.assert_close(each, torch.func.jacfwd(manifold.projx)(point), atol=1e-9, rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_projections_of_what_is_differentiated_warn_of_nothing(shape):
    y = torch.randn(
        3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    for manifold in (*STIEFEL, *BALLS):
        for projected in (manifold.projx(y), torch.vmap(manifold.projx)(y)):
            projected.sum().backward()


def test_vmap_of_matrices_too_large_for_a_dense_solution():
    y = torch.randn(2, 60, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ball = SpectralBall(3.0)
    torch.testing.assert_close(torch.vmap(ball.residual)(y), ball.residual(y), atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.vmap(ball.projx)(y), ball.projx(y), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 1.0, 2.0])
def test_geodesics_are_reversible_and_carry_lengths(kappa, shape):
    manifold = Stiefel(kappa=kappa, retraction="exponential")
    assert manifold.reversible
    assert not Stiefel(kappa=kappa).reversible
    x = haar(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, v = tangents(manifold, x, count=2)
    y, moved = manifold.retr_transp(x, u, v)
    torch.testing.assert_close(y, manifold.expmap(x, u), atol=1e-13, rtol=0)
    torch.testing.assert_close(manifold.inner(y, moved), manifold.inner(x, v), atol=1e-12, rtol=0)
    torch.testing.assert_close(manifold.transp(y, y, moved), moved, atol=1e-12, rtol=0)
    velocity = manifold.transp_follow_retr(x, u, u)
    difference = (manifold.expmap(x, 1.00001 * u) - manifold.expmap(x, 0.99999 * u)) / 2e-5
    torch.testing.assert_close(velocity, difference, atol=1e-8, rtol=0)
    back, reversed_ = manifold.retr_transp(y, -velocity, velocity)
    torch.testing.assert_close(back, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(reversed_, u, atol=1e-12, rtol=0)


def test_geoopts_samplers_take_geodesics():
    """Under a constant density a geodesic keeps the energy: nothing is rejected, and the law is uniform."""
    with pytest.raises(ValueError, match="reversible"):
        geoopt.samplers.RHMC([ManifoldParameter(haar(4, 2), Stiefel("euclidean"))])
    manifold = Stiefel("euclidean", retraction="exponential")
    x = ManifoldParameter(haar(4, 2, dtype=torch.float64), manifold)
    sampler = geoopt.samplers.RHMC([x], epsilon=1.0, n_steps=1)
    sampler.burnin = False
    second = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(300):
        sampler.step(lambda: 0.0 * x.sum())
        second += x.detach() @ x.detach().mT / 300
    assert sampler.acceptance_probs == pytest.approx([1.0] * 300, abs=1e-12)
    assert residual(x, manifold) < 1e-14
    torch.testing.assert_close(second, torch.eye(4, dtype=torch.float64) / 2, atol=0.1, rtol=0)


@pytest.mark.parametrize("manifold", [*STIEFEL, *BALLS], ids=repr)
def test_scaled_by_geoopt(manifold):
    scaled = geoopt.Scaled(manifold, 2.0)
    x = scaled.projx(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    u = tangents(manifold, x)
    scaled.assert_check_point_on_manifold(scaled.retr(x, 0.1 * u))
    parameter = ManifoldParameter(x, scaled)
    assert float(residual(parameter, scaled).max()) < 1e-14
