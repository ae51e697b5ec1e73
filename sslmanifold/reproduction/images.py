"""What the images of a figure are called."""

from sslmanifold.data.idx import LABELS_MAGIC, read_idx
from sslmanifold.data.idx_images import data_root

OFFICIAL = [60_000, 10_000]  # MNIST's training and test images


def mnist_name(root: str | None) -> str:
    """ "MNIST", or "MNIST-10k" where the files hold 10,000 images in all and not the official 60,000 and 10,000."""
    raw = data_root(root) / "MNIST" / "raw"
    counts = [len(read_idx(raw / f"{split}-labels-idx1-ubyte", LABELS_MAGIC)) for split in ("train", "t10k")]
    return "MNIST" if counts == OFFICIAL else f"MNIST-{sum(counts) / 1000:g}k"
