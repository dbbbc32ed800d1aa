"""The promise of a candidate, in logarithms, which do not vanish far from the best."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from pytest_autotune.space.pool import FloatArray

#: Below so many deviations the expected improvement is computed by a series.
_FAR: Final = -5.0
_ERFC: Final = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806,
    0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip


def log_below(z: FloatArray) -> FloatArray:
    """Return the logarithm of the standard normal distribution function.

    By the rational Chebyshev fit of ``erfc`` in *Numerical Recipes* (1992, section 6.2), whose
    relative error is below 1.2e-7 however far out.
    """
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.5 * x)
    series = np.zeros_like(t)
    for coefficient in _ERFC[::-1]:
        series = series * t + coefficient
    # erfc(x) / 2, of which that of a negative x is the rest to one.
    tail = np.log(t / 2) + series - x * x
    return np.where(z < 0, tail, np.log1p(-np.exp(tail)))


def log_improvement(z: FloatArray) -> FloatArray:
    """Return the logarithm of the expected improvement, in deviations.

    ``z`` is by how many deviations a candidate is expected to be better.
    """
    log_density = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    near = np.maximum(z, _FAR)
    gain = near * np.exp(log_below(near)) + np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
    # Far below, the difference loses its digits: by the first terms of its series there.
    far = np.minimum(z, _FAR)
    series = log_density - 2 * np.log(-far) + np.log1p(-3 / (far * far))
    return np.where(z > _FAR, np.log(gain), series)
