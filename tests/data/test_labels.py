"""Labels of a user's files: missing ones, their values, and a test split that every class is in."""

import numpy as np
import pandas as pd
import pytest
import torch

from sslmanifold.data import Array
from sslmanifold.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
KIND = np.array(["moon", "sun"] * 10)


def csv(tmp_path, labels, name="f.csv", x=X):
    frame = pd.DataFrame(x, columns=list("abc")).assign(kind=labels)
    frame.to_csv(tmp_path / name, index=False)
    return str(tmp_path / name)


def load(tmp_path, labels, **options):
    return Array(path=csv(tmp_path, labels), labels="kind", **({"test_fraction": 0.0} | options)).load()


def with_gaps(*gaps):
    labels = KIND.astype(object)
    labels[[3, 8]] = gaps
    return labels


@pytest.mark.parametrize("gap", ["", None, "NA", "nan", "None", "  "])
def test_missing_labels_are_refused_dropped_or_a_class(tmp_path, gap):
    labels = with_gaps(gap, gap)
    with pytest.raises(
        UserError, match=r"2 of 20 labels are missing, the first .* in line 5: .*missing_labels=drop"
    ):
        load(tmp_path, labels)
    dropped = load(tmp_path, labels, missing_labels="drop")
    np.testing.assert_array_equal(dropped.train_x.numpy(), np.delete(X, [3, 8], axis=0))
    assert dropped.classes == ["moon", "sun"]
    assert "left out 2 of 20 rows without a label, the first" in dropped.described
    assert "2 classes: moon (9), sun (9)" in dropped.described
    kept = load(tmp_path, labels, missing_labels="class")
    assert sorted(torch.bincount(kept.train_y).tolist()) == [2, 9, 9]


def test_missing_labels_of_numbers(tmp_path):
    y = np.arange(20) % 2 + 1.0
    y[4] = np.nan
    np.savez(tmp_path / "d.npz", x=X, y=y)
    path = str(tmp_path / "d.npz")
    with pytest.raises(UserError, match=r"1 of 20 labels are missing, the first 'nan' in row \[4\]"):
        Array(path=path, labels="y").load()
    assert Array(path=path, labels="y", missing_labels="drop").load().classes == [1.0, 2.0]
    assert load(tmp_path, y, missing_labels="drop").classes == [1, 2]


def test_missing_labels_of_the_test_file(tmp_path):
    test = csv(tmp_path, [*KIND[:19], ""], name="test.csv")
    with pytest.raises(
        UserError, match=r"data\.test_path=.*1 of 20 labels are missing, the first '' in line 21"
    ):
        load(tmp_path, KIND, test_path=test, test_fraction=None)
    samples = load(tmp_path, KIND, test_path=test, test_fraction=None, missing_labels="drop")
    assert samples.test_y.shape == (19,)
    assert "n = 20 (19 more of data.test_path to test on)" in samples.read


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1", "2"], [1, 2]),
        (["1.0", "2.0"], [1, 2]),
        (["0.5", "1e3"], [0.5, 1000.0]),
        (["01", "1"], ["01", "1"]),  # one class as numbers
        (["007", "008"], ["007", "008"]),
        (["True", "False"], ["False", "True"]),
        (["10", "9"], [9, 10]),
        (["inf", "1"], ["1", "inf"]),
        ([" a", "b "], ["a", "b"]),
    ],
)
def test_values_of_labels(tmp_path, labels, classes):
    assert load(tmp_path, labels * 10).classes == classes


def test_labels_are_numbers_in_both_files_or_in_neither(tmp_path):
    test = csv(tmp_path, ["1", "2"] * 2, name="test.csv", x=X[:4])
    options = {"test_path": test, "test_fraction": None}
    assert load(tmp_path, ["1", "2", "x", "2"] * 5, **options).classes == ["1", "2", "x"]
    with pytest.raises(
        UserError, match=r"data\.test_path has labels that no training sample has: 1, 2; .*moon"
    ):
        load(tmp_path, KIND, **options)


def test_a_class_with_one_member_is_named_with_the_ways_out(tmp_path):
    labels = [*KIND[:17], "star", *KIND[18:]]
    message = r"class star has one sample, in line 19, .*data\.test_fraction=0 .*data\.test_path=FILE"
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, labels, test_fraction=None)
    assert "data.test_path has" not in str(caught.value)
    assert "3 classes: moon (10), star (1), sun (9)" in load(tmp_path, labels).read
    with pytest.raises(UserError, match=r"class a has one sample.* \(and 1 further class\)"):
        load(tmp_path, [*KIND[:18], "a", "b"], test_fraction=None)


def test_labels_that_all_differ_are_no_classes(tmp_path):
    with pytest.raises(
        UserError, match=r"all 20 labels are different \(k0, k1, .*no classes: set data\.labels"
    ):
        load(tmp_path, [f"k{i}" for i in range(20)], test_fraction=None)


def test_every_class_is_in_both_parts(tmp_path):
    labels = [f"k{i % 10}" for i in range(20)]
    samples = load(tmp_path, labels, test_fraction=None)
    assert samples.train_y.sort().values.tolist() == samples.test_y.sort().values.tolist() == list(range(10))
    with pytest.raises(UserError, match=r"10 classes do not fit into a test split of 2 of 20 samples"):
        load(tmp_path, labels, test_fraction=0.1)


def test_one_sample(tmp_path):
    np.save(tmp_path / "x.npy", X[:1])
    np.save(tmp_path / "y.npy", np.array([3]))
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy")).load()
    assert samples.train_x.shape == (1, 3)
    assert samples.train_y.tolist() == [0]
    assert samples.classes == [3]


@pytest.mark.parametrize("shape", [(20,), (20, 1), (1, 20)])
def test_shapes_of_a_file_of_labels(tmp_path, shape):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", (np.arange(20) % 2).reshape(shape))
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"), test_fraction=0.0).load()
    assert samples.train_y.tolist() == [0, 1] * 10
    np.save(tmp_path / "y.npy", np.eye(20)[:, :2])
    with pytest.raises(UserError, match=r"40 labels of shape \(20, 2\).*one-hot\? store y\.argmax\(1\)"):
        Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy")).load()


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(KIND),
        "kind\n" + "\n".join(KIND) + "\n",
        pd.Series(KIND, name="kind").to_csv(),
        pd.Series(KIND).to_csv(header=False),
        pd.Series(KIND).to_csv(index=False, lineterminator="\r\n"),
    ],
)
def test_a_text_file_of_labels(tmp_path, text):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.csv").write_bytes(text.encode())
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.csv"), test_fraction=0.0).load()
    assert [samples.classes[i] for i in samples.train_y] == KIND.tolist()


def test_names_of_several_words_are_one_column(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.txt").write_text("New York\nLos Angeles\n" * 10)
    samples = Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.txt"), test_fraction=0.0).load()
    assert samples.classes == ["Los Angeles", "New York"]
    (tmp_path / "y.txt").write_text("a,1,2\nb,1,2\n" * 10)
    with pytest.raises(UserError, match=r"line 1 has 3 cells: store the labels alone"):
        Array(path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.txt")).load()
