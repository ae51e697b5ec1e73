"""A user's own files in each format, with and without labels, and the mistakes one makes with them."""

import numpy as np
import pytest
import torch

from sslmanifold.data import Array
from sslmanifold.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = np.array([7, 3] * 10)


def check(samples, x=X):
    np.testing.assert_allclose(samples.train_x.numpy(), x, rtol=1e-15)


def together(samples):
    """Train and test rows in the order of the file: every row once."""
    both = torch.cat([samples.train_x, samples.test_x]).numpy()
    return both[np.argsort(both[:, 0])]


def test_npy(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    samples = Array(path=str(tmp_path / "x.npy")).load()
    check(samples, X.astype(np.float32).astype(np.float64))
    assert samples.train_y is None
    assert samples.test_x.shape == (0, 3)
    assert samples.classes is None


def test_images_are_flattened_and_remembered(tmp_path):
    np.save(tmp_path / "x.npy", X.reshape(10, 2, 3))
    samples = Array(path=str(tmp_path / "x.npy")).load()
    assert samples.train_x.shape == (10, 6)
    assert samples.image_shape == (2, 3)


def test_npy_with_a_label_file_holds_out_a_fifth_stratified(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy")).load()
    assert samples.train_x.shape == (16, 3)
    assert torch.bincount(samples.test_y).tolist() == [2, 2]
    assert samples.classes == [3, 7]
    np.testing.assert_array_equal(together(samples), X[np.argsort(X[:, 0])])
    label_of = {row[0]: label for row, label in zip(X, Y, strict=True)}
    for row, label in zip(samples.train_x, samples.train_y, strict=True):
        assert samples.classes[label] == label_of[row[0].item()]


def test_held_out_rows_are_the_same_for_every_seed_and_may_be_turned_off(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    path = str(tmp_path / "d.npz")
    assert torch.equal(
        Array(path=path, labels="y").load(0).test_x, Array(path=path, labels="y").load(5).test_x
    )
    assert Array(path=path, labels="y", test_fraction=0.0).load().train_x.shape == (20, 3)
    assert Array(path=path, test_fraction=0.5).load().test_x.shape == (10, 3)


def test_npz_finds_the_samples(tmp_path):
    np.savez(tmp_path / "a.npz", only=X)
    np.savez(tmp_path / "b.npz", X=X, other=Y)
    np.savez(tmp_path / "c.npz", features=X, other=X)
    check(Array(path=str(tmp_path / "a.npz")).load())
    check(Array(path=str(tmp_path / "b.npz")).load())
    check(Array(path=str(tmp_path / "c.npz"), key="features").load())
    with pytest.raises(UserError, match=r"features, other.*data\.key=features"):
        Array(path=str(tmp_path / "c.npz")).load()
    with pytest.raises(UserError, match=r"data\.key='z'.*features, other"):
        Array(path=str(tmp_path / "c.npz"), key="z").load()


def test_pt_tensor_and_dict(tmp_path):
    torch.save(torch.from_numpy(X), tmp_path / "x.pt")
    torch.save({"data": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "d.pt")
    check(Array(path=str(tmp_path / "x.pt")).load())
    samples = Array(path=str(tmp_path / "d.pt"), labels="y", test_fraction=0.0).load()
    check(samples)
    assert [samples.classes[i] for i in samples.train_y] == Y.tolist()


def test_pt_is_loaded_without_running_code(tmp_path):
    torch.save(print, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"cannot be read"):
        Array(path=str(tmp_path / "x.pt")).load()


def write_csv(path, header, labels, delimiter=","):
    rows = [
        delimiter.join([*(repr(float(v)) for v in row), str(y)]) for row, y in zip(X, labels, strict=True)
    ]
    path.write_text("\n".join(([header] if header else []) + rows) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("header", "labels"), [("a,b,c,kind", "kind"), ("a,b,c,kind", -1), (None, -1), (None, 3)]
)
def test_csv_with_class_names(tmp_path, header, labels):
    names = np.where(Y == 7, "moon", "sun")
    path = write_csv(tmp_path / "d.csv", header, names)
    samples = Array(path=path, labels=labels, test_fraction=0.0).load()
    check(samples)
    assert samples.classes == ["moon", "sun"]
    assert [samples.classes[i] for i in samples.train_y] == names.tolist()


@pytest.mark.parametrize("header", ["a,b,c,n", None])
def test_csv_without_labels(tmp_path, header):
    path = write_csv(tmp_path / "d.csv", header, Y)
    check(Array(path=path).load(), np.column_stack([X, Y]))


def test_csv_whose_columns_are_named_by_numbers(tmp_path):
    path = write_csv(tmp_path / "d.csv", "1.5,2.5,3.5,kind", Y)
    samples = Array(path=path, labels="kind", test_fraction=0.0).load()
    check(samples)


def test_csv_label_file_with_header(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, Y)) + "\n")
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.csv"), test_fraction=0.0).load()
    assert [samples.classes[i] for i in samples.train_y] == Y.tolist()


def test_test_file_with_labels_of_its_own(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "test.npz", x=X[:4] + 1, y=Y[:4])
    samples = Array(path=str(tmp_path / "train.npz"), test_path=str(tmp_path / "test.npz"), labels="y").load()
    check(samples)
    np.testing.assert_allclose(samples.test_x.numpy(), X[:4] + 1)
    assert samples.test_y.tolist() == [1, 0, 1, 0]
    np.savez(tmp_path / "test.npz", x=X[:4], y=[7, 3, 5, 7])
    with pytest.raises(UserError, match=r"data\.test_path.*no training sample has: 5"):
        Array(path=str(tmp_path / "train.npz"), test_path=str(tmp_path / "test.npz"), labels="y").load()


def test_label_files_of_both_splits(tmp_path):
    for name, array in {"x": X, "y": Y, "tx": X[:4], "ty": Y[:4]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = {name: str(tmp_path / f"{name}.npy") for name in ("x", "y", "tx", "ty")}
    samples = Array(path=files["x"], test_path=files["tx"], labels=files["y"]).load()
    assert samples.train_y is not None
    assert samples.test_y is None
    samples = Array(path=files["x"], test_path=files["tx"], labels=files["y"], test_labels=files["ty"]).load()
    assert samples.test_y.tolist() == [1, 0, 1, 0]


def save(tmp_path, name, array):
    np.save(tmp_path / name, array)
    return str(tmp_path / name)


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: Array(path=str(t / "no.npy")), r"data\.path=.*no\.npy: no such file"),
        (
            lambda t: Array(path=write(t, "x.xlsx", "")),
            r"\.xlsx: choose from \.npy, .*\.csv.*save the sheet as \.csv",
        ),
        (lambda t: Array(path=write(t, "x.npy", "junk")), r"x\.npy cannot be read"),
        (lambda t: Array(path=write(t, "x.npz", "junk")), r"x\.npz cannot be read"),
        (lambda t: Array(path=save(t, "x.npy", X[0])), r"shape \(3,\).*\(n, d\)"),
        (lambda t: Array(path=save(t, "x.npy", X + 1j)), r"complex128"),
        (lambda t: Array(path=save(t, "x.npy", X[:0])), r"empty"),
        (lambda t: Array(path=write(t, "x.csv", "")), r"empty|shape"),
        (
            lambda t: Array(path=save(t, "x.npy", X), labels="y"),
            r"data\.labels='y'.*data\.labels=labels\.npy",
        ),
        (lambda t: Array(path=save(t, "x.npy", X), labels=str(t / "y.npy")), r"data\.labels=.*no such file"),
        (
            lambda t: Array(path=save(t, "x.npy", X), labels=save(t, "y.npy", Y[:5])),
            r"5 labels.*20 samples",
        ),
        (
            lambda t: Array(path=save(t, "x.npy", X), labels=save(t, "y.npy", np.where(Y == 7, np.nan, 1))),
            r"10 of 20 labels are missing, the first 'nan' in row \[0\] .*y\.npy: set data\.missing_labels=drop",
        ),
        (lambda t: Array(path=write(t, "x.csv", "1,2\n3\n")), r"line 2 has 1 cells, the others have 2"),
        (lambda t: Array(path=write(t, "x.csv", "a,b\n1,2\n3,x\n")), r"'x' in line 3, column b"),
        (lambda t: Array(path=write(t, "x.csv", "1,2\n3,\n")), r"missing value or NaN in line 2, cell 2"),
        (lambda t: Array(path=write(t, "x.csv", "1,2\nnan,4\n")), r"missing value or NaN in line 2, cell 1"),
        (lambda t: Array(path=write(t, "x.csv", "a,b\n1,2\n"), labels="c"), r"data\.labels='c'.*a, b"),
        (lambda t: Array(path=write(t, "x.csv", "1,2\n"), labels=2), r"data\.labels=2 is no column"),
        (lambda t: Array(path="x.npy", test_fraction=1.0), r"data\.test_fraction=1\.0"),
        (lambda t: Array(path=None), r"data\.path=None"),
        (lambda t: Array(path="???"), r"data\.path is missing: set data\.path=FILE"),
        (
            lambda t: Array(path=save(t, "x.npy", X), test_path=save(t, "t.npy", X[:, :2])),
            r"3 features.*2",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path).load()
    assert "\n" not in str(caught.value)
