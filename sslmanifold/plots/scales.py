"""Scales of axes that the values ask for."""

from typing import Any

import numpy as np


def symmetric_log_if_wide(axes: Any, values: np.ndarray) -> None:
    """A loss that falls to −1e30 needs a logarithm that takes signs."""
    finite = np.abs(values[np.isfinite(values)])
    small = finite[finite > 0].min(initial=np.inf)
    if finite.size and np.isfinite(small) and finite.max() > 1e5 * small and finite.max() > 1e6:
        threshold = max(float(finite[finite > 0][0]), 1e-3)  # where it started
        axes.set_yscale("symlog", linthresh=threshold)
        axes.autoscale(axis="y")  # a margin of the linear axis may reach far to the other side of zero
        low, high = axes.get_ylim()
        axes.set_yticks([*_decades(threshold, -low, -1), 0.0, *_decades(threshold, high, 1)])
        axes.minorticks_off()


def _decades(threshold: float, end: float, sign: int) -> list[float]:
    """At most four powers of ten between the threshold and the end: its own ticks overlap about 0."""
    if end <= 10 * threshold:
        return []
    first, last = np.ceil(np.log10(threshold)) + 1, np.floor(np.log10(end))
    step = max(1, int(np.ceil((last - first + 1) / 4)))
    return [sign * 10.0**power for power in np.arange(last, first - 1, -step)]


def settling(x: np.ndarray, y: np.ndarray) -> float:
    """Where a curve has done nine tenths of its change for good; 0 for one that does not change."""
    kept = np.isfinite(y)
    x, y = x[kept], y[kept]
    if x.size < 3 or np.ptp(y) <= 1e-6 * np.abs(y).max():  # rounding does not settle
        return 0.0
    return float(x[np.abs(y - y[-1]) > 0.1 * np.ptp(y)].max(initial=0.0))


def stretch_the_start(axes: Any, settled: float, end: float) -> None:
    """An axis that is linear at the start and logarithmic later, where all that happens is in the first seventh."""
    if 0 < settled < end / 7:
        axes.set_xscale("asinh", linear_width=settled / 2)
        decades = 10.0 ** np.arange(np.ceil(np.log10(settled / 2)), np.floor(np.log10(end)) + 1)
        axes.set_xticks([0.0, *decades])  # its own ticks crowd about 0
        axes.set_xlim(0, end)
