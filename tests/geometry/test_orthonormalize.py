"""Against SciPy's polar and NumPy's QR, over conditioning, sizes and precision."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslmanifold.geometry.orthonormalize import cholesky_qr, gram_matrix, householder_qr, polar


def matrix(n, p, smallest, largest, seed, dtype=torch.float64, batch=()):
    """Singular values spread logarithmically over [smallest, largest]."""
    g = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(*batch, n, p, generator=g, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(*batch, p, p, generator=g, dtype=torch.float64))[0]
    sigma = torch.logspace(np.log10(smallest), np.log10(largest), p, dtype=torch.float64)
    return ((u * sigma) @ v.mT).to(dtype)


def orthonormality(x):
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    return float((torch.linalg.matrix_norm(x.mT @ x - eye) / x.shape[-1] ** 0.5).max())


@given(
    p=st.integers(1, 9),
    extra=st.integers(0, 9),
    # from a step of no length to singular values from 1e-5 to 1e4
    smallest=st.floats(-5, 0),
    largest=st.floats(0, 4),
    seed=st.integers(0, 2**20),
)
def test_polar_is_scipys_at_any_conditioning(p, extra, smallest, largest, seed):
    y = matrix(p + extra, p, 10**smallest, 10**largest, seed)
    out = polar(y)
    assert orthonormality(out) < 1e-14
    condition = 10 ** (largest - smallest)
    np.testing.assert_allclose(out, scipy.linalg.polar(y.numpy())[0], atol=1e-15 * condition * 20 + 1e-13)


@given(
    p=st.integers(1, 9),
    extra=st.integers(0, 9),
    largest=st.floats(0, 6),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_cholesky_qr_is_qr_with_positive_diagonal(p, extra, largest, seed, dtype):
    y = matrix(p + extra, p, 1.0, 10**largest, seed, dtype)
    out = cholesky_qr(y)
    eps = torch.finfo(dtype).eps
    assert orthonormality(out) < 30 * eps
    q, r = np.linalg.qr(y.double().numpy())
    q = q * np.where(np.diag(r) < 0, -1, 1)
    np.testing.assert_allclose(out, q, atol=100 * eps * 10**largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1e-6, 3e-3, 3e-2, 0.15, 0.4, 0.8, 3.0])
def test_every_branch_of_polar_reaches_roundoff(distance, dtype):
    # The series of degree 2, 4 and 8, Newton–Schulz and the Householder fallback, by distance from I.
    p = 16
    sigma2 = 1 + distance * torch.linspace(-0.3, 1, p, dtype=torch.float64) / p**0.5
    u = torch.linalg.qr(torch.randn(40, p, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64))[0]
    y = ((u * sigma2.sqrt()) @ v.mT).to(dtype)
    eps = torch.finfo(dtype).eps
    out = polar(y)
    assert orthonormality(out) < 10 * eps
    torch.testing.assert_close(out, (u @ v.mT).to(dtype), atol=20 * eps, rtol=0)


@pytest.mark.parametrize("function", [polar, cholesky_qr])
@pytest.mark.parametrize("p", [6, 150])
def test_a_batch_is_its_matrices_and_does_not_mix_them(function, p):
    easy = matrix(200, p, 1.0, 1.0, 0)
    hard = matrix(200, p, 1.0, 1e4, 1)
    broken = easy.clone()
    broken[0, 0] = torch.nan
    batch = torch.stack((easy, hard, broken, easy * 1.01)).reshape(2, 2, 200, p)
    out = function(batch).reshape(4, 200, p)
    for i in (0, 1, 3):
        torch.testing.assert_close(out[i], function(batch.reshape(4, 200, p)[i]), atol=1e-12, rtol=0)
        assert orthonormality(out[i]) < 1e-14
    assert torch.isnan(out[2]).all()


@pytest.mark.parametrize("function", [polar, cholesky_qr, householder_qr])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_broken_or_enormous_input_never_raises(function, value):
    y = torch.linalg.qr(torch.randn(12, 5))[0]
    y[3, 2] = value
    out = function(y)
    assert torch.isnan(out).any() or orthonormality(out) < 1e-5


def test_rank_deficient_input_still_gives_orthonormal_columns():
    y = torch.randn(20, 4, dtype=torch.float64)
    y[:, 3] = y[:, 0]
    assert orthonormality(polar(y)) < 1e-13
    assert orthonormality(polar(torch.zeros(9, 3))) < 1e-6


@pytest.mark.parametrize("p", [3, 128, 131])
def test_blocked_gram_matrix(p):
    y = torch.randn(2, 140, p, dtype=torch.float64)
    torch.testing.assert_close(gram_matrix(y), y.mT @ y)
    h = p // 2
    if p >= 128:
        assert torch.equal(gram_matrix(y)[:, :h, h:], gram_matrix(y)[:, h:, :h].mT)


@pytest.mark.parametrize("scale", [1.001, 30.0])
@pytest.mark.parametrize("function", [polar, cholesky_qr])
def test_out_receives_the_result(function, scale):
    y = matrix(30, 6, 1.0, scale, 4)
    target = torch.empty_like(y)
    assert function(y, target) is target
    torch.testing.assert_close(target, function(y), atol=0, rtol=0)
