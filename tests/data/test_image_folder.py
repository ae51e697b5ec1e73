"""A folder of image files: what is read, and one line for what cannot be."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslmanifold.data import ImageFolder
from sslmanifold.errors import UserError


def fill(folder: Path, count: int = 5, size: tuple[int, int] = (8, 8)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name)
    return tmp_path


def test_splits_and_classes(root: Path) -> None:
    found = ImageFolder(root=str(root)).images(0)
    assert found.train_x.shape == (10, 3, 8, 8)
    assert found.classes == ["cat", "dog"]
    assert found.train_y is not None
    assert found.train_y.tolist() == [0] * 5 + [1] * 5
    with Image.open(root / "train/dog/3.png") as image:
        np.testing.assert_array_equal(found.train_x[8].permute(1, 2, 0).numpy(), np.asarray(image))


def test_classes_and_per_class(root: Path) -> None:
    found = ImageFolder(root=str(root), classes=["dog"], per_class=3).images(0)
    assert found.train_x.shape[0] == 3
    assert found.test_x.shape[0] == 5
    assert found.classes == ["dog"]


def test_rows_for_other_models(root: Path) -> None:
    samples = ImageFolder(root=str(root)).load(0)
    assert samples.train_x.shape == (10, 192)
    assert float(samples.train_x.max()) <= 1


def test_a_part_is_held_out_where_there_is_no_test_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 10)
    found = ImageFolder(root=str(tmp_path), test_fraction=0.3).images(0)
    assert (len(found.train_x), len(found.test_x)) == (14, 6)
    assert found.test_y is not None
    assert found.test_y.tolist() == [0] * 3 + [1] * 3


def test_sizes(root: Path) -> None:
    fill(root / "train" / "dog" / "more", 1, (20, 10))
    with pytest.raises(UserError, match=r"set data.size=8"):
        ImageFolder(root=str(root)).images(0)
    assert ImageFolder(root=str(root), size=6).images(0).train_x.shape == (11, 3, 6, 6)


def test_a_corrupt_file_is_named_and_skipped_only_if_asked(root: Path) -> None:
    victim = root / "train/cat/2.png"
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(UserError, match=r"cat/2.png is no image that can be read .*data.skip_corrupt=true"):
        ImageFolder(root=str(root)).images(0)
    found = ImageFolder(root=str(root), skip_corrupt=True).images(0)
    assert found.train_x.shape[0] == 9
    assert "1 unreadable files left out (2.png)" in found.described


def test_an_empty_class_folder(root: Path) -> None:
    os.mkdir(root / "train/eel")
    with pytest.raises(UserError, match=r"eel holds no images"):
        ImageFolder(root=str(root)).images(0)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data.root=DIR"):
        ImageFolder().images(0)
    with pytest.raises(UserError, match=r"is no folder"):
        ImageFolder(root=str(tmp_path / "nowhere")).images(0)
