"""The IDX file format of MNIST and its relatives: checked before it is read."""

import struct
from pathlib import Path

import numpy as np

from sslmanifold.errors import UserError

IMAGES_MAGIC, LABELS_MAGIC = 0x0803, 0x0801  # unsigned bytes of three axes, of one axis
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes: (n, rows, columns) for images, (n,) for labels.

    Raises:
        UserError: wrong magic number, or a size that is not what the header announces.
    """
    content = path.read_bytes()
    axes = magic & 0xFF
    start = 4 + 4 * axes
    found = struct.unpack(">I", content[:4])[0] if len(content) >= 4 else None
    if found != magic:
        seen = f"a file of {len(content)} bytes" if found is None else f"magic number {found}"
        kind = "images" if axes == 3 else "labels"
        raise UserError(
            f"{path} is not an IDX file of {kind}: {seen}, expected magic number {magic} (uncompressed)"
        )
    if len(content) < start:
        raise UserError(f"{path} is truncated: {len(content)} bytes do not hold its header of {start}")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        fault = "truncated" if len(content) < expected else "longer than its header says"
        raise UserError(
            f"{path} is {fault}: {len(content)} bytes, its header of shape {shape} asks for {expected}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, rows, columns) and labels (n,) of ``split`` = ``train`` or ``t10k``, of equal count."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte", IMAGES_MAGIC)
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte", LABELS_MAGIC)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
    return images, labels
