"""Rank metrics against NumPy from their definitions, their limits and their invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmanifold.metrics import (
    AlphaReQ,
    EffectiveRank,
    ParticipationRatio,
    RankMe,
    StableRank,
    alpha_req,
    effective_rank,
    participation_ratio,
    rankme,
    stable_rank,
)


def numpy_values(u, centered=True):
    return np.linalg.svd(u - u.mean(axis=0) if centered else u, compute_uv=False)


def numpy_entropy_rank(values, eps=0.0):
    p = values / values.sum() + eps
    p = p[p > 0]
    return np.exp(-(p * np.log(p)).sum())


REFERENCES = [
    (effective_rank, EffectiveRank, lambda u: numpy_entropy_rank(numpy_values(u))),
    (rankme, RankMe, lambda u: numpy_entropy_rank(numpy_values(u, False), 1e-7)),
    (stable_rank, StableRank, lambda u: np.trace(np.cov(u.T)) / np.linalg.norm(np.cov(u.T), 2)),
    (
        participation_ratio,
        ParticipationRatio,
        lambda u: np.trace(np.cov(u.T)) ** 2 / np.trace(np.cov(u.T) @ np.cov(u.T)),
    ),
    (
        alpha_req,
        AlphaReQ,
        # not from the covariance: its small eigenvalues lose the digits that their logarithms need
        lambda u: -np.polyfit(np.log(np.arange(1, u.shape[1] + 1)), 2 * np.log(numpy_values(u)), 1)[0],
    ),
]
NAMES = [function.__name__ for function, _, _ in REFERENCES]
RANKS = REFERENCES[:4]


def embeddings(n, z, seed=0, offset=1.0):
    rng = np.random.default_rng([seed, n, z])
    return rng.standard_normal((n, z)) * (0.2 + np.arange(z)) @ rng.standard_normal((z, z)) + offset


@pytest.mark.parametrize(("function", "metric", "reference"), REFERENCES, ids=NAMES)
@given(n=st.integers(8, 60), z=st.integers(2, 7), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_definition(function, metric, reference, n, z, seed):
    u = embeddings(n, z, seed)
    assert function(torch.from_numpy(u)).item() == pytest.approx(reference(u), rel=1e-8)


@pytest.mark.parametrize(("function", "metric", "reference"), REFERENCES, ids=NAMES)
def test_leading_dimensions(function, metric, reference):
    u = torch.stack([torch.from_numpy(embeddings(20, 3, seed)) for seed in range(6)]).reshape(2, 3, 20, 3)
    expected = torch.stack([function(u[i, j]) for i in range(2) for j in range(3)]).reshape(2, 3)
    torch.testing.assert_close(function(u), expected)
    streamed = metric()
    for start in range(0, 20, 7):
        streamed.update(u[..., start : start + 7, :])
    torch.testing.assert_close(streamed.compute(), expected)


@pytest.mark.parametrize(("function", "metric", "reference"), REFERENCES, ids=NAMES)
@given(
    scale=st.sampled_from([1e-130, 1e-3, 1.0, 1e130, 1e290]),
    cuts=st.lists(st.integers(1, 39), max_size=4, unique=True).map(sorted),
    offset=st.sampled_from([0.0, 1.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_streaming_equals_all_at_once_at_any_scale(function, metric, reference, scale, cuts, offset):
    u = torch.from_numpy(embeddings(40, 4, offset=offset)) * scale
    streamed = metric()
    for start, stop in zip([0, *cuts], [*cuts, 40], strict=True):
        streamed.update(u[start:stop])
    tolerance = (
        1e-7 if offset > 1 else 1e-9
    )  # the digits that a large mean takes are gone from the data itself
    assert streamed.compute().item() == pytest.approx(function(u).item(), rel=tolerance)


@pytest.mark.parametrize(("function", "metric", "reference"), REFERENCES, ids=NAMES)
@pytest.mark.parametrize("scale", [1e-130, 1e130, 1e200])
def test_scale_does_not_matter(function, metric, reference, scale):
    u = torch.from_numpy(embeddings(30, 3))
    assert function(u * scale).item() == pytest.approx(function(u).item(), rel=1e-9)


@pytest.mark.parametrize(("function", "metric", "reference"), RANKS, ids=NAMES[:4])
def test_between_one_and_the_rank(function, metric, reference):
    """k equal orthogonal directions count k; a line counts 1."""
    for k in (1, 2, 5):
        u = torch.linalg.qr(torch.from_numpy(embeddings(40, 6))).Q
        u = torch.linalg.qr(u - u.mean(dim=0)).Q[:, :k]  # centred and orthonormal
        rotated = u @ torch.linalg.qr(torch.from_numpy(embeddings(6, 6)))[0][:k]
        assert function(rotated).item() == pytest.approx(k, rel=1e-5)


@pytest.mark.parametrize(("function", "metric", "reference"), RANKS, ids=NAMES[:4])
def test_zero_is_rank_zero(function, metric, reference):
    assert function(torch.zeros(2, 5, 3)).tolist() == [0.0, 0.0]
    streamed = metric()
    streamed.update(torch.zeros(5, 3))
    assert streamed.compute().item() == 0


@pytest.mark.parametrize("value", [1.0, 0.1, 1e130, -1 / 3])
@pytest.mark.parametrize(("function", "metric"), [(f, m) for f, m, _ in RANKS if f is not rankme])
def test_collapse_to_a_point_is_rank_zero(function, metric, value):
    u = torch.full((1000, 3), value, dtype=torch.float64) * torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)
    assert function(u).item() == 0
    streamed = metric()
    for block in u.split(170):
        streamed.update(block)
    assert streamed.compute().item() == 0
    assert function(u, centered=False).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("function", "metric", "reference"), REFERENCES, ids=NAMES)
def test_a_non_finite_replica_is_nan_and_spoils_no_other(function, metric, reference):
    u = torch.from_numpy(np.stack([embeddings(10, 3, seed) for seed in range(3)]))
    expected = function(u[0])
    u[1, 4, 2], u[2, 0, 0] = torch.inf, torch.nan
    for result in (function(u), _streamed(metric(), u)):
        assert torch.isnan(result).tolist() == [False, True, True]
        torch.testing.assert_close(result[0], expected)


def _streamed(metric, u):
    metric.update(u[..., :6, :])
    metric.update(u[..., 6:, :])
    return metric.compute()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_input_is_computed_in_float64(dtype):
    u = torch.from_numpy(embeddings(30, 3)).to(dtype)
    assert effective_rank(u).dtype == torch.float64
    assert effective_rank(u) == effective_rank(u.double())


def test_nearly_collapsed_rank_keeps_its_digits():
    """σ₂/σ₁ = 1e-12 is seen at once and streamed; the Gram matrix would lose it (1e-24 < ε)."""
    basis = torch.linalg.qr(torch.from_numpy(embeddings(50, 2))).Q
    basis = torch.linalg.qr(basis - basis.mean(dim=0)).Q
    u = basis * torch.tensor([1.0, 1e-12], dtype=torch.float64)
    expected = 1e-12 * (1 + 12 * np.log(10))  # entropy of (1 − ε, ε) to first order
    streamed = EffectiveRank()
    for block in u.split(13):
        streamed.update(block)
    for value in (effective_rank(u), streamed.compute()):
        assert value.item() - 1 == pytest.approx(expected, rel=1e-2)


def test_centring_matters_as_said():
    u = torch.from_numpy(embeddings(60, 3, offset=0.0)) + 1e3
    assert rankme(u).item() == pytest.approx(1, abs=0.05)
    assert effective_rank(u).item() > 1.5
    assert effective_rank(u, centered=False).item() == pytest.approx(rankme(u).item(), abs=1e-4)


def test_effective_rank_of_eigenvalues_is_another_number():
    """Of singular values (ours) it is larger than the same entropy of covariance eigenvalues."""
    u = embeddings(60, 5)
    of_eigenvalues = numpy_entropy_rank(numpy_values(u) ** 2)
    assert effective_rank(torch.from_numpy(u)).item() > of_eigenvalues


def test_fewer_samples_than_dimensions():
    u = torch.from_numpy(embeddings(3, 8))
    streamed = EffectiveRank()
    streamed.update(u[:1])
    assert streamed.compute().item() == 0  # one sample has no spread
    streamed.update(u[1:])
    assert streamed.compute().item() == pytest.approx(effective_rank(u).item(), rel=1e-9)


def test_power_law_is_recovered():
    index = torch.arange(1, 21, dtype=torch.float64)
    basis = torch.linalg.qr(torch.from_numpy(embeddings(100, 20))).Q
    basis = torch.linalg.qr(basis - basis.mean(dim=0)).Q
    u = 3 * basis * index**-0.65  # λ_i = 9 i^(−1.3)
    assert alpha_req(u).item() == pytest.approx(1.3, rel=1e-9)
    assert alpha_req(u, first=5, last=12).item() == pytest.approx(1.3, rel=1e-9)
    u[:, 0] *= 100
    assert alpha_req(u).item() > 2
    assert alpha_req(u, first=2).item() == pytest.approx(1.3, rel=1e-9)


def test_power_law_ignores_missing_directions_and_needs_two():
    u = torch.from_numpy(embeddings(40, 4))
    padded = torch.cat([u, torch.zeros(40, 3)], dim=1)
    assert alpha_req(padded).item() == pytest.approx(alpha_req(u).item(), rel=1e-9)
    assert torch.isnan(alpha_req(u[:, :1]))
    assert torch.isnan(alpha_req(torch.zeros(5, 3)))


def test_metrics_reset_and_forward():
    u = torch.from_numpy(embeddings(30, 3))
    metric = EffectiveRank()
    first = metric(u[:10])  # forward gives the batch's value and accumulates
    torch.testing.assert_close(first, effective_rank(u[:10]))
    metric(u[10:])
    torch.testing.assert_close(metric.compute(), effective_rank(u))
    metric.reset()
    metric.update(u[:5])
    torch.testing.assert_close(metric.compute(), effective_rank(u[:5]))
