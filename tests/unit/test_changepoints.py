"""Change points are found where levels change, and hardly ever where nothing does."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from pytest_autotune.gate.history.changepoints import ChangePoint, _split, find, smallest

Array: TypeAlias = npt.NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator], Array]

#: Chance alone breaks a bound in one run of this many, if seeds were not fixed.
RARE = 1e-4


def most(trials: int, probability: float) -> int:
    """Return the number of successes that is exceeded with a probability below RARE."""
    tail, successes = 1.0, -1
    while tail > RARE:
        successes += 1
        tail -= math.comb(trials, successes) * (
            probability**successes * (1 - probability) ** (trials - successes)
        )
    return successes


SLOW = pytest.mark.slow
#: Series of random values: few show a mistake, many show how often one happens.
FEW_AND_MANY = pytest.mark.parametrize("trials", [6, pytest.param(60, marks=SLOW)])


def steps(*levels: tuple[int, float], noise: float = 0.02, seed: int = 0) -> list[float]:
    """Return levels of so many values each, in noise of this share."""
    random = np.random.default_rng([14, seed])
    flat = np.concatenate([np.full(count, level) for count, level in levels])
    return [float(value) for value in flat * np.exp(random.normal(0, noise, len(flat)))]


def indices(values: list[float]) -> list[int]:
    return [point.index for point in find(values)]


def energy(left: Array, right: Array) -> float:
    """Return the energy distance of two samples, times left * right / both."""
    m, n = len(left), len(right)
    between = np.abs(left[:, None] - right).sum() / (m * n)
    within = [np.abs(x[:, None] - x).sum() / (len(x) * (len(x) - 1)) for x in (left, right)]
    return float(m * n / (m + n) * (2 * between - within[0] - within[1]))


# False alarms


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda r: np.exp(r.normal(0, 0.02, 60)), id="normal", marks=SLOW),
        pytest.param(lambda r: np.exp(0.02 * r.standard_t(2, 60)), id="heavy-tailed", marks=SLOW),
        pytest.param(lambda r: r.lognormal(0, 1.5, 60), id="skewed", marks=SLOW),
        pytest.param(lambda r: r.choice([1.0, 1.1], 60), id="two-valued", marks=SLOW),
        pytest.param(lambda r: np.exp(r.normal(0, 0.02, 14)), id="few"),
    ],
)
def test_noise_is_called_a_change_as_often_as_alpha_says(draw: Draw) -> None:
    trials = 300
    alarms = sum(bool(find(list(draw(np.random.default_rng([5, n]))))) for n in range(trials))
    assert alarms <= most(trials, 0.01)


@FEW_AND_MANY
def test_alpha_is_used_up(trials: int) -> None:
    alpha = 0.2
    found = [
        find(list(np.random.default_rng([6, n]).lognormal(size=20)), alpha=alpha)
        for n in range(trials)
    ]
    alarms = sum(map(bool, found))
    assert trials - most(trials, 1 - alpha) <= alarms <= most(trials, alpha)


@pytest.mark.parametrize("value", [1.0, 0.1, 1e-300, 1e300])
def test_equal_values_have_no_change(value: float) -> None:
    assert find([value] * 50) == []


def test_one_outlier_is_no_change() -> None:
    values = steps((40, 1.0))
    values[20] *= 100
    assert find(values) == []


# Power and place


@FEW_AND_MANY
def test_a_step_is_found_and_placed(trials: int) -> None:
    found = [indices(steps((15, 1.0), (15, 1.05), seed=n)) for n in range(trials)]
    near = sum(any(abs(index - 15) <= 1 for index in each) for each in found)
    assert sum(map(bool, found)) >= trials - most(trials, 0.03)
    # Least squares, which is told that there is one, places 93 %.
    assert near >= trials - most(trials, 0.09)


@FEW_AND_MANY
def test_a_clear_step_is_placed_exactly(trials: int) -> None:
    found = [indices(steps((15, 1.0), (15, 1.2), seed=n)) for n in range(trials)]
    assert [each for each in found if 15 not in each] == []
    assert sum(map(len, found)) <= trials + most(trials, 0.01)


@pytest.mark.parametrize("ratio", [1.0, 1.2**2, 1 / 1.2])
def test_two_steps_are_found(ratio: float) -> None:
    values = steps((20, 1.0), (20, 1.2), (20, ratio))
    assert indices(values) == [20, 40]


@FEW_AND_MANY
def test_a_short_bump_in_a_long_series_is_found(trials: int) -> None:
    # One split in two, as many implementations do it, finds this hardly ever.
    found = [indices(steps((40, 1.0), (6, 1.1), (14, 1.0), seed=n)) for n in range(trials)]
    assert sum({40, 46} <= set(each) for each in found) >= trials - most(trials, 0.06)


def test_a_change_among_many_values_leaves_the_others_to_be_found() -> None:
    values = steps((10, 1.0), (30, 1.3), (30, 1.0), (30, 1.5), (10, 1.4))
    assert indices(values) == [10, 40, 70, 100]


@FEW_AND_MANY
def test_changes_are_placed_once_all_are_known(trials: int) -> None:
    for seed in range(trials):
        values = steps((20, 1.0), (20, 1.05), (20, 1.1025), seed=seed)
        found, logs = indices(values), np.log(values)
        start = found[-2] if len(found) > 1 else 0
        ends = range(start + 3, 58)
        assert found[-1] == max(ends, key=lambda t: energy(logs[start:t], logs[t:]))


def test_a_drift_is_a_stair() -> None:
    drift = [value * (1 + 0.1 * n / 59) for n, value in enumerate(steps((60, 1.0)))]
    points = find(drift)
    assert 1 <= len(points) <= 3
    assert all(point.ratio > 1 for point in points)


# What a change point says


def test_a_change_point_has_the_medians_of_its_neighbours() -> None:
    values = [
        1.0,
        1.1,
        0.9,
        1.0,
        1.05,
        1.0,
        2.0,
        2.2,
        1.9,
        2.0,
        2.1,
        2.0,
        5.0,
        5.1,
        4.9,
        5.0,
        5.2,
        5.0,
    ]
    first, second = find(values)
    assert (first.index, first.before, first.after) == (6, 1.0, 2.0)
    assert (second.index, second.before, second.after) == (12, 2.0, 5.0)
    assert (first.ratio, second.ratio) == (2.0, 2.5)


def test_numbers_are_pythons_own() -> None:
    points = find(np.asarray([1.0] * 8 + [2.0] * 8))  # type: ignore[arg-type]
    assert points == [ChangePoint(index=8, before=1.0, after=2.0, p_value=points[0].p_value)]
    assert {type(x) for p in points for x in (p.before, p.after, p.p_value)} == {float}
    assert type(points[0].index) is int


def test_equal_values_give_equal_points() -> None:
    values = steps((15, 1.0), (15, 1.05))
    assert find(values) == find(values) != []


def test_only_ratios_count() -> None:
    values = steps((20, 1.0), (20, 1.1))
    scaled = [1e-6 * value for value in values]
    assert [(p.index, p.p_value) for p in find(scaled)] == [
        (p.index, p.p_value) for p in find(values)
    ]


def test_a_speed_changes_when_its_time_does() -> None:
    values = steps((12, 1.0), (12, 8.0), noise=1.0) + steps((12, 40.0), noise=1.0, seed=1)
    rates = [1 / value for value in values]
    found = [(p.index, p.p_value) for p in find(values)]
    assert found == [(p.index, p.p_value) for p in find(rates)] != []


def test_no_probability_is_zero() -> None:
    (point,) = find([1.0] * 20 + [2.0] * 20)
    assert 0 < point.p_value < 0.001


def test_a_change_of_spread_alone_is_a_change() -> None:
    values = steps((40, 1.0), noise=0.001) + steps((40, 1.0), noise=0.2, seed=1)
    (point,) = find(values)
    assert abs(point.index - 40) <= 3
    assert point.ratio == pytest.approx(1, abs=0.1)


# How few are enough


def chance_of_a_clear_step(count: int, after: int) -> float:
    """Return in which share of all orders two levels are apart, by the definition."""
    values = [0] * (count - after) + [1] * after
    orders = list(itertools.combinations(range(count), after))
    apart = 0
    for places in orders:
        row = [int(place in places) for place in range(count)]
        apart += row in (values, values[::-1])
    return apart / len(orders)


def test_the_smallest_series() -> None:
    assert chance_of_a_clear_step(10, 5) <= 0.01 < chance_of_a_clear_step(9, 4)
    assert chance_of_a_clear_step(12, 3) <= 0.01 < chance_of_a_clear_step(11, 3)
    assert smallest(0.01, 3) == 10
    assert smallest(0.5, 5) == 10
    assert smallest(0.05, 2) == 8


@pytest.mark.parametrize(("before", "after", "found"), [(5, 5, [5]), (5, 4, []), (4, 4, [])])
def test_fewer_values_say_nothing(before: int, after: int, found: list[int]) -> None:
    assert indices(steps((before, 1.0), (after, 100.0))) == found


@pytest.mark.parametrize(("before", "after", "found"), [(9, 3, [9]), (3, 9, [3]), (8, 3, [])])
def test_the_latest_change_needs_more(before: int, after: int, found: list[int]) -> None:
    assert indices(steps((before, 1.0), (after, 100.0))) == found


@pytest.mark.parametrize("after", [1, 2])
def test_levels_that_are_too_short_are_not_looked_for(after: int) -> None:
    values = steps((40, 1.0), (after, 100.0))
    assert all(len(values) - index >= 3 for index in indices(values))
    assert [p.index for p in find(steps((40, 1.0), (2, 100.0)), least=2)] == [40]


# What is refused


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_values_that_have_no_logarithm_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        find([1.0] * 20 + [bad])


@pytest.mark.parametrize(("alpha", "least"), [(0.01, 1), (0.0, 3), (0.6, 3), (math.nan, 3)])
def test_settings_that_mean_nothing_are_refused(alpha: float, least: int) -> None:
    with pytest.raises(ValueError, match="least must be"):
        find([1.0] * 20, alpha=alpha, least=least)


# The statistic


@pytest.mark.parametrize(("count", "least"), [(6, 3), (9, 2), (20, 3), (15, 5)])
def test_the_best_split_is_that_of_the_definition(count: int, least: int) -> None:
    rows = np.random.default_rng(count).normal(size=(4, count))
    gains, places = _split(rows, least)
    for row, gain, place in zip(rows, gains, places, strict=True):
        expected = {
            (t, k): energy(row[:t], row[t:k])
            for t in range(least, count - least + 1)
            for k in range(t + least, count + 1)
        }
        best = max(expected, key=lambda split: expected[split])
        assert gain == pytest.approx(expected[best])
        assert place == best[0]
    _, places = _split(rows, least, to_the_end=True)
    for row, place in zip(rows, places, strict=True):
        ends = range(least, count - least + 1)
        assert place == max(ends, key=lambda t: energy(row[:t], row[t:]))


def test_numpy_is_loaded_only_to_show_the_history() -> None:
    program = "import sys, pytest_autotune.gate.history.results;assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
