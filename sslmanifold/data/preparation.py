"""From raw samples to those trained on: within the range of the arithmetic, scaled, centred, projected."""

import math
from typing import Literal

import torch
from torch import Tensor

from sslmanifold.data.samples import Samples
from sslmanifold.errors import UserError

Scale = Literal["none", "standard", "global"]


def prepare(samples: Samples, *, scale: Scale, center: bool, pca: int | None) -> Samples:
    """x = ((raw − mean)/scale) · components, fitted on the training split and applied to both.

    Args:
        samples: raw; changed in place.
        scale: see :class:`~sslmanifold.data.pair_data.PairData`.
        center: subtract the training mean.
        pca: number of principal components to keep, of the scaled data.

    Raises:
        UserError: values whose products leave float64, more components than there is data.
    """
    if scale != "none":
        _rescale(samples, each=scale == "standard", center=center or scale == "standard")
    require_range(samples, torch.float64)
    if pca is not None:
        return _principal_components(samples, pca)
    if center and scale == "none":
        _subtract(samples, samples.train_x.mean(dim=0))
    return samples


def require_range(samples: Samples, dtype: torch.dtype) -> None:
    """Raise UserError unless C (Eq. 7) and the loss, sums of products of two samples, are within ``dtype``.

    Both are at most about 2‖X‖_F² (X of one split, (n, d)): too large a norm ends in Inf, too small a one in
    products that are rounded to 0, and training would go on with either.
    """
    limits = torch.finfo(dtype)
    largest, least = math.sqrt(limits.max / 100), math.sqrt(limits.tiny / limits.eps)
    for split, x in (("training", samples.train_x), ("test", samples.test_x)):
        peak = float(x.abs().max()) if x.numel() else 0.0
        if peak == 0:
            continue
        norm = peak * float(torch.linalg.vector_norm(x / peak))  # the square of peak itself may overflow
        if least <= norm <= largest:
            continue
        size, fault = ("large", "overflow") if norm > largest else ("small", "round to zero")
        wider = torch.finfo(torch.float64)
        double = dtype != torch.float64 and math.sqrt(wider.tiny / wider.eps) <= norm <= math.sqrt(
            wider.max / 100
        )
        raise UserError(
            f"data={samples.name}: {split} values of up to {peak:.3g} are too {size} for "
            f"{str(dtype).removeprefix('torch.')}: the products of two samples, which the loss and C sum, {fault}. "
            "Set data.scale=standard (every feature to mean 0 and variance 1) or data.scale=global (one number for "
            "all features)" + (", or trainer.precision=64-true" if double else "")
        )


def remarks(samples: Samples, positive_variance: float, dtype: torch.dtype) -> list[str]:
    """What about the scale of the samples makes a run other than it looks, with the line to write."""
    x = samples.train_x
    if samples.n < 2:
        return []
    mean, deviation = x.mean(dim=0), x.std(dim=0)
    found = []
    spread = float(deviation.square().mean().sqrt())
    noise = math.sqrt(positive_variance)
    if 0 < spread < noise / 100:
        found.append(
            f"the noise of x⁺ has a standard deviation of {noise:.3g}, the data's own is {spread:.3g}: x⁺ says "
            f"nothing about x; set data.scale=standard, or data.positive_variance={0.1 * spread**2:.1g}"
        )
    # a feature that varies by less than the rounding of its mean is noise once it is cast
    lost = (deviation > 0) & (deviation < 8 * torch.finfo(dtype).eps * mean.abs())
    count = int(lost.sum())
    if count:
        which = "1 feature varies by less than the rounding of its mean"
        if count > 1:
            which = f"{count} features vary by less than the rounding of their means"
        found.append(f"{which} in {str(dtype).removeprefix('torch.')}: set data.center=true")
    return found


def _subtract(samples: Samples, mean: Tensor) -> None:
    samples.train_x = samples.train_x - mean
    samples.test_x = samples.test_x - mean
    samples.mean = mean


def _rescale(samples: Samples, *, each: bool, center: bool) -> None:
    """Divide by the standard deviation, of each feature or of all of them together."""
    from sklearn.preprocessing import StandardScaler

    x = samples.train_x
    # what is fitted is x/peak, so that the squares of very large or small values stay finite
    peak = x.abs().amax(dim=0) if each else x.abs().max().expand(samples.dim)
    peak = torch.where(peak > 0, peak, 1.0)
    scaler = StandardScaler().fit((x / peak).numpy())
    mean, variance, deviation = map(torch.from_numpy, (scaler.mean_, scaler.var_, scaler.scale_))
    # a constant feature has a variance of rounding alone: it is not divided
    constant = (deviation == 1) & (variance < 0.5)
    if not each:
        constant, deviation = constant.all(), variance.mean().sqrt().expand(samples.dim)
    deviation = torch.where(constant, 1 / peak, deviation)
    for split in ("train_x", "test_x"):
        unit = getattr(samples, split) / peak
        setattr(samples, split, (unit - mean if center else unit) / deviation)
    samples.scale = peak * deviation
    samples.mean = mean * peak if center else None


def _principal_components(samples: Samples, components: int) -> Samples:
    from sklearn.decomposition import PCA

    if components > min(samples.n, samples.dim):
        raise UserError(
            f"data.pca={components} needs at least as many samples and features, got n={samples.n}, "
            f"d={samples.dim}: set data.pca={min(samples.n, samples.dim)} or less"
        )
    # Exact solvers only: the randomised one would make C depend on a second seed.
    solver = "covariance_eigh" if samples.n > samples.dim else "full"
    pca = PCA(n_components=components, svd_solver=solver).fit(samples.train_x.numpy())
    samples.train_x = torch.from_numpy(pca.transform(samples.train_x.numpy())).contiguous()
    if samples.test_x.shape[0]:
        samples.test_x = torch.from_numpy(pca.transform(samples.test_x.numpy())).contiguous()
    else:
        samples.test_x = samples.train_x.new_empty(0, components)
    samples.image_shape = None
    # PCA centres what was scaled: (raw − a)/s − b = (raw − (a + s b))/s
    mean = torch.from_numpy(pca.mean_).clone()
    if samples.scale is not None:
        mean = mean * samples.scale + (0 if samples.mean is None else samples.mean)
    samples.mean = mean
    samples.components = torch.from_numpy(pca.components_.T).contiguous()
    return samples
