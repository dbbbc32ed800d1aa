"""An interval of the median holds as often as it says, and claims nothing on too few samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.bench.statistics import (
    Interval,
    _rank,
    _spread,
    correlation_factor,
    median_interval,
    median_lower_bound,
    quantile,
    summarize,
)

Array: TypeAlias = npt.NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, int], Array]

PROPERTY = settings(derandomize=True, max_examples=200, deadline=None)
SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


def probability_below(count: int, rank: int) -> Fraction:
    """Return P(Binomial(count, 1/2) < rank), exactly."""
    return Fraction(sum(math.comb(count, k) for k in range(rank)), 2**count)


def largest_rank(count: int, tail: float) -> int:
    """Return the largest rank whose probability is within ``tail``, by the definition."""
    limit, total, rank = Fraction(tail) * 2**count, 0, 0
    while rank <= count:
        total += math.comb(count, rank)
        if total > limit:
            return rank
        rank += 1
    return rank


def floats(values: Array) -> list[float]:
    return [float(value) for value in values]


def autocorrelated(rng: np.random.Generator, count: int, carried: float) -> Array:
    """Draw a stationary first-order process around 10."""
    state = rng.normal() / math.sqrt(1 - carried**2)
    values = []
    for step in rng.normal(size=count):
        state = carried * state + step
        values.append(10 + 0.1 * state)
    return np.asarray(values)


# Quantiles and the usual statistics


@given(SAMPLES, st.floats(0, 1))
@PROPERTY
def test_a_quantile_is_what_numpy_says(samples: list[float], share: float) -> None:
    expected = float(np.quantile(np.asarray(samples), share))
    assert quantile(sorted(samples), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(SAMPLES)
@PROPERTY
def test_a_summary_is_what_numpy_says(samples: list[float]) -> None:
    found, array = summarize(samples), np.asarray(samples)
    assert found.mean == pytest.approx(float(array.mean()), rel=1e-12)
    assert (found.min, found.max) == (min(samples), max(samples))
    if len(samples) > 1:
        assert found.std == pytest.approx(float(array.std(ddof=1)), rel=1e-9, abs=1e-6)
    assert [percent for percent, _ in found.percentiles] == [25, 50, 75, 90, 99]
    for percent, value in found.percentiles:
        assert value == pytest.approx(float(np.percentile(array, percent)), rel=1e-9, abs=1e-9)
    assert found.median == dict(found.percentiles)[50]


def test_a_single_sample_is_all_of_its_statistics_and_deviates_from_nothing() -> None:
    found = summarize([0.25])
    assert (found.mean, found.std, found.min, found.max) == (0.25, 0.0, 0.25, 0.25)
    assert {value for _, value in found.percentiles} == {0.25}


def test_samples_need_not_be_in_order_and_are_left_as_they_are() -> None:
    samples = [3.0, 1.0, 2.0]
    assert summarize(samples).median == 2.0
    median_interval(samples, 0.5)
    assert samples == [3.0, 1.0, 2.0]


# Ranks


@pytest.mark.parametrize("tail", [0.25, 0.1, 0.05, 0.025, 0.0175, 0.008, 1e-4, 1e-9])
@pytest.mark.parametrize("count", [*range(1, 31), 99, 100, 500, 998, 999, 1000, 1001, 1023, 1024])
def test_a_rank_is_the_largest_that_keeps_the_error(count: int, tail: float) -> None:
    assert _rank(count, tail) == largest_rank(count, tail)


@pytest.mark.parametrize("tail", [0.1, 0.025, 0.0175, 1e-5])
@pytest.mark.parametrize("count", [1100, 1999, 2000])
def test_ranks_are_exact_beyond_what_a_float_can_hold(count: int, tail: float) -> None:
    assert _rank(count, tail) == largest_rank(count, tail)


@pytest.mark.parametrize("tail", [0.1, 0.025, 0.0175, 0.008, 1e-4, 1e-6])
@pytest.mark.parametrize("count", [2001, 2002, 3001])
def test_where_the_normal_distribution_takes_over_a_rank_errs_by_one_at_most_and_safely(
    count: int, tail: float
) -> None:
    exact = largest_rank(count, tail)
    assert exact - 1 <= _rank(count, tail) <= exact


@pytest.mark.parametrize("tail", [0.025, 1e-4])
def test_ranks_rise_with_the_count_also_where_the_way_of_finding_them_changes(tail: float) -> None:
    for around in (1000, 2000):
        ranks = [_rank(count, tail) for count in range(around - 4, around + 5)]
        # The normal distribution gives away half a rank, so it may stay for once.
        assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(ranks))


def test_a_tail_that_no_count_has_gives_no_rank() -> None:
    assert _rank(10, 0.0) == 0
    assert _rank(10, 2.0**-11) == 0
    assert _rank(10, 2.0**-10) == 1
    assert _rank(999, 1e-308) == largest_rank(999, 1e-308)


# The interval


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Conover, Practical Nonparametric Statistics: 6 samples are the first at 95 %.
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (25, 8, 18), (50, 18, 33)],
)
def test_the_interval_is_that_of_the_textbook(count: int, low: int, high: int) -> None:
    # In an order in which neighbours are not alike.
    order = np.random.default_rng(1).permutation(np.arange(1.0, count + 1))
    assert correlation_factor(floats(order)) == 1.0
    found = median_interval(floats(order), 0.95)
    assert (found.low, found.high, found.confidence) == (low, high, 0.95)


@pytest.mark.parametrize(("count", "confidence"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375)])
def test_too_few_samples_give_their_whole_range_and_own_up_to_it(
    count: int, confidence: float
) -> None:
    found = median_interval([float(k) for k in range(count)], 0.95)
    assert found == Interval(low=0.0, high=count - 1.0, confidence=confidence)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 30, 3000])
@pytest.mark.parametrize("value", [0.0, 1e-6, 2.5])
def test_equal_samples_leave_nothing_open(count: int, value: float) -> None:
    found = median_interval([value] * count, 0.95)
    assert (found.low, found.high, found.relative_width) == (value, value, 0.0)
    assert correlation_factor([value] * count) == 1.0


def test_the_width_of_an_interval_is_relative_to_its_middle() -> None:
    found = Interval(low=0.9, high=1.1, confidence=0.95)
    assert found.relative_width == pytest.approx(0.2)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=80), st.sampled_from([0.5, 0.9, 0.99]))
@PROPERTY
def test_the_interval_encloses_the_median_of_the_samples(
    samples: list[float], confidence: float
) -> None:
    found = median_interval(samples, confidence)
    # Between the two middle ones of an even number the median is a matter of rounding.
    assert found.low <= quantile(sorted(samples), 0.5) * (1 + 1e-12)
    assert found.high >= quantile(sorted(samples), 0.5) * (1 - 1e-12)
    assert min(samples) <= found.low <= found.high <= max(samples)
    assert found.confidence <= confidence


@given(st.lists(st.floats(0, 100), min_size=1, max_size=80))
@PROPERTY
def test_more_confidence_takes_a_wider_interval(samples: list[float]) -> None:
    found = [median_interval(samples, confidence) for confidence in (0.5, 0.9, 0.95, 0.99)]
    for narrow, wide in itertools.pairwise(found):
        assert wide.low <= narrow.low
        assert narrow.high <= wide.high


def covered(draw: Draw, true: float, count: int, confidence: float, runs: int) -> float:
    rng = np.random.default_rng(20)
    hits = 0
    for _ in range(runs):
        found = median_interval(floats(draw(rng, count)), confidence)
        hits += found.low <= true <= found.high
    return hits / runs


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("count", [8, 25, 60])
@pytest.mark.parametrize(
    ("draw", "true"),
    [
        pytest.param(lambda rng, count: rng.normal(5, 1, count), 5.0, id="normal"),
        pytest.param(lambda rng, count: rng.lognormal(0, 2, count), 1.0, id="lognormal"),
        pytest.param(lambda rng, count: rng.exponential(1, count), math.log(2), id="exponential"),
        pytest.param(lambda rng, count: rng.standard_cauchy(count) + 3, 3.0, id="cauchy"),
    ],
)
def test_the_interval_encloses_the_true_median_as_often_as_it_says(
    draw: Draw, true: float, count: int, confidence: float
) -> None:
    exact = 1 - 2 * float(probability_below(count, _rank(count, (1 - confidence) / 2)))
    runs = 1500
    # The seed is fixed; this is how far chance could have it from the truth, 4 deviations.
    # Correction for chance correlation makes some of them wider.
    allowed = 4 * math.sqrt(0.25 / runs)
    assert exact >= confidence
    assert exact - allowed < covered(draw, true, count, confidence, runs) < exact + allowed + 0.02


def test_ties_make_it_enclose_the_median_more_often_not_less() -> None:
    def coarse(rng: np.random.Generator, count: int) -> Array:
        return np.round(rng.normal(5, 1, count))

    assert covered(coarse, 5.0, 25, 0.95, 500) > 0.95


@pytest.mark.parametrize("carried", [0.5, 0.8, 0.95])
def test_samples_that_follow_their_neighbours_widen_the_interval(
    carried: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(rng: np.random.Generator, count: int) -> Array:
        return autocorrelated(rng, count, carried)

    corrected = covered(draw, 10.0, 150, 0.95, 400)
    monkeypatch.setattr("pytest_autotune.bench.statistics.correlation_factor", lambda samples: 1.0)
    naive = covered(draw, 10.0, 150, 0.95, 400)
    assert naive < 0.87
    assert corrected > naive + 0.08
    assert 1 - corrected < 0.6 * (1 - naive)


# Correlation


def test_fewer_than_twenty_samples_say_nothing_of_correlation() -> None:
    rising = [float(k) for k in range(20)]
    assert correlation_factor(rising[:19]) == 1.0
    assert correlation_factor(rising) > 5


def test_independent_samples_are_seldom_taken_for_correlated_ones() -> None:
    rng = np.random.default_rng(3)
    factors = [correlation_factor(floats(rng.exponential(1, 100))) for _ in range(500)]
    # Two deviations, one side: 2.3 %.
    assert sum(factor > 1 for factor in factors) < 0.05 * 500
    assert min(factors) == 1.0


def test_samples_that_alternate_do_not_narrow_the_interval() -> None:
    assert correlation_factor([1.0, 2.0] * 50) == 1.0


def test_a_drift_makes_the_samples_count_for_as_good_as_none() -> None:
    assert 50 < correlation_factor([float(k) for k in range(1000)]) < 1000


@pytest.mark.parametrize("carried", [0.3, 0.5, 0.8, 0.9])
def test_the_factor_is_that_of_a_normal_process_of_first_order(carried: float) -> None:
    # By simulation: how much more the medians of such samples vary than those of others.
    rng = np.random.default_rng(5)
    count, runs = 400, 2000
    steps = rng.normal(size=(runs, count))
    process = np.empty_like(steps)
    process[:, 0] = steps[:, 0] / math.sqrt(1 - carried**2)
    for k in range(1, count):
        process[:, k] = carried * process[:, k - 1] + steps[:, k]
    independent = rng.normal(size=(runs, count)) / math.sqrt(1 - carried**2)
    true = float(np.var(np.median(process, axis=1)) / np.var(np.median(independent, axis=1)))
    factor = correlation_factor(floats(autocorrelated(rng, 50_000, carried)))
    assert factor == pytest.approx(true, rel=0.2)


def test_a_few_high_samples_in_a_row_are_no_correlation_of_the_rest() -> None:
    rng = np.random.default_rng(7)
    samples = floats(rng.normal(1, 0.01, 200))
    assert correlation_factor(samples) == 1.0
    samples[100:103] = [50.0, 60.0, 40.0]
    assert correlation_factor(samples) == 1.0


def test_a_wider_spread_moves_a_rank_out_and_no_further_than_the_ends() -> None:
    assert _spread(100, 40, 1.0) == 40
    assert _spread(100, 40, 4.0) == 30
    assert _spread(101, 40, 1.0) == 40
    assert all(_spread(count, 1, 1.0) == 1 for count in range(6, 50))


def test_an_interval_that_the_samples_cannot_give_is_not_claimed_at_full_confidence() -> None:
    # A drift: worth fewer than the six samples that 95 % takes.
    rising = [float(k) for k in range(24)]
    found = median_interval(rising, 0.95)
    assert (found.low, found.high) == (0.0, 23.0)
    assert found.confidence < 0.95


# The lower bound of races


@pytest.mark.parametrize(("count", "bound"), [(6, None), (7, 1.0), (10, 2.0), (11, 3.0)])
def test_a_lower_bound_needs_samples_enough_for_its_error(count: int, bound: float | None) -> None:
    samples = [float(1 + (3 * k) % count) for k in range(count)]
    assert median_lower_bound(samples, 0.0078125 if count < 10 else 0.04) == bound


@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_the_median_is_below_its_lower_bound_no_more_often_than_said(alpha: float) -> None:
    rng = np.random.default_rng(11)
    runs, wrong = 4000, 0
    for _ in range(runs):
        bound = median_lower_bound(floats(rng.exponential(1, 40)), alpha)
        wrong += bound is not None and bound > math.log(2)
    assert wrong / runs < alpha + 3 * math.sqrt(alpha / runs)
    # It is cautious, and yet says something.
    assert wrong / runs > alpha / 50


def test_the_lower_bound_is_the_interval_s_with_twice_the_error_and_more_caution() -> None:
    rng = np.random.default_rng(13)
    few = floats(rng.normal(5, 1, 10))
    # Of so few it cannot be said whether they are alike.
    assert median_lower_bound(few, (1 - 0.9) / 2) == median_interval(few, 0.9).low
    for count in (30, 200):
        samples = floats(rng.normal(5, 1, count))
        bound = median_lower_bound(samples, (1 - 0.9) / 2)
        assert bound is not None
        assert min(samples) <= bound <= median_interval(samples, 0.9).low


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_samples_in_spells_bound_the_median_no_more_often_wrongly(rho: float) -> None:
    rng = np.random.default_rng(17)
    runs, wrong = 600, 0
    for _ in range(runs):
        steps = rng.normal(0, math.sqrt(1 - rho**2), 40)
        state, values = float(rng.normal()), []
        for step in steps:
            state = rho * state + float(step)
            values.append(10 + state)
        bound = median_lower_bound(values, 0.01)
        wrong += bound is not None and bound > 10
    assert wrong / runs <= 0.01 + 3 * math.sqrt(0.01 / runs)


def test_a_drift_does_not_bound_the_median_from_below() -> None:
    # All above 10, but alike: as much as one sample says.
    drifting = [10.0 + k / 100 for k in range(24)]
    assert median_lower_bound(drifting, 0.01) is None


def test_large_counts_give_about_the_interval_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(17)
    count = 20_000
    found = median_interval(floats(rng.random(count)), 0.95)
    half = NormalDist().inv_cdf(0.975) * 0.5 / math.sqrt(count)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
