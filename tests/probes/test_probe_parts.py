"""Splits, scale, scores and classifiers against their definitions, scikit-learn and the binomial law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from sklearn.datasets import make_blobs
from sklearn.svm import LinearSVC

from sslmanifold.probes.classifiers import KNN, LinearSVM, Logistic, Ridge
from sslmanifold.probes.scaling import GlobalScale
from sslmanifold.probes.scores import bootstrap_interval, score
from sslmanifold.probes.splits import label_fraction, validation_split

LABELS = st.lists(st.integers(2, 30), min_size=2, max_size=6).map(
    lambda counts: np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
)


@settings(max_examples=60, deadline=None)
@given(y=LABELS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_validation_split_has_every_class_on_both_sides(y: np.ndarray, fraction: float, seed: int) -> None:
    fit, held = validation_split(y, fraction, seed)
    assert sorted([*fit, *held]) == list(range(len(y)))
    assert set(y[fit]) == set(y[held]) == set(y)
    for label in np.unique(y):
        n = int((y == label).sum())
        assert abs((y[held] == label).sum() - fraction * n) <= 1


@settings(max_examples=60, deadline=None)
@given(y=LABELS, seed=st.integers(0, 5))
def test_label_fractions_are_nested(y: np.ndarray, seed: int) -> None:
    few, some, every = (set(label_fraction(y, f, seed)) for f in (0.01, 0.3, 1.0))
    assert few <= some <= every == set(range(len(y)))
    assert all((y[list(few)] == label).sum() >= 2 for label in np.unique(y))


def test_one_scale_keeps_the_spectrum() -> None:
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 1e-3, 1e-6] + 5
    scaled = GlobalScale.of(x)(x)
    s, expected = (np.linalg.svd(a - a.mean(0), compute_uv=False) for a in (scaled, x))
    np.testing.assert_allclose(s / s[0], expected / expected[0], rtol=1e-6)
    assert np.sqrt((scaled**2).mean()) == pytest.approx(1)
    assert np.isfinite(GlobalScale.of(x * 1e300)(x * 1e300)).all()
    assert GlobalScale.of(np.zeros((4, 2))).scale == 1


def test_collapse_is_not_hidden() -> None:
    """All of the information in a direction 1e-5 of the other's size: standardising would give 100 %."""
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 200)
    x = np.stack([rng.normal(size=400), 1e-5 * (2 * y - 1)], axis=1)
    for probe in (LinearSVM(), Logistic(), Ridge()):
        fit = probe.fit(x[::2], y[::2], x[1::2], validation=0.2, seed=0)
        assert np.mean(fit.predicted == y[1::2]) < 0.65, probe.name


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(4, size=300)
    guess = np.where(rng.random(300) < 0.6, truth, rng.integers(4, size=300))
    found = score(guess, truth, ["a", "b", "c", "d"], bootstrap=2000, seed=0)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(truth, guess))
    expected = metrics.precision_recall_fscore_support(truth, guess)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose([found.per_class[c][key] for c in "abcd"], values, rtol=1e-6)


def test_the_interval_is_binomial() -> None:
    """Resampling zeros and ones is drawing from Binomial(n, p̂)."""
    correct = np.repeat([1.0, 0.0], [420, 80])
    low, high = bootstrap_interval(correct, 20000, 0)
    expected = stats.binom(500, 0.84).ppf([0.025, 0.975]) / 500
    np.testing.assert_allclose([low, high], expected, atol=0.003)
    assert bootstrap_interval(np.ones(50), 200, 0) == (1.0, 1.0)


def test_replicas_are_scored_together() -> None:
    truth = np.array([0, 1, 1, 0])
    found = score(np.array([[0, 1, 1, 0], [1, 1, 1, 0]]), truth, [0, 1], bootstrap=200, seed=0)
    assert found.per_replica == [1.0, 0.75]
    assert found.accuracy == 0.875
    assert np.sum(found.confusion) == 8


def test_the_svm_is_the_textbook_one() -> None:
    """One scale, C by validation accuracy, refit on all: done by hand here."""
    x, y = make_blobs(400, centers=4, n_features=5, cluster_std=5.0, random_state=0)
    x = x * 7 + 3
    train, test = slice(0, 300), slice(300, 400)
    fit = LinearSVM().fit(x[train], y[train], x[test], validation=0.25, seed=3)
    centred = x - x[train].mean(0)
    z = centred / np.sqrt((centred[train] ** 2).mean())
    rows, held = validation_split(y[train], 0.25, 3)
    accuracy = {
        c: (LinearSVC(C=c, random_state=3).fit(z[rows], y[rows]).predict(z[held]) == y[held]).mean()
        for c in (0.01, 0.1, 1.0, 10.0, 100.0)
    }
    best = max(accuracy, key=lambda c: accuracy[c])
    assert fit.hyperparameters == {"C": best}
    assert fit.validation == {str(c): pytest.approx(a, abs=0.011) for c, a in accuracy.items()}
    expected = LinearSVC(C=best, random_state=3).fit(z[train], y[train]).predict(z[test])
    assert (fit.predicted == expected).mean() > 0.98


@pytest.mark.parametrize("probe", [LinearSVM(), Logistic(), Ridge(), KNN()])
def test_the_test_split_chooses_nothing(probe: LinearSVM | KNN) -> None:
    x, y = make_blobs(200, centers=3, n_features=4, cluster_std=6.0, random_state=1)
    one = probe.fit(x[:150], y[:150], x[150:], validation=0.2, seed=0)
    other = probe.fit(x[:150], y[:150], np.random.default_rng(0).normal(size=(9, 4)), validation=0.2, seed=0)
    assert one.hyperparameters == other.hyperparameters
    assert one.validation == other.validation
    assert (probe.fit(x[:150], y[:150], x[150:], validation=0.2, seed=0).predicted == one.predicted).all()


def test_knn_takes_no_more_neighbours_than_there_are() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    fit = KNN().fit(np.arange(6.0)[:, None], y, np.array([[0.2], [4.8]]), validation=0.3, seed=0)
    assert fit.predicted.tolist() == [0, 1]
    assert set(map(int, fit.validation)) == {1, 3}
