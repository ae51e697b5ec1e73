"""Text tables as pandas, NumPy, R and spreadsheets write them: read as they are meant, or asked about."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslmanifold.data import Array
from sslmanifold.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
KIND = np.array(["moon", "sun"] * 10)
FRAME = pd.DataFrame(X, columns=list("abc"))
NUMBERED = pd.DataFrame(X)
PIXELS = RNG.integers(0, 256, (30, 20))


def load(tmp_path, text, name="f.csv", encoding="utf-8", **options):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return Array(path=str(tmp_path / name), **({"test_fraction": 0.0} | options)).load()


def rows(delimiter=",", end="\n", start=""):
    return "".join(start.format(i) + delimiter.join(map(repr, row)) + end for i, row in enumerate(X.tolist()))


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        (FRAME.to_csv(index=False), "utf-8", "comma-separated, header line"),
        (FRAME.to_csv(index=False, sep=";"), "utf-8", "semicolon-separated, header"),
        (FRAME.to_csv(index=False, sep=";", decimal=","), "utf-8", "semicolon-separated, decimal commas"),
        (FRAME.to_csv(index=False, sep="\t", decimal=","), "utf-8", "tab-separated, decimal commas"),
        (FRAME.to_csv(index=False, sep="|"), "utf-8", "bar-separated"),
        (FRAME.to_csv(index=False, sep=" "), "utf-8", "space-separated"),
        (FRAME.to_csv(index=False), "utf-8-sig", "header line"),
        (FRAME.to_csv(index=False, sep="\t"), "utf-16", "tab-separated"),
        (FRAME.to_csv(index=False, lineterminator="\r\n"), "utf-8", "header line"),
        (FRAME.to_csv(index=False, lineterminator="\r"), "utf-8", "header line"),
        (FRAME.to_csv(index=False, quoting=1), "utf-8", "header line"),
        ("sep=;\n" + FRAME.to_csv(index=False, sep=";"), "utf-8", "semicolon-separated, header line"),
        (rows(", "), "utf-8", "comma-separated, no header"),
        (rows("   "), "utf-8", "space-separated, no header"),
        (rows(end=",\n"), "utf-8", "no header"),
        ("a,b,c\n" + rows(end=",\n"), "utf-8", "header line"),
        ("a,b,c,\n" + rows(end=",\n"), "utf-8", "header line"),
        ("# written by hand\n# a,b,c\n" + rows(), "utf-8", "header line"),
        ("\n\na,b,c\n\n" + rows(end="\n\n"), "utf-8", "header line"),
    ],
)
def test_ways_to_write_the_same_table(tmp_path, text, encoding, said):
    samples = load(tmp_path, text, encoding=encoding)
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert samples.train_x.is_contiguous()
    assert said in samples.read
    assert "n = 20, d = 3, float64" in samples.read
    assert samples.left_out == ()


def test_what_numpy_writes(tmp_path):
    np.savetxt(tmp_path / "x.txt", X, header="a b c")
    samples = Array(path=str(tmp_path / "x.txt")).load()
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert "space-separated, header line" in samples.read


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FRAME.to_csv(), "first column .*it has no name; data.index=false"),
        (FRAME.iloc[::-1].to_csv(), "it has no name"),
        (FRAME.set_index(KIND + np.arange(20).astype(str)).to_csv(), "it has no name"),
        (FRAME.rename_axis("Unnamed: 0").to_csv(), "column 'Unnamed: 0' .*it has no name"),
        (NUMBERED.to_csv(), "it has no name"),
        (rows(start="{},"), "the first column .*counts the rows from 0"),
        (
            FRAME.rename(index=lambda i: i + 1).rename_axis("t").to_csv(),
            "column 't' .*counts the rows from 1",
        ),
        (FRAME.set_index(RNG.permutation(900)[:20]).rename_axis("Id").to_csv(), "column 'Id' .*named so"),
        ("a b c\n" + rows(" ", start="r{} "), "it has no name"),  # R's write.table
        (FRAME.rename_axis("row").to_string(index_names=False), "it has no name"),
    ],
)
def test_an_index_of_the_rows_is_no_feature(tmp_path, text, why):
    samples = load(tmp_path, text)
    assert samples.dim == 3
    if "row" not in text:  # to_string rounds
        np.testing.assert_allclose(np.sort(samples.train_x.numpy(), axis=0), np.sort(X, axis=0), atol=1e-5)
    (remark,) = samples.left_out
    assert re.search(why, remark)
    assert samples.described.endswith(remark)


def test_an_index_written_twice_and_the_choice_to_keep_it(tmp_path):
    FRAME.to_csv(tmp_path / "once.csv")
    FRAME.reset_index(names="Unnamed: 0").to_csv(tmp_path / "twice.csv")  # read and written once more
    samples = Array(path=str(tmp_path / "twice.csv")).load()
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert len(samples.left_out) == 2
    kept = Array(path=str(tmp_path / "once.csv"), index=False).load()
    np.testing.assert_array_equal(kept.train_x.numpy(), np.column_stack([np.arange(20), X]))
    assert kept.left_out == ()
    told = load(tmp_path, FRAME.to_csv(index=False), index=True)
    np.testing.assert_array_equal(told.train_x.numpy(), X[:, 1:])


def test_a_shuffled_index_without_header_and_what_is_none(tmp_path):
    shuffled = FRAME.sample(frac=1, random_state=0)
    assert load(tmp_path, shuffled.to_csv(header=False)).dim == 3
    assert load(tmp_path, "1\n2\n3\n4\n").dim == 1  # the only column is a feature
    assert load(tmp_path, "2,0.5\n0,1.5\n1,2.5\n").dim == 2  # three rows in any order prove nothing
    assert (
        load(tmp_path, FRAME.assign(id=1).to_csv(index=False)).dim == 4
    )  # id, but neither first nor distinct


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (NUMBERED.to_csv(index=False), None),
        (NUMBERED.assign(kind=KIND).to_csv(), "kind"),
        (NUMBERED.assign(kind=KIND).to_csv(index=False), -1),
        (pd.DataFrame(X, columns=[1, 2, 3]).to_csv(index=False), None),
        (pd.DataFrame(X, columns=[1990, 2000, 2010]).assign(kind=KIND).to_csv(index=False), "kind"),
    ],
)
def test_a_header_of_numbers(tmp_path, text, labels):
    samples = load(tmp_path, text, labels=labels)
    np.testing.assert_array_equal(samples.train_x.numpy(), X)
    assert "header line" in samples.read


def test_a_header_of_numbers_above_integers(tmp_path):
    assert load(tmp_path, pd.DataFrame(PIXELS).to_csv(index=False)).n == 30
    assert load(tmp_path, pd.DataFrame(PIXELS).to_csv(index=False, header=False)).n == 30
    digits = pd.DataFrame(PIXELS)
    digits.insert(0, "label", np.arange(30) % 3)
    samples = load(tmp_path, digits.to_csv(index=False), labels="label")
    assert (samples.n, samples.dim, samples.classes) == (30, 20, [0, 1, 2])
    with pytest.raises(
        UserError, match=r"number 0 .*'label', and number 1 is called 0.*-21 or data\.labels=-20"
    ):
        load(tmp_path, digits.to_csv(index=False), labels=0)
    assert load(tmp_path, digits.to_csv(index=False), labels=-21).classes == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        NUMBERED[[0, 1]].to_csv(index=False),
        pd.DataFrame(X, columns=[1990, 1991, 1992]).to_csv(index=False),
        pd.DataFrame(X, columns=[400.5, 401.5, 402.5]).to_csv(index=False),
        pd.DataFrame(PIXELS[:, :4] % 5).to_csv(index=False),
        "0\n0.5\n0.25\n",
        "0\n3\n5\n",
        "0,1\n3,0\n5,2\n",
        "1,x,4\n1,2,3\n4.5,5,6\n",
        "150,4,setosa\n5.1,3.5,0\n4.9,3.0,0\n",  # scikit-learn's iris.csv
    ],
)
def test_a_first_line_that_may_be_either_is_asked_about(tmp_path, text):
    n = len(text.splitlines())
    message = r"first line .* may be a header or a sample: set data\.header=true or data\.header=false"
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)
    assert load(tmp_path, text, header=True).n == n - 1
    if "x" in text or "setosa" in text:  # a header, or a slip
        with pytest.raises(UserError, match="is no number"):
            load(tmp_path, text, header=False)
    else:
        assert load(tmp_path, text, header=False).n == n


def test_a_sample_above_the_others_is_no_header(tmp_path):
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((12, 2 + seed % 5))
        assert load(tmp_path, pd.DataFrame(x).to_csv(header=False, index=False)).n == 12
        counts = np.random.default_rng(seed).integers(0, 9, (40, 2 + seed % 5))
        assert load(tmp_path, pd.DataFrame(counts).to_csv(header=False, index=False)).n == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n\n3,4\n5,NA\n", r"missing value or NaN in line 5, column b:"),
        ('"a\nx",b\n1,2\n3,\n', r"in line 4, column b"),
        ("# made by me\na,b\n1,2\n,4\n,\n", r"in line 4, column a \(3 such values: line 4, line 5\)"),
        ("1;2,5\n#N/A;3,5\n", r"in line 2, cell 1"),
        ("1 2\nnan 3\n", r"in line 2, cell 1"),
        ("a,b\n1,2\n3,-inf\n", r"Inf in line 3, column b"),
        (FRAME.mask(X[7, 1] == FRAME).to_csv(), r"in line 9, column b"),
        ("a,b\n1,2\n3,?\n", r"'\?' in line 3, column b, is no number$"),
        ("a,b\n1,2\n3,x\n", r"'x' in line 3, column b, is no number \(class names\? set data\.labels"),
        ('a,b\n"1,234",1\n"2,000",2\n', r"'1,234' in line 2, column a, is no number$"),
        ("a;b\n1,5;2\n1.5;3\n", r"'1.5' in line 3|'1,5' in line 2"),
        ("a,b\n2020-01-01,1\n2020-01-02,2\n", r"'2020-01-01' in line 2, column a, is no number$"),
        ("a,b,c\n1,2,3\n4,5\n", r"line 3 has 2 cells, the others have 3"),
        ("a,b,c\n1,2,3\n4,5,6,7\n", r"line 3 has 4 cells, the others have 3"),
        ("a,b\n1,2,3,4\n4,5,6,7\n", r"header has 2 cells, the line below 4"),
        ("a,b\n", r"empty: 0 training samples of 2 features"),
        ("\n\n", r"is empty"),
        ("a\0b", r"no text"),
    ],
)
def test_a_fault_is_named_by_its_place_in_the_file(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_text_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0xf6\): iconv"):
        load(tmp_path, "größe,b\n1,2\n", encoding="latin-1")


def test_the_place_after_a_hold_out_is_that_of_the_file(tmp_path):
    text = FRAME.assign(kind=KIND).mask(X[5, 2] == FRAME).to_csv(index=False)
    with pytest.raises(UserError, match=r"line 7, column c"):
        load(tmp_path, text, labels="kind", test_fraction=None)


def test_booleans_and_integers_beyond_64_bits_are_numbers(tmp_path):
    assert load(tmp_path, "a,b\nTrue,1\nFalse,2\n").train_x.tolist() == [[1.0, 1.0], [0.0, 2.0]]
    assert (
        load(tmp_path, "a,b\n123456789012345678901234,1\n1,2\n").train_x[0, 0] == 123456789012345678901234.0
    )


def test_columns_of_the_test_file_are_those_of_the_training_file(tmp_path):
    FRAME[["b", "a", "c"]].to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UserError, match=r"'b' stands where 'a' does"):
        load(tmp_path, FRAME.to_csv(index=False), test_path=str(tmp_path / "test.csv"), test_fraction=None)


def test_a_name_that_two_columns_have(tmp_path):
    with pytest.raises(UserError, match=r"two columns are called a: give data\.labels=NUMBER"):
        load(tmp_path, "a,a\n1,2\n3,4\n", labels="a")
    assert load(tmp_path, "a,a\n1,2\n3,4\n", labels=1).classes == [2, 4]


@settings(max_examples=60, deadline=None)
@given(
    x=arrays(
        np.float64,
        st.tuples(st.integers(1, 15), st.integers(1, 6)),
        elements=st.floats(-1e12, 1e12) | st.integers(-3, 300).map(float),
    ),
    written=st.fixed_dictionaries(
        {
            "sep": st.sampled_from(",;\t|"),
            "decimal": st.sampled_from(".,"),
            "header": st.booleans(),
            "index": st.booleans(),
            "lineterminator": st.sampled_from(["\n", "\r\n"]),
            "quoting": st.sampled_from([0, 1]),
        }
    ),
    whole=st.booleans(),
    numbered=st.booleans(),
)
def test_whatever_pandas_writes_is_read_as_it_is_or_asked_about(
    tmp_path_factory, x, written, whole, numbered
):
    if (
        written["sep"] == "," or x.shape[1] == 1
    ):  # one column with decimal commas is two columns to any reader
        written["decimal"] = "."
    frame = pd.DataFrame(x)
    if whole:
        frame = frame.round().astype(np.int64)
    if not numbered:
        frame.columns = [f"f{i}" for i in frame.columns]
    path = tmp_path_factory.mktemp("written") / "f.csv"
    path.write_bytes(frame.to_csv(**written).encode())
    options = (
        {} if written["index"] else {"index": False}
    )  # a frame without an index may look as if it had one
    try:
        samples = Array(path=str(path), **options).read(0)
    except UserError as error:
        if "may be a header or a sample" not in str(error):
            raise
        samples = Array(path=str(path), header=written["header"], **options).read(0)
    if written["index"] and not written["header"] and len(frame) < 3:
        return  # two rows that begin with 0 and 1 may be anything
    np.testing.assert_array_equal(samples.train_x.numpy(), frame.to_numpy(dtype=np.float64))
