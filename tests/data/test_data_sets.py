"""Synthetic and bundled data sets: what they hold, and what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA

from sslmanifold.data import Digits, Gaussian, HalfMoons
from sslmanifold.data.class_selection import select_classes
from sslmanifold.data.pair_data import PairData
from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError


def test_half_moons_are_scikit_learns():
    samples = HalfMoons(n=120, noise=0.1).load(seed=3)
    x, y = make_moons(120, noise=0.1, random_state=3)
    assert samples.train_x.dtype == torch.float64
    np.testing.assert_array_equal(samples.train_x.numpy(), x)
    np.testing.assert_array_equal(samples.train_y.numpy(), y)


def test_half_moons_test_split_is_another_draw():
    samples = HalfMoons().load(seed=0)
    assert samples.test_x.shape == (200, 2)
    assert torch.cdist(samples.train_x, samples.test_x).min() > 0
    assert not torch.equal(samples.train_x, HalfMoons().load(seed=1).train_x)
    assert torch.equal(samples.test_x, HalfMoons().load(seed=0).test_x)


def test_half_moons_reference_effective_rank():
    from sslmanifold.metrics import effective_rank

    assert effective_rank(HalfMoons().load(seed=0).train_x).item() == pytest.approx(1.868, abs=5e-4)


@pytest.mark.parametrize("rotate", [False, True])
def test_gaussian_has_the_spectrum_asked_for(rotate):
    spectrum = [4.0, 1.0, 0.25, 0.0]
    samples = Gaussian(n=40_000, spectrum=spectrum, mean=2.0, rotate=rotate).load(seed=0)
    x = samples.train_x.numpy()
    np.testing.assert_allclose(x.mean(axis=0), 2.0, atol=5 * 2 / 200)  # five standard errors of 2/√n
    covariance = np.cov(x.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[::-1], spectrum, atol=0.15)
    off_diagonal = np.abs(covariance - np.diag(np.diag(covariance))).max()
    assert (off_diagonal > 0.2) == rotate
    assert samples.train_y is None
    assert samples.test_x.shape == (40_000, 4)


def test_gaussian_power_law_and_dim():
    data = Gaussian(n=3, dim=6, decay=2.0)
    np.testing.assert_allclose(data.variances(), 1 / np.arange(1, 7) ** 2)
    assert data.load().dim == 6


def test_digits_split_is_stratified_fixed_and_complete():
    first, second = Digits().load(seed=0), Digits().load(seed=7)
    assert torch.equal(first.train_x, second.train_x)
    assert first.image_shape == (8, 8)
    assert first.classes == list(range(10))
    assert first.train_x.min() >= 0
    assert first.train_x.max() == 1
    x, y = load_digits(return_X_y=True)
    together = torch.cat([first.train_x, first.test_x]).numpy() * 16
    np.testing.assert_array_equal(np.sort(together.sum(axis=1)), np.sort(x.sum(axis=1)))
    shares = np.bincount(first.test_y.numpy()) / np.bincount(y)
    assert np.abs(shares - 0.25).max() < 0.01


def test_digits_classes_become_positions():
    samples = Digits(classes=[9, 4], per_class=20).load()
    assert samples.classes == [9, 4]
    assert torch.bincount(samples.train_y).tolist() == [20, 20]
    whole = Digits().load()
    nines = whole.train_x[whole.train_y == 9][:20]
    assert torch.equal(samples.train_x[samples.train_y == 0], nines)
    assert torch.equal(samples.test_x[samples.test_y == 1], whole.test_x[whole.test_y == 4])


def test_centring_uses_the_training_mean_for_both_splits():
    plain, centred = Digits().load(), Digits(center=True).load()
    mean = plain.train_x.mean(dim=0)
    torch.testing.assert_close(centred.train_x, plain.train_x - mean)
    torch.testing.assert_close(centred.test_x, plain.test_x - mean)


def test_pca_is_scikit_learns_fitted_on_the_training_split():
    plain, reduced = Digits().load(), Digits(pca=5).load()
    pca = PCA(5, svd_solver="full").fit(plain.train_x.numpy())
    for x, z in ((plain.train_x, reduced.train_x), (plain.test_x, reduced.test_x)):
        expected = torch.from_numpy(pca.transform(x.numpy()))
        signs = torch.sign((expected * z).sum(dim=0))
        torch.testing.assert_close(z * signs, expected, rtol=0, atol=1e-9)
    assert reduced.image_shape is None


def test_select_classes_keeps_data_order():
    rows, y, classes = select_classes(np.array(["b", "a", "c", "a", "b"]), ["b", "a"], name="letters")
    assert rows.tolist() == [0, 1, 3, 4]
    assert y.tolist() == [0, 1, 1, 0]
    assert classes == ["b", "a"]


class Fixed(PairData):
    """A data set of given rows, to reach the common checks."""

    name = "fixed"

    def __init__(self, x, test_x=None, **options):
        super().__init__(**options)
        self.x, self.test_x = x, test_x

    def read(self, seed):
        return Samples.from_arrays(self.x, None, self.test_x, None, name=self.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HalfMoons(n=0), r"data\.n=0"),
        (lambda: HalfMoons(noise=-1.0), r"data\.noise=-1\.0"),
        (lambda: HalfMoons(positive_variance=float("nan")), r"data\.positive_variance=nan"),
        (lambda: HalfMoons(positives=0), r"data\.positives=0"),
        (lambda: HalfMoons(negatives=-2), r"data\.negatives=-2"),
        (lambda: HalfMoons(resample="always"), r"data\.resample='always'.*never.*epoch.*step"),
        (lambda: HalfMoons(batch_size=0), r"data\.batch_size=0"),
        (lambda: HalfMoons(pca=0), r"data\.pca=0"),
        (lambda: HalfMoons(pca=3).load(), r"data\.pca=3.*d=2: set data\.pca=2"),
        (lambda: HalfMoons(n=4, batch_size=5).load(), r"data\.batch_size=5.*data\.batch_size=null"),
        (lambda: Gaussian(spectrum=[1.0, -1.0]), r"data\.spectrum\[1\]=-1\.0"),
        (lambda: Gaussian(spectrum=[]), r"data\.spectrum=\[\]"),
        (lambda: Gaussian(spectrum=[1.0, 2.0], dim=3), r"data\.dim=3.*data\.dim=2"),
        (lambda: Digits(classes=[0, 11]).load(), r"data\.classes.*no class 11.*0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (lambda: Digits(classes=[]).load(), r"data\.classes=\[\]"),
        (lambda: Digits(classes=[1, 1]).load(), r"twice"),
        (
            lambda: Digits(per_class=5000).load(),
            r"data\.per_class=5000.*class 8.*only 131.*data\.per_class=131",
        ),
        (lambda: Fixed(np.zeros((0, 3))).load(), r"empty"),
        (lambda: Fixed(np.zeros((2, 0))).load(), r"empty"),
        (
            lambda: Fixed([[0.0, 1.0], [np.nan, 1.0], [1.0, np.inf]]).load(),
            r"NaN or Inf in training rows 1, 2 ",
        ),
        (lambda: Fixed([[0.0]], [[0.0], [np.nan]]).load(), r"NaN or Inf in test row 1 "),
        (lambda: Fixed(np.full((20, 1), np.nan)).load(), r"rows 0, 1, 2, 3, 4, 5, 6, 7, … \(20 in all\)"),
        (lambda: Fixed([[0.0]], [[0.0, 1.0]]).load(), r"1 features.*2"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_numbers_given_as_text_are_read_and_hydra_lists_accepted():
    from omegaconf import OmegaConf

    assert HalfMoons(noise="0.2").noise == 0.2
    assert Digits(classes=OmegaConf.create([1, 2])).classes == [1, 2]
