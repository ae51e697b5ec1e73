"""Random views of images: the augmentations of SimCLR and its relatives on whole batches, one draw an image."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sslmanifold.errors import UserError

_VIEWS = 6  # stream of random numbers
_DRAWS = 16  # uniform numbers to an image and view
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as in torchvision

Strength = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(kw_only=True)
class Augmentation:
    """V random views of every image: crop and flip, colour jitter, grey, blur, solarisation, in this order.

    Every image draws its own parameters; they are a function of (seed, epoch, view, index of the image) alone, so a
    resumed run repeats them. The colour jitter keeps the order brightness, contrast, saturation, hue, where
    torchvision shuffles it; a crop that would leave the image is cut at its border, where torchvision draws again.

    Args:
        views: V.
        crop: smallest and largest area of the crop, as parts of the image; [1, 1] for none.
        ratio: smallest and largest ratio of its sides.
        flip: probability of a horizontal flip.
        jitter: probability of a colour jitter; of ``brightness``, ``contrast``, ``saturation`` the factor is uniform
            in 1 ± strength, ``hue`` is turned by up to this part of the circle (at most .5).
        grey: probability of no colour.
        blur: probability of a Gaussian blur with a standard deviation in ``sigma``, in pixels.
        solarize: probability that values above one half are inverted.

    Source: Chen et al., ICML 2020 (SimCLR), appendix A; Grill et al., NeurIPS 2020 (solarisation).
    """

    views: Annotated[int, Field(ge=2)] = 2
    crop: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Probability = 0.2
    blur: Probability = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: Probability = 0.0

    def __post_init__(self) -> None:
        for key, top in (("crop", 1.0), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, key)
            if not 0 < low <= high <= top:
                bound = " and at most 1" if top == 1 else ""
                raise UserError(
                    f"augment.{key}=[{low}, {high}] is no range: write the smaller number first, both above 0{bound}"
                )
        for key in ("brightness", "contrast", "saturation"):
            if not math.isfinite(getattr(self, key)):
                raise UserError(f"augment.{key}={getattr(self, key)} is not finite")

    def draws(self, n: int, *, seed: int, epoch: int, view: int) -> Tensor:
        """Uniform numbers (n, 16) in [0, 1) of one view of all n images in one epoch, float32."""
        rng = np.random.default_rng([seed, _VIEWS, epoch, view])
        return torch.from_numpy(rng.random((n, _DRAWS), dtype=np.float32))

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Views (n, c, H, W) in [0, 1] of images (n, c, H, W), uint8 or in [0, 1], by their draws (n, 16)."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        u = draws.to(x.device, x.dtype).unbind(1)
        x = self._cropped(x, *u[:5])
        if self.jitter and x.shape[1] == 3:
            x = _where(
                u[5] < self.jitter, x, lambda part, rows: self._jittered(part, draws.to(x)[rows, 6:10])
            )
        if self.grey and x.shape[1] == 3:
            x = _where(u[10] < self.grey, x, lambda part, rows: luma(part).expand_as(part))
        if self.blur:
            low, high = self.sigma
            x = _where(
                u[11] < self.blur, x, lambda part, rows: blurred(part, low + (high - low) * u[12][rows])
            )
        if self.solarize:
            x = _where(u[13] < self.solarize, x, lambda part, rows: torch.where(part >= 0.5, 1 - part, part))
        return x

    def _cropped(
        self, x: Tensor, area: Tensor, ratio: Tensor, top: Tensor, left: Tensor, flip: Tensor
    ) -> Tensor:
        """Crops scaled back to the size of the image, bilinearly, some of them mirrored."""
        if self.crop == (1.0, 1.0) and not self.flip:
            return x
        area = self.crop[0] + (self.crop[1] - self.crop[0]) * area
        low, high = (math.log(side) for side in self.ratio)
        sides = torch.exp(low + (high - low) * ratio) if self.crop != (1.0, 1.0) else torch.ones_like(ratio)
        width = (area * sides).sqrt().clamp_max(1)  # parts of the image
        height = (area / sides).sqrt().clamp_max(1)
        sign = torch.where(flip < self.flip, -1.0, 1.0)
        theta = x.new_zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = width * sign, (2 * left - 1) * (1 - width)
        theta[:, 1, 1], theta[:, 1, 2] = height, (2 * top - 1) * (1 - height)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _jittered(self, x: Tensor, u: Tensor) -> Tensor:
        def factor(strength: float, column: int) -> Tensor:
            low = max(0.0, 1 - strength)
            return (low + (1 + strength - low) * u[:, column]).view(-1, 1, 1, 1)

        if self.brightness:
            x = (x * factor(self.brightness, 0)).clamp(0, 1)
        if self.contrast:
            mean = luma(x).mean((-2, -1), keepdim=True)
            x = torch.lerp(mean, x, factor(self.contrast, 1)).clamp(0, 1)
        if self.saturation:
            x = torch.lerp(luma(x), x, factor(self.saturation, 2)).clamp(0, 1)
        if self.hue:
            x = turned_hue(x, self.hue * (2 * u[:, 3] - 1))
        return x


def _where(chosen: Tensor, x: Tensor, change) -> Tensor:  # type: ignore[no-untyped-def]
    """x with ``change(x[rows], rows)`` in the rows that are chosen."""
    if x.is_cuda:  # how many rows are chosen is not known here without waiting for the device
        return torch.where(chosen.view(-1, 1, 1, 1), change(x, slice(None)), x)
    rows = chosen.nonzero().squeeze(1)
    return x if not len(rows) else x.index_copy(0, rows, change(x[rows], rows))


def luma(x: Tensor) -> Tensor:
    """Brightness (n, 1, H, W) of RGB images (n, 3, H, W)."""
    red, green, blue = x.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def turned_hue(x: Tensor, turns: Tensor) -> Tensor:
    """RGB images (n, 3, H, W) in [0, 1] with their hue turned by so many circles (n,), in HSV."""
    value, _ = x.max(1)
    chroma = value - x.amin(1)
    red, green, blue = x.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turns.view(-1, 1, 1)  # (n, H, W), modulo 6
    channels = []
    for start in (5.0, 3.0, 1.0):
        k = (start + sector) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Images (n, c, H, W) under a Gaussian of its own standard deviation (n,) each, in pixels; borders are mirrored.

    The kernel has the odd width next to a tenth of the image, at least 3, as SimCLR's has.
    """
    n, c, height, width = x.shape
    radius = max(1, round(min(height, width) / 20))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma.view(-1, 1).square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0).unsqueeze(1)  # (n·c, 1, k)
    flat = functional.pad(x.reshape(1, n * c, height, width), [radius] * 4, mode="reflect")
    flat = functional.conv2d(flat, kernel.unsqueeze(-1), groups=n * c)
    return functional.conv2d(flat, kernel.unsqueeze(-2), groups=n * c).reshape(x.shape)
