"""The scale of a target: from shares of the best through ratios to values."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_autotune.strategies.scale import log_slopes, scaled

RATIOS = np.array([1.0, 1.5, 4.0, 100.0])


@pytest.mark.parametrize(
    ("power", "expected"),
    [(1.0, RATIOS - 1), (0.0, np.log(RATIOS)), (-1.0, 1 - 1 / RATIOS)],
)
def test_a_power_is_a_difference_a_logarithm_or_a_share_of_the_best(
    power: float, expected: np.ndarray
) -> None:
    assert scaled(np.log(RATIOS), power) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("power", [-2.0, -0.7, 0.0, 0.4, 1.0])
def test_order_and_zero_stay_and_what_is_better_is_not_stretched(power: float) -> None:
    logs = np.linspace(-5, 5, 101)
    found = scaled(logs, power)
    assert (np.diff(found) > 0).all()
    assert found[50] == pytest.approx(0.0, abs=1e-12)
    assert (np.abs(found[:50]) <= np.abs(logs[:50])).all()


@pytest.mark.parametrize("power", [-1.3, 0.0, 0.6])
def test_slopes_are_those_of_the_scale(power: float) -> None:
    logs, step = np.linspace(-3, 3, 13), 1e-6
    slopes = (scaled(logs + step, power) - scaled(logs - step, power)) / (2 * step)
    assert log_slopes(logs, power) == pytest.approx(np.log(slopes), abs=1e-4)
