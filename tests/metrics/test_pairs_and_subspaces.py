"""LiDAR, alignment, uniformity and subspaces against NumPy, SciPy and scikit-learn."""

import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from sslmanifold.metrics import (
    Alignment,
    LiDAR,
    PCAOverlap,
    SubspaceDistance,
    SubspaceOverlap,
    Uniformity,
    alignment,
    lidar,
    pca_overlap,
    subspace_distance,
    subspace_overlap,
    uniformity,
)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def numpy_lidar(views, delta=1e-4, eps=1e-8):
    """The definition with matrices formed and an explicit inverse square root."""
    n, q, z = views.shape
    means = views.mean(axis=1)
    mu = means.mean(axis=0)
    between = sum(np.outer(m - mu, m - mu) for m in means) / n
    within = sum(np.outer(views[i, j] - means[i], views[i, j] - means[i]) for i in range(n) for j in range(q))
    root = np.real(scipy.linalg.sqrtm(np.linalg.inv(within / (n * q) + delta * np.eye(z))))
    values = np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None)
    p = values / values.sum() + eps
    return np.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize(("n", "q", "z"), [(30, 5, 4), (3, 2, 6), (50, 2, 1)])
def test_lidar_definition(n, q, z):
    views = normal(n, 1, z) * torch.arange(1, z + 1) + 0.3 * normal(n, q, z) + 5
    assert lidar(views).item() == pytest.approx(numpy_lidar(views.numpy()), rel=1e-5)
    assert lidar(views, delta=0.1).item() == pytest.approx(numpy_lidar(views.numpy(), 0.1), rel=1e-6)


def test_lidar_counts_the_directions_that_tell_samples_apart():
    """Three directions carry samples, one carries augmentation noise alone; RankMe would count all four."""
    views = 0.01 * normal(4000, 4, 4, seed=1)
    views[..., :3] += normal(4000, 1, 3)
    views[..., 3] = 10 * normal(4000, 4, seed=2)
    assert lidar(views).item() == pytest.approx(3, abs=0.05)


def test_lidar_streams_and_keeps_replicas():
    views = normal(2, 30, 3, 4)
    metric = LiDAR()
    for start in range(0, 30, 11):
        metric.update(views[:, start : start + 11])
    expected = torch.stack([lidar(views[0]), lidar(views[1])])
    torch.testing.assert_close(metric.compute(), expected)
    torch.testing.assert_close(lidar(views), expected)
    assert lidar(torch.ones(5, 2, 3)).item() == 0


def test_lidar_stream_of_single_samples():
    views = normal(9, 2, 5)
    metric = LiDAR()
    for sample in views:
        metric.update(sample.unsqueeze(0))
    assert metric.compute().item() == pytest.approx(lidar(views).item(), rel=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("alpha", [2.0, 1.0])
def test_alignment_definition(normalize, alpha):
    u, u_pos = normal(12, 3), normal(12, 2, 3)
    terms = []
    for i in range(12):
        for j in range(2):
            a, b = u[i].numpy(), u_pos[i, j].numpy()
            if normalize:
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
            terms.append(np.linalg.norm(a - b) ** alpha)
    assert alignment(u, u_pos, alpha=alpha, normalize=normalize).item() == pytest.approx(np.mean(terms))


def test_alignment_limits():
    u = normal(10, 3)
    assert alignment(u, 3 * u).item() == pytest.approx(0, abs=1e-15)
    assert alignment(u, -u).item() == pytest.approx(4)
    assert alignment(normal(2, 10, 3), normal(2, 10, 3, seed=1)).shape == (2,)


def test_alignment_streams():
    u, u_pos = normal(2, 20, 3), normal(2, 20, 4, 3)
    metric = Alignment()
    for rows in (slice(0, 3), slice(3, 20)):
        metric.update(u[:, rows], u_pos[:, rows])
    torch.testing.assert_close(metric.compute(), alignment(u, u_pos))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_definition(normalize, t):
    u = normal(15, 3)
    x = u.numpy() / (np.linalg.norm(u.numpy(), axis=1, keepdims=True) if normalize else 1)
    terms = [np.exp(-t * ((x[i] - x[j]) ** 2).sum()) for i in range(15) for j in range(15) if i != j]
    assert uniformity(u, t=t, normalize=normalize).item() == pytest.approx(np.log(np.mean(terms)))


def test_uniformity_limits():
    assert uniformity(torch.ones(6, 3)).item() == pytest.approx(0, abs=1e-14)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-8)
    assert torch.isnan(uniformity(torch.ones(1, 3)))
    far = uniformity(100 * normal(20, 3), normalize=False)  # every term underflows; its logarithm does not
    assert far.item() < -700
    assert torch.isfinite(far)


def test_uniformity_in_chunks_is_the_same(monkeypatch):
    u = normal(2, 50, 3)
    whole = uniformity(u)
    monkeypatch.setattr(sys.modules[uniformity.__module__], "_CHUNK_VALUES", 333)
    torch.testing.assert_close(uniformity(u), whole)


def test_uniformity_streams():
    u = normal(2, 20, 3)
    metric = Uniformity()
    metric.update(u[:, :7])
    metric.update(u[:, 7:])
    torch.testing.assert_close(metric.compute(), uniformity(u))


@given(d=st.integers(1, 8), k=st.integers(1, 5), l=st.integers(1, 5), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_principal_angles_are_scipys(d, k, l, seed):
    k, l = min(k, d), min(l, d)
    a, b = normal(d, k, seed=seed), normal(d, l, seed=seed + 1000)
    angles = scipy.linalg.subspace_angles(a.numpy(), b.numpy())
    assert subspace_distance(a, b).item() == pytest.approx(np.sin(angles.max()), abs=1e-9)
    assert subspace_distance(b, a).item() == pytest.approx(np.sin(angles.max()), abs=1e-9)
    assert subspace_overlap(a, b).item() == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-9)


def test_small_angles_keep_their_digits():
    a = torch.eye(4, 2, dtype=torch.float64)
    for angle in (1e-3, 1e-9, 1e-14):
        b = a.clone()
        b[:, 1] = torch.tensor([0.0, np.cos(angle), np.sin(angle), 0.0])
        assert subspace_distance(a, b).item() == pytest.approx(np.sin(angle), rel=1e-2)


def test_any_basis_and_any_scale_of_a_subspace():
    a, b = normal(7, 3), normal(7, 3, seed=1)
    mixed = 1e130 * a @ normal(3, 3, seed=2)
    assert subspace_distance(mixed, b).item() == pytest.approx(subspace_distance(a, b).item(), abs=1e-12)
    assert subspace_distance(mixed, a).item() == pytest.approx(0, abs=1e-13)


def test_rank_deficient_and_zero_bases():
    a = normal(6, 2)
    line = a[:, :1] @ normal(1, 2)  # rank 1, inside span(a)
    assert subspace_distance(line, a).item() == pytest.approx(0, abs=1e-13)
    assert subspace_overlap(line, a).item() == pytest.approx(1)
    zero = torch.zeros(6, 2, dtype=torch.float64)
    assert subspace_distance(zero, a).item() == 1
    assert subspace_overlap(zero, a).item() == 0
    assert subspace_distance(zero, zero).item() == 0


def test_batches_of_mixed_rank():
    a = torch.stack([normal(6, 2), normal(6, 1, seed=1) @ normal(1, 2)])
    b = torch.stack([normal(6, 2, seed=2), normal(6, 2, seed=3)])
    for function in (subspace_distance, subspace_overlap):
        torch.testing.assert_close(function(a, b), torch.stack([function(a[0], b[0]), function(a[1], b[1])]))


def test_subspace_metrics_over_updates():
    pairs = [(normal(5, 2, seed=i), normal(5, 2, seed=i + 9)) for i in range(3)]
    overlap, distance = SubspaceOverlap(), SubspaceDistance()
    for a, b in pairs:
        overlap.update(a, b)
        distance.update(a, b)
    assert overlap.compute().item() == pytest.approx(np.mean([subspace_overlap(a, b) for a, b in pairs]))
    assert distance.compute().item() == pytest.approx(max(subspace_distance(a, b).item() for a, b in pairs))


def test_overlap_with_pca():
    x = normal(60, 5) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1]) @ normal(5, 5) + 2
    pca = PCA(2).fit(x.numpy())
    principal = torch.from_numpy(pca.components_.T)
    mixed = normal(2, 2)
    assert pca_overlap(x @ principal @ mixed + 3, x).item() == pytest.approx(1)
    last = torch.from_numpy(PCA(5).fit(x.numpy()).components_[2:4].T)
    assert pca_overlap(x @ last, x).item() == pytest.approx(0, abs=1e-12)
    assert pca_overlap(x @ last, x, components=4).item() == pytest.approx(1)
    # any embedding: mean squared canonical correlation with scikit-learn's scores
    u = torch.tanh(x @ normal(5, 2, seed=3))
    angles = scipy.linalg.subspace_angles(u.numpy() - u.numpy().mean(0), pca.transform(x.numpy()))
    assert pca_overlap(u, x).item() == pytest.approx(np.mean(np.cos(angles) ** 2))


def test_overlap_with_pca_streams():
    x = normal(60, 5) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1]) + 2
    u = torch.stack([torch.tanh(x @ normal(5, 2, seed=seed)) for seed in range(3)])
    metric = PCAOverlap()
    for start in range(0, 60, 17):
        metric.update(u[:, start : start + 17], x[start : start + 17])
    torch.testing.assert_close(metric.compute(), pca_overlap(u, x))
