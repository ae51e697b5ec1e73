"""DynamicsEmbedding: scikit-learn's own checks, and the dynamics that it claims to solve."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from sslmanifold.dynamics_embedding import DynamicsEmbedding
from sslmanifold.errors import UserError
from sslmanifold.theory import cross_moment


@pytest.mark.parametrize(
    "estimator", [DynamicsEmbedding(), DynamicsEmbedding(time=0.5, metric="canonical", loss="noncontrastive")]
)
def test_scikit_learn_checks(estimator) -> None:
    check_estimator(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    keep = np.isin(y, (0, 1))
    return x[keep] / 16.0, y[keep]


@pytest.mark.parametrize("metric", ["grassmann", "euclidean", "canonical"])
def test_it_is_training(metric) -> None:
    """components_ at a finite time against gradient descent of a net of that width on the same C and start."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)) * [1.5, 1.0, 0.6, 0.3]
    model = DynamicsEmbedding(2, time=0.4, metric=metric, hidden=9, random_state=3).fit(x)
    start = DynamicsEmbedding(2, time=0.0, metric=metric, hidden=9, random_state=3).fit(x)
    np.testing.assert_array_equal(start.moment_, model.moment_)
    q0, kappa = start.components_.T, {"grassmann": 0, "euclidean": 1, "canonical": 2}[metric]
    e, v = np.linalg.eigh(np.eye(2) - q0.T @ q0)
    w1 = np.vstack([np.eye(4), np.zeros((5, 4))])
    w2 = np.vstack([q0, (v * np.sqrt(e)) @ v.T, np.zeros((3, 2))])
    gaps = []
    for steps in (200, 400):
        a, b = w1, w2
        for _ in range(steps):
            cm = model.moment_ @ a.T @ b
            new = []
            for w, g in ((a, 2 * b @ cm.T), (b, 2 * a @ cm)):
                wg = w.T @ g
                u, _, vt = np.linalg.svd(
                    w - 0.4 / steps * (g - w @ wg + kappa * w @ (wg - wg.T) / 2), full_matrices=False
                )
                new.append(u @ vt)
            a, b = new
        gaps.append(np.linalg.norm(a.T @ b - model.components_.T))
    assert 1.9 < gaps[0] / gaps[1] < 2.1


def test_limit_is_where_long_times_go(digits) -> None:
    x, _ = digits
    limit = DynamicsEmbedding(2, random_state=0).fit(x)
    late = DynamicsEmbedding(2, time=1000.0, random_state=0).fit(x)
    assert limit.method_ == "limit"
    assert limit.loss_ == pytest.approx(limit.optimum_, rel=1e-12)
    assert late.loss_ == pytest.approx(limit.optimum_, rel=1e-6)
    a, b = limit.components_, late.components_
    np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-3)
    np.testing.assert_allclose(limit.transform(x), x @ a.T)


def test_given_pairs_and_batches(digits) -> None:
    x, _ = digits
    rng = np.random.default_rng(1)
    positives, negatives = x + 0.1 * rng.standard_normal(x.shape), x[rng.permutation(len(x))]
    whole = DynamicsEmbedding(3, time=1.0, random_state=0).fit(x, pairs=(positives, negatives))
    expected = cross_moment(*map(torch.from_numpy, (x, positives, negatives)), reduction="mean").numpy()
    np.testing.assert_allclose(whole.moment_, expected, atol=1e-12)
    parts = DynamicsEmbedding(3, time=1.0, random_state=0)
    for i in range(0, len(x), 50):
        parts.partial_fit(x[i : i + 50], pairs=(positives[i : i + 50], negatives[i : i + 50]))
    np.testing.assert_allclose(parts.components_, whole.components_, atol=1e-9)
    alone = DynamicsEmbedding(2, loss="noncontrastive", random_state=0).fit(x, pairs=(positives, None))
    np.testing.assert_allclose(
        alone.moment_,
        cross_moment(torch.from_numpy(x), torch.from_numpy(positives), reduction="mean").numpy(),
        atol=1e-12,
    )


def test_dtypes_names_and_repeatability(digits) -> None:
    x, _ = digits
    model = DynamicsEmbedding(2, random_state=5).fit(x.astype(np.float32))
    assert model.transform(x.astype(np.float32)).dtype == np.float32
    assert model.components_.dtype == np.float32
    assert list(model.get_feature_names_out()) == ["dynamicsembedding0", "dynamicsembedding1"]
    again = clone(model).fit(x.astype(np.float32))
    np.testing.assert_array_equal(model.components_, again.components_)


def test_pipelines_and_grid_search(digits) -> None:
    x, y = digits
    pipeline = make_pipeline(
        StandardScaler(with_std=False), DynamicsEmbedding(random_state=0), LogisticRegression()
    )
    search = GridSearchCV(
        pipeline,
        {"dynamicsembedding__n_components": [1, 3], "dynamicsembedding__time": [0.1, math.inf]},
        cv=3,
    ).fit(x, y)
    assert search.best_score_ > 0.95


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_components": 0}, "n_components"),
        ({"time": -1.0}, "time"),
        ({"metric": "flat"}, "metric"),
        ({"loss": "l2"}, "loss"),
        ({"noise": -0.1}, "noise"),
        ({"hidden": 3}, "set hidden=5"),
        ({"hidden": 5, "n_components": 6}, "set hidden=6 or n_components=5"),
        ({"hidden": "64"}, "hidden='64' must be an integer"),
        ({"hidden": 64.7}, "hidden=64.7 must be an integer"),
        ({"hidden": -1}, "hidden=-1 must be an integer ≥ 1 or None"),
        ({"hidden": True}, "hidden=True"),
        ({"n_components": True}, "n_components=True"),
        ({"time": math.nan}, "time=nan"),
    ],
)
def test_mistakes_are_named(parameters, match) -> None:
    with pytest.raises(UserError, match=match) as caught:
        DynamicsEmbedding(**parameters).fit(np.random.default_rng(0).standard_normal((10, 5)))
    assert "data.pca" not in str(caught.value)
    with pytest.raises(UserError, match="pairs"):
        DynamicsEmbedding().fit(np.ones((4, 2)), pairs=np.ones((4, 2)))


@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("metric", ["grassmann", "euclidean", "canonical"])
def test_any_time_is_solved_at_once(digits, metric, n_components) -> None:
    """Once the flow has arrived, later is the same: t = 1e9, and t = 1 on data a hundred times as large."""
    x, _ = digits
    started = time.process_time()
    model = DynamicsEmbedding(n_components, time=1e9, metric=metric, random_state=0).fit(x)
    larger = DynamicsEmbedding(n_components, time=1.0, metric=metric, noise=1e3, random_state=0).fit(100 * x)
    assert time.process_time() - started < 5.0  # two fits at d = 64, half a second each on an idle core
    assert model.loss_ == pytest.approx(model.optimum_, rel=1e-13)
    assert larger.loss_ == pytest.approx(larger.optimum_, rel=1e-11)
    limit = DynamicsEmbedding(n_components, metric=metric, random_state=0).fit(x)
    projectors = [m.components_.T @ m.components_ for m in (model, limit)]
    np.testing.assert_allclose(*projectors, atol=1e-12)


def test_values_whose_products_overflow_are_named() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.raises(UserError, match=r"values up to .*e\+200.*fit\(X / "):
        DynamicsEmbedding().fit(1e200 * x)
    with pytest.raises(UserError, match="overflow"):
        DynamicsEmbedding().fit(x, pairs=(1e308 * (x / np.abs(x).max()), x))
    good = DynamicsEmbedding(random_state=0).fit(x)
    before = good.moment_
    with pytest.raises(UserError, match="overflow"):
        good.partial_fit(1e200 * x)
    np.testing.assert_array_equal(good.partial_fit(x[:1]).moment_.shape, before.shape)
    assert np.isfinite(good.moment_).all()
