"""Views of images: each operation against torchvision's; draws are a function of (seed, epoch, view, index)."""

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from sslmanifold.data import Augmentation
from sslmanifold.data.augmentation import blurred, luma, turned_hue
from sslmanifold.errors import UserError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_hue_is_torchvisions(images: torch.Tensor) -> None:
    turns = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.3, 0.5], dtype=torch.float64)
    found = turned_hue(images, turns)
    for image, turn, one in zip(images, turns, found, strict=True):
        torch.testing.assert_close(one, reference.adjust_hue(image, float(turn)), atol=1e-6, rtol=0)


def test_grey_is_torchvisions(images: torch.Tensor) -> None:
    torch.testing.assert_close(luma(images), reference.rgb_to_grayscale(images), atol=1e-10, rtol=0)


def test_blur_is_torchvisions() -> None:
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for image, sigma, found in zip(
        images, (0.7, 1.9), blurred(images, torch.tensor([0.7, 1.9], dtype=torch.float64)), strict=True
    ):
        torch.testing.assert_close(
            found, reference.gaussian_blur(image, [5, 5], [sigma, sigma]), atol=1e-8, rtol=0
        )


def test_brightness_contrast_and_saturation_are_torchvisions_in_their_order(images: torch.Tensor) -> None:
    augment = Augmentation(crop=(1.0, 1.0), flip=0.0, jitter=1.0, hue=0.0, grey=0.0)
    draws = augment.draws(6, seed=1, epoch=2, view=0).double()
    found = augment(images, draws)
    for image, u, one in zip(images, draws, found, strict=True):
        wanted = reference.adjust_brightness(image, float(0.6 + 0.8 * u[6]))
        wanted = reference.adjust_contrast(wanted, float(0.6 + 0.8 * u[7]))
        wanted = reference.adjust_saturation(wanted, float(0.6 + 0.8 * u[8]))
        torch.testing.assert_close(one, wanted, atol=1e-6, rtol=0)


def test_a_flip_alone_mirrors(images: torch.Tensor) -> None:
    augment = Augmentation(crop=(1.0, 1.0), flip=1.0, jitter=0.0, grey=0.0)
    found = augment(images, augment.draws(6, seed=0, epoch=0, view=0))
    torch.testing.assert_close(found, images.flip(-1), atol=1e-6, rtol=0)


def test_nothing_asked_for_changes_nothing(images: torch.Tensor) -> None:
    augment = Augmentation(crop=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)
    assert torch.equal(augment(images, augment.draws(6, seed=0, epoch=0, view=0)), images)


def test_a_crop_shows_a_part_of_the_image() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).contiguous()  # columns rise from 0 to 1
    augment = Augmentation(crop=(0.25, 0.25), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)
    found = augment(ramp, augment.draws(1, seed=0, epoch=0, view=0))
    assert float(found.max() - found.min()) == pytest.approx(0.5, abs=0.03)  # half the side


def test_draws_depend_on_the_image_alone_not_on_its_batch() -> None:
    images = torch.randint(
        0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    augment = Augmentation(blur=0.5, solarize=0.5)
    draws = augment.draws(10, seed=0, epoch=3, view=1)
    whole, rows = augment(images, draws), torch.tensor([7, 2, 5])
    torch.testing.assert_close(augment(images[rows], draws[rows]), whole[rows], atol=1e-6, rtol=0)
    assert not torch.equal(draws, augment.draws(10, seed=0, epoch=4, view=1))
    assert not torch.equal(draws, augment.draws(10, seed=0, epoch=3, view=0))
    assert torch.equal(draws, augment.draws(10, seed=0, epoch=3, view=1))
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1


@pytest.mark.parametrize("options", [{"crop": (0.0, 1.0)}, {"crop": (0.5, 2.0)}, {"sigma": (2.0, 1.0)}])
def test_ranges_that_are_none(options: dict) -> None:
    with pytest.raises(UserError, match=r"is no range"):
        Augmentation(**options)
