"""The labelled data of a run, rebuilt from its configuration and checked before anything is fitted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sslmanifold.data import Samples
from sslmanifold.errors import UserError
from sslmanifold.models.encoder import EncoderNetwork
from sslmanifold.runs import Run


@dataclass(frozen=True)
class Labelled:
    """Prepared inputs (centred, projected as the run's were) with labels.

    Shapes: ``train_x`` (n, d), ``test_x`` (n_test, d) float64; ``train_y`` (n,), ``test_y`` (n_test,) positions
    in ``classes``.
    """

    train_x: Tensor
    train_y: np.ndarray
    test_x: Tensor
    test_y: np.ndarray
    classes: list[Any]


def load_samples(run: Run) -> Samples:
    """The samples a run was trained on, from its configuration alone; nothing is downloaded."""
    from sslmanifold.config.check import build_group

    return build_group(run.config.get("data"), "data", run.opened).load(run.config.get("seed", 0))


@dataclass(frozen=True)
class LabelledImages(Labelled):
    """The same of images: rows are their pixels in [0, 1], beside the images themselves, (n, c, H, W) uint8."""

    train_images: Tensor
    test_images: Tensor


def _labelled_images(run: Run, network: EncoderNetwork) -> LabelledImages:
    from sslmanifold.config.check import build_group
    from sslmanifold.data.images import read_images

    data = build_group(run.config.get("data"), "data", run.opened)
    found = read_images(data, run.config.get("seed", 0))
    if found.channels != network.mean.shape[0]:
        raise UserError(
            f"{run.path}: its images now have {found.channels} channels, its encoder takes {network.mean.shape[0]}: "
            f"restore the data that config.yaml names (data={found.name})"
        )
    if found.train_y is None or found.test_y is None or not len(found.test_x):
        lack = "labels" if found.train_y is None else "test images"
        raise UserError(
            f"{run.path}: a probe needs labelled training and test images, and its data have no {lack}"
        )
    train_y, test_y = found.train_y.numpy(), found.test_y.numpy()
    classes = list(found.classes) if found.classes is not None else np.unique(train_y).tolist()
    check_classes(train_y, classes, str(run.path))
    pixels = [
        (x.double() / 255).flatten(1) for x in (found.train_x, found.test_x)
    ]  # (n, c, H, W) -> (n, c·H·W)
    return LabelledImages(pixels[0], train_y, pixels[1], test_y, classes, found.train_x, found.test_x)


def labelled(run: Run) -> Labelled:
    """The labelled splits of a run's data.

    Raises:
        UserError: no labels, no test split, fewer than two classes, a class with one example, or data that
            no longer has the features the model was trained on.
    """
    network: Any = run.model
    if isinstance(network, EncoderNetwork):
        return _labelled_images(run, network)
    samples = load_samples(run)
    dim = run.model.shape.dim
    if samples.dim != dim:
        raise UserError(
            f"{run.path}: its data now have {samples.dim} features, its model takes {dim}: restore the data that "
            f"config.yaml names (data={samples.name})"
        )
    if samples.train_y is not None and samples.test_x.shape[0] == 0:
        raise UserError(
            f"{run.path}: a probe is judged on a test split, and data={samples.name} has none: train with "
            "data.test_fraction=0.2 or data.test_path=…"
        )
    if samples.train_y is None or samples.test_y is None:
        raise UserError(
            f"{run.path}: a probe needs labels, and data={samples.name} has none: train with data.labels=… set, or on "
            "labelled data"
        )
    train_y, test_y = samples.train_y.numpy(), samples.test_y.numpy()
    classes = list(samples.classes) if samples.classes is not None else np.unique(train_y).tolist()
    check_classes(train_y, classes, str(run.path))
    return Labelled(samples.train_x, train_y, samples.test_x, test_y, classes)


def check_classes(train_y: np.ndarray, classes: list[Any], where: str) -> None:
    """Raise UserError unless there are two classes, each with one example to fit and one to validate."""
    counts = np.bincount(train_y, minlength=len(classes))
    if len(classes) < 2:
        raise UserError(f"{where}: a probe tells classes apart, and there is only {classes[0]!r}")
    scarce = int(counts.argmin())
    if counts[scarce] < 2:
        raise UserError(
            f"{where}: class {classes[scarce]!r} has {counts[scarce]} training example"
            f"{'' if counts[scarce] == 1 else 's'}, and a probe needs one to fit and one to validate: leave that "
            "class out of the data, or add to it"
        )
