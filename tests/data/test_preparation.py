"""Scaling, its place before centring and PCA, and the range that float32 and float64 leave to the values."""

import logging

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslmanifold.data import Array, Digits, PairDataModule
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError
from sslmanifold.models import Affine

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4)) * [1.0, 10.0, 0.1, 3.0] + [5.0, 0.0, 1.0, -2.0]
FAR = X + np.array([0, 0, 0, 1e9])
TEST = RNG.standard_normal((6, 4))


class Fixed(PairData):
    name = "fixed"

    def __init__(self, x, test_x=None, **options):
        super().__init__(**options)
        self.x, self.test_x = x, test_x

    def read(self, seed):
        return Samples.from_arrays(self.x, None, self.test_x, None, name=self.name)


def same_up_to_signs(found, expected):
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-9)


def test_standard_is_scikit_learns():
    samples = Fixed(X, TEST, scale="standard").load()
    scaler = StandardScaler().fit(X)
    np.testing.assert_allclose(samples.train_x, scaler.transform(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(samples.test_x, scaler.transform(TEST), rtol=1e-12, atol=1e-12)


def test_global_is_one_number_for_all_features():
    samples = Fixed(X, TEST, scale="global").load()
    deviation = np.sqrt(X.var(axis=0).mean())
    np.testing.assert_allclose(samples.train_x, X / deviation, rtol=1e-12)
    np.testing.assert_allclose(samples.test_x, TEST / deviation, rtol=1e-12)
    centred = Fixed(X, TEST, scale="global", center=True).load()
    np.testing.assert_allclose(centred.train_x, (X - X.mean(axis=0)) / deviation, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["standard", "global"])
def test_principal_components_are_those_of_the_scaled_data(scale):
    samples = Fixed(X, TEST, scale=scale, pca=2).load()
    if scale == "standard":
        pipeline = make_pipeline(StandardScaler(), PCA(2, svd_solver="full")).fit(X)
        same_up_to_signs(samples.train_x.numpy(), pipeline.transform(X))
        same_up_to_signs(samples.test_x.numpy(), pipeline.transform(TEST))
    raw = Affine(samples.mean, samples.components, samples.scale)(torch.from_numpy(TEST))
    torch.testing.assert_close(raw, samples.test_x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"center": True}, {"pca": 3}, {"center": True, "pca": 3}])
@pytest.mark.parametrize("scale", ["none", "standard", "global"])
def test_raw_rows_become_prepared_ones_by_the_kept_map(scale, options):
    samples = Fixed(X, TEST, scale=scale, **options).load()
    raw = Affine(samples.mean, samples.components, samples.scale)(torch.from_numpy(X))
    torch.testing.assert_close(raw, samples.train_x, rtol=0, atol=1e-10)


def test_a_constant_feature_is_not_divided():
    x = X.copy()
    x[:, 1] = 7.0
    samples = Fixed(x, TEST, scale="standard").load()
    np.testing.assert_allclose(
        samples.test_x, StandardScaler().fit(x).transform(TEST), rtol=1e-12, atol=1e-12
    )
    assert not samples.train_x[:, 1].any()
    assert Fixed(np.ones((5, 2)), scale="global").load().train_x.eq(1).all()


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e200, 1e300])
@pytest.mark.parametrize("scale", ["standard", "global"])
def test_scaled_data_do_not_depend_on_their_unit(scale, factor):
    samples = Fixed(X * factor, TEST * factor, scale=scale).load()
    plain = Fixed(X, TEST, scale=scale).load()
    torch.testing.assert_close(samples.train_x, plain.train_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(samples.test_x, plain.test_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(samples.scale / factor, plain.scale, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("factor", "options", "message"),
    [
        (
            1e200,
            {},
            r"training values of up to .*e\+201 are too large for float64: .* overflow\. Set data\.scale=standard",
        ),
        (1e200, {"pca": 1}, r"too large for float64"),
        (1e200, {"center": True}, r"too large for float64"),
        (1e-200, {}, r"too small for float64: .* round to zero"),
    ],
)
def test_values_whose_products_leave_float64(factor, options, message):
    with pytest.raises(UserError, match=message) as caught:
        Fixed(X * factor, **options).load()
    assert "data.scale=global" in str(caught.value)
    assert "trainer.precision" not in str(caught.value)


@pytest.mark.parametrize(("factor", "size"), [(1e30, "large"), (1e-30, "small")])
def test_values_whose_products_leave_float32(factor, size):
    data = Fixed(X * factor)
    with pytest.raises(UserError, match=rf"too {size} for float32.*, or trainer\.precision=64-true"):
        PairDataModule(data, 0, 1, dtype=torch.float32).setup()
    PairDataModule(data, 0, 1, dtype=torch.float64).setup()
    PairDataModule(Fixed(X * factor, scale="standard"), 0, 1, dtype=torch.float32).setup()


def test_values_of_the_test_split_count_too():
    with pytest.raises(UserError, match=r"test values of up to"):
        Fixed(X, TEST * 1e200).load()


def test_remarks_on_the_scale_of_the_data(caplog):
    PairDataModule(Fixed(X), 0, 1).setup()
    PairDataModule(Digits(), 0, 1).setup()
    assert not caplog.records
    PairDataModule(Fixed(X * 1e-6), 0, 1).setup()
    assert "x⁺ says nothing about x; set data.scale=standard, or data.positive_variance=" in caplog.text
    caplog.clear()
    PairDataModule(Fixed(FAR), 0, 1, dtype=torch.float32).setup()
    assert (
        "1 feature varies by less than the rounding of its mean in float32: set data.center=true"
        in caplog.text
    )
    caplog.clear()
    PairDataModule(Fixed(FAR, center=True), 0, 1, dtype=torch.float32).setup()
    assert not caplog.records


def test_what_was_read_is_logged(caplog, tmp_path):
    caplog.set_level(logging.INFO, "sslmanifold")
    np.save(tmp_path / "x.npy", X)
    PairDataModule(Array(path=str(tmp_path / "x.npy")), 0, 1).setup()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("sslmanifold.data", "INFO")
    assert record.message == f"data=array: data.path={tmp_path}/x.npy, n = 30, d = 4, float64"
    np.save(tmp_path / "x.npy", np.column_stack([np.arange(30), X]))
    PairDataModule(Array(path=str(tmp_path / "x.npy")), 0, 1).setup()
    assert caplog.records[-1].levelname == "WARNING"


def test_unknown_scale():
    with pytest.raises(UserError, match=r"data\.scale='minmax'.*none.*standard.*global"):
        Fixed(X, scale="minmax")
