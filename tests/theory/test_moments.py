"""C of Eq. 7 against the loss it stands for, summed in plain loops, and its streaming form."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.errors import UserError
from sslmanifold.theory import MomentAccumulator, cross_moment, eigenbasis


def loss_by_loops(x, positives, negatives, m, reduction) -> float:
    """Σ_i [α Σ_j u(x_i)ᵀu(x⁻_ij) − β Σ_j u(x_i)ᵀu(x⁺_ij)] with u(x) = mᵀx, one pair at a time (Eqs. 1–2)."""
    n, p = positives.shape[:2]
    total = 0.0
    for i in range(n):
        beta = 1.0 if reduction == "sum" else 1.0 / p
        for j in range(p):
            total -= beta * float((m.T @ x[i]) @ (m.T @ positives[i, j]))
        if negatives is not None:
            q = negatives.shape[1]
            alpha = 1.0 if reduction == "sum" else 1.0 / q
            for j in range(q):
                total += alpha * float((m.T @ x[i]) @ (m.T @ negatives[i, j]))
    return total / n if reduction == "mean" else total


@given(
    st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3),
    st.sampled_from(["sum", "mean", "pair_mean"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_loss_is_the_trace(seed, n, d, p, q, reduction) -> None:
    rng = np.random.default_rng(seed)
    x, positives = rng.standard_normal((n, d)), rng.standard_normal((n, p, d))
    negatives = rng.standard_normal((n, q, d)) if q else None
    m = rng.standard_normal((d, 2))
    tensors = [None if a is None else torch.from_numpy(a) for a in (x, positives, negatives)]
    c = cross_moment(*tensors, reduction=reduction)
    assert c.dtype == torch.float64
    torch.testing.assert_close(c, c.T, rtol=0, atol=0)
    assert np.trace(m.T @ c.numpy() @ m) == pytest.approx(
        loss_by_loops(x, positives, negatives, m, reduction), rel=1e-10, abs=1e-10
    )


def test_one_pair_needs_no_pair_dimension_and_batches_broadcast() -> None:
    generator = torch.Generator().manual_seed(0)
    x, pos, neg = torch.randn(3, 2, 7, 4, generator=generator, dtype=torch.float64)
    stacked = cross_moment(x, pos, neg)
    assert stacked.shape == (2, 4, 4)
    torch.testing.assert_close(stacked[1], cross_moment(x[1], pos[1], neg[1]))
    torch.testing.assert_close(stacked[0], cross_moment(x[0], pos[0][:, None], neg[0][:, None]))


def test_float32_input_is_accumulated_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator) + 100
    pos = x + 0.1 * torch.randn(5000, 3, generator=generator)
    exact = cross_moment(x.double(), pos.double())
    torch.testing.assert_close(cross_moment(x, pos), exact, rtol=1e-14, atol=0)


def test_streaming_is_the_same_in_any_split(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 6, generator=generator)
    pos, neg = torch.randn(50, 2, 6, generator=generator), torch.randn(50, 3, 6, generator=generator)
    for reduction in ("sum", "mean", "pair_mean"):
        whole = cross_moment(x, pos, neg, reduction=reduction)
        first, second = MomentAccumulator(reduction), MomentAccumulator(reduction)
        for i in range(0, 20, 7):
            part = slice(i, min(i + 7, 20))
            first.update(x[part], pos[part], neg[part])
        second.update(x[20:], pos[20:], neg[20:]).update(x[:0], pos[:0], neg[:0])
        torch.testing.assert_close(first.merge(second).compute(), whole, rtol=1e-12, atol=1e-12)
        assert first.count == 50
    monkeypatch.setattr("sslmanifold.theory.moments._CHUNK_ELEMENTS", 20)
    torch.testing.assert_close(
        cross_moment(x, pos, neg, reduction="pair_mean"), whole, rtol=1e-12, atol=1e-12
    )


def test_expected_moment_is_minus_n_covariance() -> None:
    """E[C] for one independent negative and x⁺ = x + ε is −n Cov(x), not −n E[xxᵀ]."""
    rng = np.random.default_rng(0)
    n = 200_000
    x = torch.from_numpy(rng.standard_normal((n, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]]) + [3.0, -1.0])
    pos = x + 0.3 * torch.from_numpy(rng.standard_normal((n, 2)))
    c = cross_moment(x, pos, x[torch.from_numpy(rng.permutation(n))], reduction="mean")
    centred = x - x.mean(0)
    covariance = centred.T @ centred / n
    torch.testing.assert_close(c, -covariance, rtol=0, atol=0.03)
    assert float((c + x.T @ x / n).norm()) > 5


def test_eigenbasis_reconstructs() -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    values, vectors = eigenbasis(a + a.mT)
    torch.testing.assert_close(vectors * values[..., None, :] @ vectors.mT, a + a.mT)
    assert all(bool((v.diff() >= 0).all()) for v in values)


def test_mistakes_are_named() -> None:
    x = torch.ones(4, 3)
    for bad, match in itertools.product([torch.ones(5, 3), torch.ones(4, 2)], ["match|features"]):
        with pytest.raises(UserError, match=match):
            cross_moment(x, bad)
    with pytest.raises(UserError, match="reduction"):
        cross_moment(x, x, reduction="total")
    with pytest.raises(UserError, match="no data"):
        cross_moment(x[:0], x[:0])
    with pytest.raises(UserError, match="no triplets"):
        MomentAccumulator().compute()
    with pytest.raises(UserError, match="number of features"):
        MomentAccumulator().update(x, x).update(x[:, :2], x[:, :2])
    with pytest.raises(UserError, match="cannot merge"):
        MomentAccumulator("mean").merge(MomentAccumulator("sum"))
