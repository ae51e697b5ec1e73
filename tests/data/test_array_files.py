"""Binary files of arrays, and the names that files are given by."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sslmanifold.data import Array
from sslmanifold.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
T = torch.from_numpy(X)


def saved(tmp_path, array, **options):
    np.save(tmp_path / "x.npy", array, **options)
    return str(tmp_path / "x.npy")


def message_of(**options) -> str:
    with pytest.raises(UserError) as caught:
        Array(**options).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(X),
        X.astype(">f8"),
        X.astype("<f2"),
        X.astype(np.longdouble),
        X > 0,
        (X * 100).astype(np.int16),
        (X * 100).astype(">i4"),
        np.abs(X * 100).astype(np.uint8),
        X[::2],
        X.reshape(5, 2, 6),
    ],
)
def test_kinds_of_numbers(tmp_path, array):
    samples = Array(path=saved(tmp_path, array)).load()
    np.testing.assert_array_equal(samples.train_x.numpy(), array.astype(np.float64).reshape(len(array), -1))
    assert samples.train_x.dtype == torch.float64
    assert str(array.dtype) in samples.read


def test_structured_arrays_are_read_by_field(tmp_path):
    frame = pd.DataFrame(X, columns=list("abc"))
    samples = Array(
        path=saved(tmp_path, frame.assign(kind=np.arange(20) % 2).to_records()), labels="kind"
    ).load()
    assert samples.dim == 3
    assert samples.classes == [0, 1]
    assert "structured array, labels in field 'kind'" in samples.read
    assert "field 'index' as an index" in samples.left_out[0]
    holed = frame.mask(frame == X[4, 1])
    assert "NaN in x[4]['b']" in message_of(path=saved(tmp_path, holed.to_records()))
    named = frame.assign(kind="moon").to_records(column_dtypes={"kind": "U4"})
    assert "field 'kind' is of type <U4" in message_of(path=saved(tmp_path, named))
    assert "no field" in message_of(path=saved(tmp_path, named), labels="sort")


def test_a_column_that_counts_the_rows(tmp_path):
    path = saved(tmp_path, np.column_stack([np.arange(20), X]))
    samples = Array(path=path).load()
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert "x[:, 0] as an index of the rows (it counts the rows from 0; data.index=false" in samples.described
    assert Array(path=path, index=False).load().dim == 4


def test_places_are_numpys(tmp_path):
    holed = X.copy()
    holed[5, 2] = np.nan
    assert "NaN in x[5, 2]:" in message_of(path=saved(tmp_path, holed))
    assert "NaN in x[5, 2, 0]:" in message_of(path=saved(tmp_path, holed.reshape(20, 3, 1)))
    assert "NaN in x[5, 3]:" in message_of(path=saved(tmp_path, np.column_stack([np.arange(20), holed])))
    np.savez(tmp_path / "d.npz", features=holed)
    assert "NaN in features[5, 2]" in message_of(path=str(tmp_path / "d.npz"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X.astype(str), "of type <U32, not real numbers"),
        (np.zeros((3, 2), dtype="M8[s]"), "of type datetime64[s]"),
        (X[:, 0], "shape (20,); (n, d) is needed, one row a sample: x[:, None]"),
        (np.float64(3), "shape ()"),
        (X[:, :0], "20 training samples of 0 features"),
        (X[:0], "0 training samples of 3 features"),
    ],
)
def test_what_is_no_table_of_numbers(tmp_path, array, message):
    assert message in message_of(path=saved(tmp_path, array))


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "pth", "pickle.npy", "pickle.pt"])
def test_pickles_are_refused_and_not_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"x.{kind}"
    harm = np.array([_Harm(), 1], dtype=object)
    if kind == "npz":
        np.savez(path, x=harm)
    elif kind == "npy":
        np.save(path, harm, allow_pickle=True)
    elif kind in ("pt", "pth"):
        torch.save({"x": _Harm()}, path)
    else:
        path.write_bytes(pickle.dumps(_Harm()))
    message = message_of(path=str(path))
    assert "Python objects, and reading those may run code: store plain numbers" in message
    assert not Path("harm").exists()


def test_what_an_npz_holds_beside_is_not_read(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(20) % 2, names=np.array(["a", None], dtype=object))
    path = str(tmp_path / "d.npz")
    assert Array(path=path, labels="y").load().classes == [0, 1]
    assert "Python objects" in message_of(path=path, labels="names")
    np.savez(tmp_path / "p.npz", X, np.arange(20) % 2)
    assert "holds arr_0, arr_1: name the samples, for example data.key=arr_0" in message_of(
        path=str(tmp_path / "p.npz")
    )
    samples = Array(path=str(tmp_path / "p.npz"), key="arr_0", labels="arr_1").load()
    assert "float64, array 'arr_0', labels in array 'arr_1', 2 classes: 0 (8), 1 (8)" in samples.read
    os.replace(tmp_path / "d.npz", tmp_path / "renamed.npy")
    assert Array(path=str(tmp_path / "renamed.npy")).load().n == 20


@pytest.mark.parametrize(
    "stored",
    [
        T,
        T.T.contiguous().T,
        T.clone().requires_grad_(),
        T.to_sparse(),
        torch.nn.Parameter(T),
        {"x": T, "more": {"a": 1}},
    ],
)
def test_tensors(tmp_path, stored):
    torch.save(stored, tmp_path / "x.pt")
    np.testing.assert_array_equal(Array(path=str(tmp_path / "x.pt")).load().train_x.numpy(), X)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (T + 0j, "of type complex128, not real numbers"),
        ([T], "its content is a list, no array"),
        ({"x": {"a": T}}, "its 'x' is a dict, no array"),
        ({"weight": T, "bias": T}, "holds weight, bias: name the samples, for example data.key=weight"),
        (torch.nn.Linear(2, 2), "Python objects"),
    ],
)
def test_what_is_no_tensor(tmp_path, stored, message):
    torch.save(stored, tmp_path / "x.pt")
    assert message in message_of(path=str(tmp_path / "x.pt"))


def test_bfloat16_and_large_integer_labels(tmp_path):
    torch.save({"x": T.bfloat16(), "y": torch.tensor([2**60, 2**60 + 1] * 10)}, tmp_path / "x.pt")
    samples = Array(path=str(tmp_path / "x.pt"), labels="y").load()
    assert samples.classes == [2**60, 2**60 + 1]


@pytest.mark.parametrize("kind", ["npy", "npz", "pt"])
def test_damaged_files(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(b"junk")
    assert "cannot be read" in message_of(path=str(path))
    whole = tmp_path / f"whole.{kind}"
    {"npy": np.save, "npz": np.savez, "pt": lambda where, x: torch.save(T, where)}[kind](whole, X)
    path.write_bytes(whole.read_bytes()[:300])
    assert "damaged, or no" in message_of(path=str(path))


def parts(tmp_path):
    (tmp_path / "parts").mkdir()
    frame = pd.DataFrame(X, columns=list("abc")).assign(kind=["moon", "sun"] * 10)
    for part in range(4):
        frame[part * 5 : part * 5 + 5].to_csv(tmp_path / "parts" / f"{part}.csv", index=False)
    return tmp_path / "parts"


def test_several_files_are_read_one_after_the_other(tmp_path):
    folder = parts(tmp_path)
    samples = Array(path=f"{folder}/*.csv", labels="kind", test_fraction=0.0).load()
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert "0.csv … " in samples.read
    assert "4 files" in samples.read
    assert Array(path=[f"{folder}/1.csv", f"{folder}/0.csv"], labels="kind", test_fraction=0.0).load().n == 10
    (folder / "2.csv").write_text("a,b,c,kind\n1,2,3,\n")
    assert "2.csv: 1 of" not in message_of(path=f"{folder}/*.csv", labels="kind")
    assert "the first '' in line 2 of" in message_of(path=f"{folder}/*.csv", labels="kind")
    (folder / "2.csv").write_text("a,b,c,kind\n1,,3,sun\n")
    assert "2.csv: a missing value or NaN in line 2, column b" in message_of(
        path=f"{folder}/*.csv", labels="kind"
    )
    np.save(tmp_path / "y.npy", np.arange(20))
    assert "is one file, data.path names 4" in message_of(
        path=f"{folder}/*.csv", labels=str(tmp_path / "y.npy")
    )


def test_names_of_files(tmp_path, monkeypatch):
    folder = parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path, X)
    np.save(tmp_path / "odd [1]*.npy", X)
    assert Array(path="~/x.npy").load().n == 20
    assert Array(path="odd [1]*.npy").load().n == 20
    for named, message in [
        ("parts", "parts is a folder: name its files, for example data.path='parts/*.csv'"),
        (str(tmp_path / "none" / "*.csv"), "no file matches this pattern"),
        ("y.npy", f"no such file (looked for {tmp_path}/y.npy); did you mean x.npy?"),
        (["x.npy", f"{folder}/0.csv"], "files of several kinds (.npy, text)"),
        ([], "data.path=[] names no file"),
        ("x.parquet", "cannot read files of the kind .parquet: choose from .npy, .npz, .pt"),
        ("x.pkl", "pickles may run code"),
        ("x", "cannot read files without a suffix"),
        ("x.csv.gz", "decompress it first"),
    ]:
        assert message in message_of(path=named)


def test_options_that_would_do_nothing(tmp_path):
    path = saved(tmp_path, X)
    assert "data.key='x'" in message_of(path=path, key="x")
    assert "data.header=True" in message_of(path=path, header=True)
    assert "data.test_path=FILE" in message_of(path=path, test_labels="y.npy")
    assert "nothing is held out" in message_of(path=path, test_path=path, test_fraction=0.2)
    assert "leave data.index out" in message_of(path=saved(tmp_path, X.reshape(5, 2, 6)), index=True)
