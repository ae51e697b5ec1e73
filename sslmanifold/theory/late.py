"""Any time at all: the orthogonal family at a cost that gaps of the spectrum decide, not t.

An explicit integrator pays ‖Λ‖ t for a flow whose end is decided by gaps of Λ. Here it goes in stretches, and after
each what has arrived is taken out (`Remainder`), so that only what still moves sets the step; once every singular
value is 0 or 1 the flow is Oja's at speed (2 + κ)/4, in closed form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sslmanifold.theory.closed_form import transported
from sslmanifold.theory.deflation import Remainder
from sslmanifold.theory.integrate import frame_velocity, landed

Array = NDArray[np.float64]

_RTOL, _ATOL = 1e-12, 1e-15
# Length of the first stretch, in units of 1/speed of what still moves; it doubles until something has arrived.
_STRETCH = 8.0
# t · speed below which nothing moves by a rounding.
_STILL = 1e-16


def late_frames(frame: Array, eigvals: Array, times: Array, kappa: float, extra: float) -> Array:
    """[q; R] (d + k, z) at ascending times > 0 from now: (T, d + k, z); one run, Λ (d,), κ > −2.

    ``extra`` is c = (L − 2)κ of a deep net.
    """
    left = Remainder.of(frame, eigvals)
    left.oja = False
    out, now, done, stretch = np.empty((len(times), *frame.shape)), 0.0, 0, _STRETCH
    while done < len(times):
        before = left.q.shape
        left.simplify()
        if left.speed * (float(times[-1]) - now) < _STILL:
            out[done:] = left.whole(left.q, left.r)
            break
        settled = left.arrived()
        if settled is not None:
            kept, v = settled
            r = left.r - left.r @ v @ v.T
            path = oja_frames(kept, left.lam, (2.0 + kappa + extra) / 4.0 * (times[done:] - now))
            for index, value in enumerate(path, start=done):
                out[index] = left.whole(value @ v.T, r)
            break
        stretch = _STRETCH if left.q.shape != before else 2 * stretch
        end = min(now + stretch / left.speed, float(times[-1]))
        inside = times[done:][times[done:] < end]
        start = np.concatenate([left.q, left.r])
        highest = np.linalg.eigvalsh(left.q.T @ (left.lam[:, None] * left.q)).max()
        velocity = frame_velocity(left.lam, start.shape, kappa, extra, highest=float(highest))
        values = landed(velocity, start.ravel(), np.append(inside, end) - now, _RTOL, _ATOL)
        rows = len(left.q)
        for value in (flat.reshape(start.shape) for flat in values[:-1]):
            out[done] = left.whole(value[:rows], value[rows:])
            done += 1
        last = values[-1].reshape(start.shape)
        left.q, left.r, now = last[:rows], last[rows:], end
        while done < len(times) and times[done] <= end:
            out[done] = left.whole(left.q, left.r)
            done += 1
    return out


def oja_frames(frame: Array, eigvals: Array, times: Array) -> Array:
    """Y(t) of Oja's flow Ẏ = −4 (I − YYᵀ) Λ Y, Y (rows, z) orthonormal, one eigenvalue a row: (T, rows, z)."""
    left = Remainder.of(frame, eigvals)
    out, now, done, stretch = np.empty((len(times), *frame.shape)), 0.0, 0, _STRETCH
    while done < len(times):
        before = left.q.shape
        left.simplify()
        if left.speed * (float(times[-1]) - now) < _STILL:
            out[done:] = left.whole(left.q, left.r)
            break
        stretch = _STRETCH if left.q.shape != before else 2 * stretch
        end = min(now + stretch / left.speed, float(times[-1]))
        inside = times[done:][times[done:] < end]
        values = transported(left.q, left.lam, np.append(inside, end) - now)
        for value in values[:-1]:
            out[done] = left.whole(value, left.r)
            done += 1
        left.q, now = values[-1], end
        while done < len(times) and times[done] <= end:
            out[done] = left.whole(left.q, left.r)
            done += 1
    return out
