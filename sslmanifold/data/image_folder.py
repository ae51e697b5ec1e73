"""A folder of image files, one folder a class: finding, decoding and naming what cannot be read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sslmanifold.data.images import Images, ImageSet
from sslmanifold.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_SPLIT = 5  # stream of random numbers for the test split
_LAYOUT = "train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg alone"

File = tuple[Path, str]  # and its class


@dataclass(kw_only=True)
class ImageFolder(ImageSet):
    """Images in ``<root>/train/<class>/`` and ``<root>/test/<class>/``, or in ``<root>/<class>/`` alone.

    A folder without classes, ``<root>/train/*.jpg``, has no labels. Files are read in the order of their names and
    kept as bytes in memory, in RGB.

    Args:
        root: the folder.
        size: side of the images: each is scaled by its shorter side and cut to the middle square. None where all
            have one size already.
        test_fraction: of each class, held out where there is no ``test`` folder.
        skip_corrupt: leave out the files that cannot be read, and say which, instead of ending with the first.
        workers: threads that decode.

    Raises (on ``load`` and ``images``):
        UserError: no such folder, an empty class, a file that is no image, images of several sizes; one line each.
    """

    name: ClassVar[str] = "image_folder"

    root: str | None = None
    size: Annotated[int, Field(gt=0)] | None = None
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    skip_corrupt: bool = False
    workers: Annotated[int, Field(gt=0)] = 2

    def whole(self, seed: int) -> Images:
        if self.root is None:
            raise UserError(f"data=image_folder needs a folder: set data.root=DIR, with {_LAYOUT}")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.root={self.root} is no folder: data=image_folder reads {_LAYOUT}")
        splits = (root / "train").is_dir()
        train = _files(root / "train" if splits else root)
        test = _files(root / "test") if splits and (root / "test").is_dir() else []
        if not test and self.test_fraction:
            train, test = self._held_out(train, seed)
        corrupt: list[str] = []
        train_x, train = self._decoded(train, corrupt)
        test_x, test = self._decoded(test, corrupt, like=train_x)
        classes = sorted({label for _, label in train})
        unknown = sorted({label for _, label in test} - set(classes))
        if unknown:
            raise UserError(
                f"data.root={self.root}: class {unknown[0]} of its test folder has no training images"
            )
        labelled = classes != [""]
        left_out = (
            (f"{len(corrupt)} unreadable files left out ({', '.join(corrupt[:3])})",) if corrupt else ()
        )
        return Images(
            train_x,
            _labels(train, classes) if labelled else None,
            test_x,
            _labels(test, classes) if labelled else None,
            self.name,
            list(classes) if labelled else None,
            f"{len(train)} training and {len(test)} test images {'×'.join(map(str, train_x.shape[-2:]))} of "
            f"{len(classes)} class{'es' if len(classes) > 1 else ''} in {root}",
            left_out,
        )

    def _held_out(self, files: list[File], seed: int) -> tuple[list[File], list[File]]:
        rng, train, test = np.random.default_rng([seed, _SPLIT]), [], []
        for label in sorted({label for _, label in files}):
            own = [file for file in files if file[1] == label]
            held = set(rng.permutation(len(own))[: round(self.test_fraction * len(own))].tolist())
            train += [file for index, file in enumerate(own) if index not in held]
            test += [file for index, file in enumerate(own) if index in held]
        return train, test

    def _decoded(
        self, files: list[File], corrupt: list[str], like: Tensor | None = None
    ) -> tuple[Tensor, list[File]]:
        """The images (n, 3, H, W) and the files that they are."""
        with ThreadPoolExecutor(self.workers) as pool:
            decoded = list(pool.map(lambda file: _decode(file[0], self.size), files))
        kept, arrays = [], []
        for file, found in zip(files, decoded, strict=True):
            if isinstance(found, np.ndarray):
                kept.append(file)
                arrays.append(found)
            elif self.skip_corrupt:
                corrupt.append(file[0].name)
            else:
                raise UserError(
                    f"data.root={self.root}: {file[0]} is no image that can be read ({found}): remove it, or set "
                    "data.skip_corrupt=true"
                )
        if not arrays:
            if like is None:
                raise UserError(f"data.root={self.root}: not one of its {len(files)} files can be read")
            return like[:0], kept
        shape = arrays[0].shape if like is None else (*like.shape[-2:], 3)
        for file, array in zip(kept, arrays, strict=True):
            if array.shape != shape:
                raise UserError(
                    f"data.root={self.root}: {file[0]} has {array.shape[1]}×{array.shape[0]} pixels, others "
                    f"{shape[1]}×{shape[0]}: set data.size={min(shape[:2])}"
                )
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), kept


def _files(folder: Path) -> list[File]:
    """Image files below a folder with the name of the class folder each lies in, "" where there are none."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        found = [(path, "") for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(
                f"{folder} holds no images ({', '.join(SUFFIXES)}): data=image_folder reads {_LAYOUT}"
            )
        return found
    found = []
    for entry in classes:
        own = [(path, entry.name) for path in sorted(entry.rglob("*")) if path.suffix.lower() in SUFFIXES]
        if not own:
            raise UserError(
                f"class folder {entry} holds no images ({', '.join(SUFFIXES)}): fill it, or remove it"
            )
        found += own
    return found


def _labels(files: list[File], classes: list[str]) -> Tensor:
    position = {label: index for index, label in enumerate(classes)}
    return torch.tensor([position[label] for _, label in files], dtype=torch.int64)


def _decode(path: Path, size: int | None) -> np.ndarray | str:
    """One image (H, W, 3) uint8, or why it is none."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    if size is not None and image.size != (size, size):
        width, height = image.size
        shorter = min(width, height)
        left, top = (width - shorter) / 2, (height - shorter) / 2
        image = image.resize(
            (size, size), Image.Resampling.BICUBIC, (left, top, left + shorter, top + shorter)
        )
    return np.asarray(image)
