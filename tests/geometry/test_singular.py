"""Top singular pairs and eigenpairs, against SVD."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslmanifold.geometry import haar, top_singular
from sslmanifold.geometry.singular import safe_eigh


def assert_top_pair(x, rtol):
    value, vector = top_singular(x)
    expected = torch.linalg.svdvals(x.double())[..., 0] ** 2
    assert value.shape == x.shape[:-2]
    assert vector.shape == (*x.shape[:-2], x.shape[-1])
    torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=1e-30)
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones_like(value), rtol=0, atol=1e-5)
    reached = (x @ vector.unsqueeze(-1)).squeeze(-1).double().norm(dim=-1) ** 2
    torch.testing.assert_close(reached, expected, rtol=rtol, atol=1e-30)


@given(
    n=st.integers(1, 70),
    p=st.integers(1, 70),
    batch=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 2**20),
)
def test_gaussian_matrices(n, p, batch, dtype, scale, seed):
    g = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(*batch, n, p, generator=g, dtype=dtype)
    assert_top_pair(x, 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (3, 90, 50), (20, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_singular_values_tied(shape, dtype):
    assert_top_pair(haar(*shape, dtype=dtype), 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-4, 1e-2, 0.5])
def test_crowded_top(gap):
    u, v = haar(120, 80, dtype=torch.float64), haar(80, 80, dtype=torch.float64)
    sigma = torch.linspace(0.2, 0.9, 80, dtype=torch.float64)
    sigma[-1], sigma[-2] = 1.0, 1.0 - gap
    assert_top_pair((u * sigma) @ v.mT, 1e-9)


def test_the_start_vector_may_be_orthogonal_to_the_top():
    # x built so that the fixed Lanczos start has no component along v1.
    k = 64
    start = torch.cos(torch.arange(1, k + 1, dtype=torch.float64) ** 2)
    start /= start.norm()
    basis = torch.linalg.qr(torch.cat((start[:, None], torch.randn(k, k - 1, dtype=torch.float64)), 1))[0]
    sigma = torch.linspace(0.1, 1, k, dtype=torch.float64)
    x = (basis * sigma) @ basis.mT  # start is the eigenvector of the smallest singular value
    value, _ = top_singular(x)
    # Lanczos alone would stop at once in the wrong invariant subspace with a perfect residual.
    assert float(value) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("k", [5, 50])
def test_zero_and_broken_matrices_do_not_raise(k):
    value, vector = top_singular(torch.zeros(2, k + 3, k))
    assert torch.equal(value, torch.zeros(2))
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(2))
    x = torch.randn(2, k + 3, k)
    x[1, 0, 0] = torch.nan
    value, _ = top_singular(x)
    assert torch.isfinite(value[0])
    assert not torch.isfinite(value[1])


def test_no_gradient_flows_and_half_precision_works():
    x = torch.randn(9, 4, requires_grad=True)
    value, vector = top_singular(x)
    assert not value.requires_grad
    assert not vector.requires_grad
    value, vector = top_singular(x.detach().bfloat16())
    assert value.dtype == vector.dtype == torch.bfloat16


def test_gradient_with_the_vector_held_fixed_is_the_singular_values():
    x = torch.randn(12, 40, dtype=torch.float64, requires_grad=True)
    _, v = top_singular(x)
    (x @ v).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    (torch.linalg.matrix_norm(y, 2) ** 2).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-8, atol=1e-10)


def test_safe_eigh_survives_a_failing_lapack(monkeypatch):
    gram = torch.randn(4, 4)
    gram = gram @ gram.mT
    expected = torch.linalg.eigvalsh(gram.double()).float()
    original = torch.linalg.eigh

    def failing(a, *args, **kwargs):
        if a.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return original(a, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    values, vectors = safe_eigh(gram)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((vectors * values) @ vectors.mT, gram, rtol=1e-4, atol=1e-5)
