"""C·Q as products with the data: the same as with the matrix, and never forming it."""

import numpy as np
import pytest
import torch

from sslmanifold.errors import UserError
from sslmanifold.theory import FrobeniusFlow, MomentOperator, OrthogonalFlow, cross_moment
from sslmanifold.theory.moment_product import estimate_norm, spectral_norm


def triplets(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, d)) * np.linspace(0.2, 2.0, d))
    pos = x[:, None] + 0.3 * torch.from_numpy(rng.standard_normal((n, 2, d)))
    return x, pos, x[torch.from_numpy(rng.integers(n, size=(n, 3)))]


@pytest.mark.parametrize("reduction", ["sum", "mean", "pair_mean"])
def test_products_match_the_matrix(reduction, monkeypatch) -> None:
    monkeypatch.setattr("sslmanifold.theory.operator._CHUNK_ELEMENTS", 300)
    data = triplets(40, 70)
    c = cross_moment(*data, reduction=reduction)
    operator = MomentOperator(*data, reduction=reduction)
    q = torch.randn(2, 70, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator @ q, c @ q, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(operator @ q[0, :, 0], c @ q[0, :, 0], rtol=1e-11, atol=1e-11)
    streamed = MomentOperator.from_batches(
        lambda: ((data[0][i : i + 9], data[1][i : i + 9], data[2][i : i + 9]) for i in range(0, 40, 9)),
        reduction=reduction,
    )
    torch.testing.assert_close(streamed @ q, c @ q, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("d", [20, 90])
def test_extreme_eigenpairs_and_norm(d) -> None:
    data = triplets(200, d)
    c, operator = cross_moment(*data), MomentOperator(*data)
    exact = torch.linalg.eigvalsh(c)
    values, vectors = operator.eigenpairs(4)
    torch.testing.assert_close(values, exact[:4], rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(c @ vectors, vectors * values, rtol=0, atol=1e-6)
    torch.testing.assert_close(operator.eigenpairs(2, largest=True)[0], exact[-2:], rtol=1e-8, atol=1e-6)
    assert operator.norm() == pytest.approx(float(exact.abs().max()), rel=2e-3)
    assert 0.7 * operator.norm() < estimate_norm(operator) < 1.25 * operator.norm()
    assert spectral_norm(operator) == operator.norm()


@pytest.mark.parametrize("flow_class", [OrthogonalFlow, FrobeniusFlow])
def test_flows_run_on_the_operator(flow_class) -> None:
    data = triplets(60, 12)
    generator = torch.Generator().manual_seed(3)
    w1 = torch.linalg.qr(torch.randn(20, 12, dtype=torch.float64, generator=generator))[0]
    w2 = torch.linalg.qr(torch.randn(20, 2, dtype=torch.float64, generator=generator))[0]
    dense, free = flow_class(cross_moment(*data)), flow_class(MomentOperator(*data))
    a, b = dense.advance(dense.start(w1, w2), 1e-3), free.advance(free.start(w1, w2), 1e-3)
    torch.testing.assert_close(a.m, b.m, rtol=0, atol=1e-6)
    torch.testing.assert_close(dense.loss(a), free.loss(b), rtol=1e-6, atol=0)
    torch.testing.assert_close(dense.optimum(2), free.optimum(2), rtol=1e-9, atol=0)


def test_a_hundred_thousand_features_without_their_square() -> None:
    """d = 100,000: C would be 80 GB. A product and a step of the flow, in memory of a few d×z."""
    d, n, z = 100_000, 20, 2
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    operator = MomentOperator(x, x + 0.1, x.flip(0))
    q = torch.linalg.qr(torch.randn(d, z, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    flow = OrthogonalFlow(operator)
    from sslmanifold.theory.frame import frame_state

    state = flow.advance(frame_state(0.5 * q, rows=z), 1e-7)
    assert torch.isfinite(state.m).all()
    contrast = x.flip(0).double() - (x + 0.1).double()
    expected = (x.double().T @ (contrast @ q) + contrast.T @ (x.double() @ q)) / 2
    torch.testing.assert_close(operator @ q, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_cifar_sized_data_under_four_gigabytes() -> None:
    """d = 3072, n = 50,000: lowest eigenpairs and 20 steps of the flow; peak resident memory below 4 GB."""
    import resource

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 3072, generator=generator) * torch.linspace(2, 0.1, 3072)
    noise = torch.randn(1, 3072, generator=generator)
    operator = MomentOperator(x, x + 0.1 * noise, x.roll(1, 0), reduction="mean")
    values, vectors = operator.eigenpairs(2, tolerance=1e-3)
    assert bool((values < 0).all())
    flow = OrthogonalFlow(operator)
    from sslmanifold.theory.frame import frame_state

    state = frame_state(
        0.3 * torch.linalg.qr(torch.randn(3072, 2, dtype=torch.float64, generator=generator))[0], rows=2
    )
    for _ in range(20):
        state = flow.advance(state, 0.05 / operator.norm())
    assert torch.isfinite(state.m).all()
    assert vectors.shape == (3072, 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 1024**2  # KiB


def test_mistakes_are_named() -> None:
    x = torch.ones(4, 3)
    with pytest.raises(UserError, match="positives"):
        MomentOperator(x, torch.ones(5, 3))
    with pytest.raises(UserError, match="no data"):
        MomentOperator.from_batches(lambda: iter(()))
    with pytest.raises(UserError, match="d=3"):
        MomentOperator(x, x) @ torch.ones(4, 1)
    with pytest.raises(UserError, match="count=4"):
        MomentOperator(x, x).eigenpairs(4)
