"""Laws of the Stiefel manifold over shapes, precisions, batches and step lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.geometry import Stiefel, haar, residual
from sslmanifold.geometry._geoopt import geoopt

KAPPAS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5])
DTYPES = st.sampled_from([torch.float32, torch.float64])
BATCHES = st.sampled_from([(), (1,), (3,), (2, 2)])
SIDES = st.integers(1, 9)
SEEDS = st.integers(0, 2**20)
RETRACTIONS = st.sampled_from(["auto", "cholesky_qr", "polar", "cayley"])


def draw(seed, dtype, shape):
    g = torch.Generator().manual_seed(seed)
    x = haar(*shape, dtype=dtype, generator=g)
    return x, *(torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))


def skew(a):
    return (a - a.mT) / 2


def tall(*tensors):
    return tensors if tensors[0].shape[-2] >= tensors[0].shape[-1] else tuple(t.mT for t in tensors)


def tolerance(dtype, scale=1.0):
    return 60 * torch.finfo(dtype).eps * scale


@given(SIDES, SIDES, BATCHES, DTYPES, SEEDS, KAPPAS)
def test_tangent_projection(n, p, batch, dtype, seed, kappa):
    x, g, h = draw(seed, dtype, (*batch, n, p))
    m = Stiefel(kappa=kappa)
    u = m.proju(x, g)
    tol = tolerance(dtype)
    torch.testing.assert_close(m.proju(x, u), u, atol=tol, rtol=0)  # idempotent, identity on tangents
    xt, ut = tall(x, u)
    normal = xt.mT @ ut + ut.mT @ xt
    torch.testing.assert_close(normal, torch.zeros_like(normal), atol=tol, rtol=0)
    # orthogonal: what is removed is perpendicular to every tangent
    other = m.proju(x, h)
    removed = ((g - u) * other).sum((-2, -1))
    torch.testing.assert_close(removed, torch.zeros_like(removed), atol=tol * n * p, rtol=0)
    ok, reason = m.check_vector_on_tangent(x, u, explain=True, atol=1e-4)
    assert ok, reason


@given(SIDES, SIDES, BATCHES, DTYPES, SEEDS, KAPPAS)
def test_gradient_rule_and_its_metric(n, p, batch, dtype, seed, kappa):
    x, g, h = draw(seed, dtype, (*batch, n, p))
    m = Stiefel(kappa=kappa)
    grad = m.egrad2rgrad(x, g)
    tol = tolerance(dtype, max(n, p))
    xt, gt = tall(x, g)
    rule = gt - xt @ (xt.mT @ gt) + kappa * xt @ skew(xt.mT @ gt)
    torch.testing.assert_close(tall(x, grad)[1], rule, atol=tol, rtol=0)
    torch.testing.assert_close(m.proju(x, grad), grad, atol=tol, rtol=0)
    # It represents the derivative in the metric: ⟨grad, v⟩_x = tr(Gᵀv), tangent v (horizontal if κ = 0).
    v = m.transp(x, x, m.proju(x, h))
    torch.testing.assert_close(m.inner(x, grad, v), (g * v).sum((-2, -1)), atol=tol * n * p, rtol=tol)
    # Descent: the derivative along −grad is −‖grad‖² ≤ 0.
    assert bool((m.inner(x, grad) >= -tol * n * p).all())
    torch.testing.assert_close(
        m.norm(x, grad) ** 2, m.inner(x, grad).clamp_min(0), atol=tol * n * p, rtol=tol
    )


@given(SIDES, SIDES, BATCHES, DTYPES, SEEDS, KAPPAS, RETRACTIONS, st.floats(-6, 2))
def test_retraction_and_transport_stay_feasible_at_any_length(n, p, batch, dtype, seed, kappa, name, length):
    x, g, h = draw(seed, dtype, (*batch, n, p))
    m = Stiefel(kappa=kappa, retraction=name)
    u, v = m.proju(x, g) * 10**length, m.proju(x, h)
    y, moved = m.retr_transp(x, u, v)
    assert y.shape == moved.shape == x.shape
    assert y.dtype == x.dtype
    assert float(m.residual(y).max()) < tolerance(dtype)
    torch.testing.assert_close(m.proju(y, moved), moved, atol=tolerance(dtype, max(n, p)), rtol=0)
    torch.testing.assert_close(m.transp_follow_retr(x, u, v), moved)


@given(SIDES, SIDES, DTYPES, SEEDS, KAPPAS, RETRACTIONS)
def test_a_batch_is_its_matrices(n, p, dtype, seed, kappa, name):
    x, g, _ = draw(seed, dtype, (3, n, p))
    m = Stiefel(kappa=kappa, retraction=name)
    together = m.retr(x, -0.1 * m.egrad2rgrad(x, g))
    apart = torch.stack([m.retr(a, -0.1 * m.egrad2rgrad(a, b)) for a, b in zip(x, g, strict=True)])
    torch.testing.assert_close(together, apart, atol=tolerance(dtype), rtol=0)


@given(SIDES, SIDES, SEEDS, KAPPAS, RETRACTIONS)
def test_wide_is_the_transpose_of_tall(n, p, seed, kappa, name):
    x, g, _ = draw(seed, torch.float64, (n, p))
    m = Stiefel(kappa=kappa, retraction=name)
    if n == p:
        return  # square matrices are taken as tall
    for f in (m.proju, m.egrad2rgrad, lambda x, g: m.retr(x, m.proju(x, g))):
        torch.testing.assert_close(f(x, g), f(x.mT, g.mT).mT, atol=1e-13, rtol=0)


@given(SIDES, SIDES, SEEDS, KAPPAS, RETRACTIONS)
def test_equivariance_under_rotations(n, p, seed, kappa, name):
    # Rotating the long side commutes with everything; so does the short side, except for QR.
    x, g, _ = draw(seed, torch.float64, (max(n, p), min(n, p)))
    m = Stiefel(kappa=kappa, retraction=name)
    gen = torch.Generator().manual_seed(seed + 1)
    left, right = (haar(k, k, dtype=torch.float64, generator=gen) for k in x.shape)
    if name == "cholesky_qr":
        right = torch.eye(x.shape[1], dtype=torch.float64)
    step = m.retr(x, -0.3 * m.egrad2rgrad(x, g))
    turned = m.retr(left @ x @ right, -0.3 * m.egrad2rgrad(left @ x @ right, left @ g @ right))
    torch.testing.assert_close(turned, left @ step @ right, atol=1e-12, rtol=0)


@given(SIDES, SIDES, BATCHES, DTYPES, SEEDS, KAPPAS, RETRACTIONS, st.floats(-4, 1))
def test_gradient_step_is_the_retraction_of_the_gradient(n, p, batch, dtype, seed, kappa, name, length):
    x, g, _ = draw(seed, dtype, (*batch, n, p))
    m = Stiefel(kappa=kappa, retraction=name)
    lr = 10**length
    expected = m.retr(x, -lr * m.egrad2rgrad(x, g))
    tol = tolerance(dtype, (1 + lr) * max(n, p))
    torch.testing.assert_close(m.gradient_step(x, g, lr), expected, atol=tol, rtol=0)
    inplace = x.clone()
    assert m.gradient_step(inplace, g, lr, out=inplace) is inplace
    torch.testing.assert_close(inplace, expected, atol=tol, rtol=0)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (4, 4), (2, 8, 3)])
def test_project_agrees_with_kappa_one_to_first_order(shape):
    x, g, _ = draw(0, torch.float64, shape)
    project = Stiefel("euclidean", retraction="project")
    reference = Stiefel("euclidean")
    gap = [
        float((project.gradient_step(x, g, lr) - reference.gradient_step(x, g, lr)).norm())
        for lr in (2e-3, 1e-3)
    ]
    assert gap[0] / gap[1] == pytest.approx(4, rel=0.05)  # second order in the step
    u = project.egrad2rgrad(x, g)
    torch.testing.assert_close(project.retr(x, u), reference.retr(x, u))


@given(SIDES, SIDES, BATCHES, DTYPES, SEEDS)
def test_projection_to_the_manifold(n, p, batch, dtype, seed):
    m = Stiefel()
    _, y, _ = draw(seed, dtype, (*batch, n, p))
    x = m.projx(y)
    assert float(m.residual(x).max()) < tolerance(dtype)
    torch.testing.assert_close(m.projx(x), x, atol=tolerance(dtype), rtol=0)
    # closest: no random point is nearer
    other = haar(*batch, n, p, dtype=dtype)
    distance = [torch.linalg.matrix_norm(y - z) for z in (x, other)]
    assert bool((distance[0] <= distance[1] * (1 + tolerance(dtype))).all())


def test_residual_is_the_stated_number():
    x = 1.1 * haar(2, 6, 3, dtype=torch.float64)
    expected = torch.full((2,), 0.21, dtype=torch.float64)  # ‖0.21 I‖_F/√p
    for z in (x, x.mT):
        torch.testing.assert_close(Stiefel().residual(z), expected)
        torch.testing.assert_close(residual(z, Stiefel()), expected)
    torch.testing.assert_close(residual(x, geoopt.EuclideanStiefel()), expected)
    assert torch.equal(residual(x, geoopt.Euclidean(ndim=2)), torch.zeros(2, dtype=torch.float64))
    sphere = residual(torch.tensor([[3.0, 4.0]]), geoopt.Sphere())
    torch.testing.assert_close(sphere, torch.tensor([4.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("retraction", ["polar", "cholesky_qr", "cayley"])
def test_half_precisions_are_computed_in_float32(dtype, retraction):
    x, g, _ = draw(0, torch.float32, (12, 5))
    x, g = x.to(dtype), g.to(dtype)
    m = Stiefel(retraction=retraction)
    for f in (m.egrad2rgrad, m.proju, lambda x, g: m.gradient_step(x, g, 0.1)):
        out = f(x, g)
        assert out.dtype == dtype
        torch.testing.assert_close(out, f(x.float(), g.float()).to(dtype))
    assert m.check_point_on_manifold(m.gradient_step(x, g, 0.1))


def test_random_and_origin_are_points():
    m = Stiefel("canonical")
    for x in (m.random(2, 6, 3, generator=torch.Generator().manual_seed(0)), m.origin(3, 6), m.origin(4, 2)):
        assert isinstance(x, geoopt.ManifoldTensor)
        assert x.manifold is m
        assert m.check_point_on_manifold(x)
    a, b = (m.random(5, 2, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(a, b)


def test_check_point_names_the_residual():
    ok, reason = Stiefel().check_point_on_manifold(torch.ones(4, 2), explain=True)
    assert not ok
    assert "residual" in reason or "‖WᵀW − I‖" in reason
    assert not Stiefel().check_vector_on_tangent(haar(4, 2), haar(4, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "riemann"}, "kappa=1.5"),
        ({"retraction": "svd"}, "cholesky_qr"),
        ({"kappa": -1.0}, "kappa=0"),
        ({"metric": "canonical", "retraction": "project"}, 'Stiefel\\("euclidean", retraction="project"\\)'),
    ],
)
def test_wrong_arguments_name_the_right_ones(arguments, message):
    with pytest.raises(UserError, match=message):
        Stiefel(**arguments)


def test_metric_names():
    assert [Stiefel(m).kappa for m in ("grassmann", "euclidean", "canonical")] == [0.0, 1.0, 2.0]
    assert Stiefel("canonical", kappa=0.25).kappa == 0.25
    assert isinstance(Stiefel(), geoopt.Manifold)
    assert "canonical" in repr(Stiefel("canonical"))
