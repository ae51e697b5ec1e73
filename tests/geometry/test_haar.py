import numpy as np
import pytest
import torch
from scipy import stats

from sslmanifold.errors import UserError
from sslmanifold.geometry import haar


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (2, 4, 6, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormal_on_the_small_side(shape, dtype):
    x = haar(*shape, dtype=dtype)
    assert x.shape == shape
    assert x.dtype == dtype
    gram = x.mT @ x if shape[-2] >= shape[-1] else x @ x.mT
    eye = torch.eye(gram.shape[-1], dtype=dtype).expand_as(gram)
    torch.testing.assert_close(gram, eye, atol=20 * torch.finfo(dtype).eps, rtol=0)


def test_generator_makes_it_reproducible_and_batches_differ():
    draws = [haar(3, 6, 2, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.allclose(draws[0][0], draws[0][1])
    assert torch.equal(draws[0], haar((3, 6, 2), generator=torch.Generator().manual_seed(5)))


def test_entries_follow_the_uniform_law():
    # The first column of a Haar matrix is uniform on the sphere: X00² ~ Beta(1/2, (n − 1)/2), sign fair.
    n = 6
    x = haar(4000, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 2), (5, 1)):
        entries = x[:, i, j]
        assert stats.kstest(entries**2, stats.beta(0.5, (n - 1) / 2).cdf).pvalue > 1e-3
        assert abs((entries > 0).mean() - 0.5) < 4 * 0.5 / 4000**0.5


def test_square_haar_has_the_trace_moments_of_the_orthogonal_group():
    # E tr(X) = 0, E tr(X)² = 1, E tr(X)⁴ = 3 on O(n), n ≥ 4 (Diaconis and Shahshahani).
    x = haar(20000, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    trace = torch.diagonal(x, dim1=-2, dim2=-1).sum(-1).numpy()
    assert abs(trace.mean()) < 5 / 20000**0.5
    assert abs((trace**2).mean() - 1) < 5 * np.sqrt(2 / 20000)
    assert abs((trace**4).mean() - 3) < 5 * np.sqrt(96 / 20000)


def test_half_precisions_are_rounded_from_float32():
    x = haar(9, 4, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(3))
    y = haar(9, 4, dtype=torch.float32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(x, y.bfloat16())


def test_a_vector_shape_is_refused():
    with pytest.raises(UserError, match="haar\\(n, p\\)"):
        haar(5)
