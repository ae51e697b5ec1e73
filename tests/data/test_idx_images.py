"""MNIST's files: read as torchvision reads them, refused in one line where something is wrong."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sslmanifold.data import KMNIST, MNIST, FashionMNIST
from sslmanifold.data.idx import FILES
from sslmanifold.data.idx_images import data_root
from sslmanifold.errors import UserError

real = pytest.mark.skipif(
    not os.environ.get("SSLMANIFOLD_DATA"), reason="SSLMANIFOLD_DATA does not name a folder with MNIST/raw"
)


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, 4, 3), dtype=np.uint8)


def write(root: Path, train=12, test=6, label_count=None):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in (("train", train), ("t10k", test)):
        x = images(n, seed=n)
        y = (np.arange(label_count or n) % 3).astype(np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, *x.shape) + x.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(y)) + y.tobytes())
    return raw


def test_files_written_by_hand(tmp_path):
    write(tmp_path)
    samples = MNIST(root=str(tmp_path)).load()
    assert samples.image_shape == (4, 3)
    expected = images(12, seed=12).reshape(12, 12) / 255
    np.testing.assert_allclose(samples.train_x.numpy(), expected, rtol=1e-15)
    assert samples.train_y.tolist() == [0, 1, 2] * 4
    assert samples.test_x.shape == (6, 12)


def test_classes_and_per_class(tmp_path):
    write(tmp_path)
    samples = MNIST(root=str(tmp_path), classes=[2, 0], per_class=2).load()
    assert samples.classes == [2, 0]
    assert samples.train_y.tolist() == [1, 0, 1, 0]  # in the order of the file: 0, 2, 0, 2
    assert samples.test_y.tolist() == [1, 0, 1, 0]


def test_root_comes_from_the_argument_the_environment_or_the_default(monkeypatch):
    monkeypatch.setenv("SSLMANIFOLD_DATA", "/somewhere")
    assert data_root("here") == Path("here")
    assert data_root(None) == Path("/somewhere")
    monkeypatch.delenv("SSLMANIFOLD_DATA")
    assert data_root(None) == Path("data")


def message_of(data) -> str:
    with pytest.raises(UserError) as caught:
        data.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_files_at_all(tmp_path):
    message = message_of(MNIST(root=str(tmp_path)))
    for part in (
        *FILES,
        str(tmp_path / "MNIST" / "raw"),
        "data.download=true",
        "SSLMANIFOLD_DATA",
        "data.root",
    ):
        assert part in message


def test_one_file_missing_is_named(tmp_path):
    raw = write(tmp_path)
    (raw / FILES[3]).unlink()
    message = message_of(MNIST(root=str(tmp_path)))
    assert FILES[3] in message
    assert FILES[0] not in message


def test_truncated_file(tmp_path):
    raw = write(tmp_path)
    whole = (raw / FILES[0]).read_bytes()
    (raw / FILES[0]).write_bytes(whole[:-5])
    message = message_of(MNIST(root=str(tmp_path)))
    assert "truncated" in message
    assert f"{len(whole) - 5} bytes" in message
    (raw / FILES[0]).write_bytes(whole[:9])
    assert "header" in message_of(MNIST(root=str(tmp_path)))
    (raw / FILES[0]).write_bytes(whole + b"x")
    assert "longer" in message_of(MNIST(root=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00compressed", b"<html>not found</html>"])
def test_foreign_file(tmp_path, content):
    raw = write(tmp_path)
    (raw / FILES[1]).write_bytes(content)
    message = message_of(MNIST(root=str(tmp_path)))
    assert FILES[1] in message
    assert "2049" in message


def test_images_and_labels_of_different_counts(tmp_path):
    write(tmp_path, label_count=5)
    assert "12 train images but 5 labels" in message_of(MNIST(root=str(tmp_path)))


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(*args, **kwargs):
        raise RuntimeError("Error downloading train-images\nTried mirrors:\n<urlopen error>")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    message = message_of(MNIST(root=str(tmp_path), download=True))
    assert "download failed" in message
    assert str(tmp_path / "MNIST" / "raw") in message


def test_download_fills_the_folder(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write(Path(self.root)))
    assert MNIST(root=str(tmp_path), download=True).load().n == 12


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, KMNIST])
def test_relatives_share_the_format_under_their_own_folder(tmp_path, kind):
    from torchvision import datasets

    raw = write(tmp_path)
    raw.parent.rename(tmp_path / kind.folder)
    assert Path(getattr(datasets, kind.folder)(tmp_path).raw_folder) == tmp_path / kind.folder / "raw"
    samples = kind(root=str(tmp_path)).load()
    assert (samples.n, samples.name) == (12, kind.name)


@real
def test_real_images_are_torchvisions():
    from torchvision import datasets

    root = os.environ["SSLMANIFOLD_DATA"]
    samples = MNIST().load()
    for train, x, y in ((True, samples.train_x, samples.train_y), (False, samples.test_x, samples.test_y)):
        theirs = datasets.MNIST(root, train=train)
        assert torch.equal((x * 255).round().to(torch.uint8).reshape(-1, 28, 28), theirs.data)
        assert torch.equal(y, theirs.targets)


@real
def test_two_classes_of_two_hundred():
    samples = MNIST(classes=[0, 1], per_class=200).load()
    assert samples.train_x.shape == (400, 784)
    assert torch.bincount(samples.train_y).tolist() == [200, 200]
    assert samples.train_x.min() >= 0
    assert samples.train_x.max() <= 1
