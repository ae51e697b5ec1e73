"""Triplets: one draw however it is read, with the right distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslmanifold.data import Triplets


def data(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


@given(
    n=st.integers(1, 60),
    d=st.sampled_from([1, 3, 700, 5000]),
    p=st.integers(1, 3),
    q=st.integers(0, 3),
    size=st.integers(1, 70),
    draw=st.integers(0, 3),
    keep=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_chunks_batches_and_the_whole_agree_bit_for_bit(n, d, p, q, size, draw, keep):
    triplets = Triplets(data(n, d), seed=4, positives=p, negatives=q, keep_noise=keep)
    whole = triplets.full(draw)
    assert whole.x.shape == (n, d)
    assert whole.positives.shape == ((n, d) if p == 1 else (n, p, d))
    assert (whole.negatives is None) == (q == 0)
    parts = list(triplets.chunks(draw, size))
    assert all(len(part.x) <= size for part in parts)
    some = torch.from_numpy(np.random.default_rng(size).integers(n, size=9))  # repeats and any order
    batch = triplets.batch(some, draw)
    for name in ("x", "positives") + (("negatives",) if q else ()):
        expected = getattr(whole, name)
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), expected)
        assert torch.equal(getattr(batch, name), expected[some])
    if q:
        assert whole.negatives.shape == ((n, d) if q == 1 else (n, q, d))


def test_keeping_the_noise_changes_nothing():
    kept, regenerated = (Triplets(data(500, 40), seed=1, keep_noise=keep).full() for keep in (True, False))
    assert torch.equal(kept.positives, regenerated.positives)


def test_positives_are_the_anchors_plus_gaussian_noise():
    x = data(2000, 10)
    noise = (Triplets(x, seed=0, positive_variance=0.1).full().positives - x) / 0.1**0.5
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    # independent between anchors, coordinates and blocks of the generator
    flat = noise.flatten()
    for shift in (1, 10, 8190):
        correlation = (flat[shift:] * flat[:-shift]).mean().item()
        assert abs(correlation) < 4.5 / len(flat[shift:]) ** 0.5


def test_no_number_is_drawn_twice():
    """Blocks of the generator do not overlap: all 2,000,000 normals are different."""
    x = torch.zeros(20_000, 50, dtype=torch.float64)
    triplets = Triplets(x, seed=0, positives=2)
    noise = triplets.full().positives.flatten()
    assert len(torch.unique(noise)) == len(noise)


def test_positives_of_one_anchor_differ():
    noise = Triplets(data(3000, 2), seed=0, positives=3).full().positives - data(3000, 2).unsqueeze(1)
    correlation = torch.corrcoef(noise.flatten(1).T)
    assert (correlation - torch.eye(6)).abs().max() < 4.5 / 3000**0.5


def test_negatives_are_uniform_rows_of_the_data():
    triplets = Triplets(data(50, 2), seed=0, negatives=200)
    indices = triplets.negative_indices()
    assert indices.shape == (50, 200)
    assert stats.chisquare(torch.bincount(indices.flatten(), minlength=50).numpy()).pvalue > 1e-3
    assert torch.equal(triplets.full().negatives, data(50, 2)[indices])


def test_seeds_and_draws_differ():
    x = data(30, 4)
    base = Triplets(x, seed=0)
    others = [base.full(1), Triplets(x, seed=1).full(0)]
    for other in others:
        assert not torch.equal(base.full(0).positives, other.positives)
        assert not torch.equal(base.full(0).negatives, other.negatives)
    assert torch.equal(base.full(0).positives, Triplets(x, seed=0).full(0).positives)


def test_no_noise():
    x = data(5, 2)
    assert torch.equal(Triplets(x, seed=0, positive_variance=0.0).full().positives, x)


def test_dtype_is_that_asked_for_and_rounds_the_float64_draw():
    triplets = Triplets(data(20, 3), seed=0)
    single, double = triplets.full(dtype=torch.float32), triplets.full()
    assert single.x.dtype == single.negatives.dtype == torch.float32
    assert torch.equal(single.positives, double.positives.float())


@pytest.mark.parametrize("keep", [True, False])
def test_reading_does_not_change_the_data(keep):
    x = data(20, 3)
    triplets = Triplets(x, seed=0, keep_noise=keep)
    first = triplets.full().positives
    triplets.batch(torch.tensor([3, 4]))
    assert torch.equal(triplets.full().positives, first)
    assert torch.equal(x, data(20, 3))
