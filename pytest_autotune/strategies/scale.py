"""The scale on which a model sees a target: from shares of the best through ratios to values.

A target is the logarithm of a ratio, such as that of a time to the best time. On the scale of
power ``p`` the ratio ``r`` counts as ``(r^p - 1) / p`` (Box and Cox 1964). That is the difference
at p = 1 and the logarithm at p = 0. At p = -1 it is the share of the best that is missing: this
tells apart ratios near 1, and hardly those that are far off. Ratios below 1 are never stretched.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pytest_autotune.space.pool import FloatArray

#: Powers closer to zero count as so much, which is as good as a logarithm.
_LEAST_POWER: Final = 1e-6


def scaled(logs: FloatArray, power: float) -> FloatArray:
    """Return logarithms of ratios on the scale of ``power``: 0 and the order stay."""
    powers = _powers(logs, power)
    found: FloatArray = np.expm1(powers * logs) / powers
    return found


def log_slopes(logs: FloatArray, power: float) -> FloatArray:
    """Return the logarithms of the derivative of :func:`scaled`."""
    return _powers(logs, power) * logs


def _powers(logs: FloatArray, power: float) -> FloatArray:
    power = power if abs(power) > _LEAST_POWER else _LEAST_POWER
    return np.where(logs < 0, abs(power), power)
