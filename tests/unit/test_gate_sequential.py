"""However often it is looked at, the test errs no more often than it was told to."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.gate.compare.sequential import (
    Bounds,
    Design,
    _tail,
    bounds,
    critical,
    nominal_level,
)

Noise: TypeAlias = Callable[[np.random.Generator, int, int], npt.NDArray[np.float64]]

QUICK: Final = settings(max_examples=150, deadline=None, derandomize=True)
VALUES: Final = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=14)
#: With many ties and zeros, as coarse clocks give them.
COARSE: Final = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=14)
DESIGN: Final = Design(alpha=0.01, beta=0.05, max_pairs=14)


def normal(generator: np.random.Generator, paths: int, pairs: int) -> npt.NDArray[np.float64]:
    return generator.standard_normal((paths, pairs))


def cauchy(generator: np.random.Generator, paths: int, pairs: int) -> npt.NDArray[np.float64]:
    return generator.standard_cauchy((paths, pairs))


def two_scales(generator: np.random.Generator, paths: int, pairs: int) -> npt.NDArray[np.float64]:
    """Return what a machine measures that is disturbed by a neighbour one time in five."""
    scale = np.where(generator.random((paths, pairs)) < 0.2, 30.0, 1.0)
    return generator.standard_normal((paths, pairs)) * scale


def most_of(trials: int, chance: float, doubt: float = 1e-4) -> int:
    """Return how many of so many trials come out with ``chance`` at most, but for ``doubt``."""
    within = 0.0
    for count in range(trials):
        ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
        within += math.exp(ways + count * math.log(chance) + (trials - count) * math.log1p(-chance))
        if within >= 1 - doubt:
            return count
    return trials


def looks(path: Sequence[float]) -> list[Sequence[float]]:
    return [path[:count] for count in range(1, len(path) + 1)]


def rank_sum(values: Sequence[float]) -> int:
    """Return the signed rank sum; a tie or a zero counts for neither side."""
    return sum((a + b) / 2 > 0 for a, b in itertools.combinations_with_replacement(values, 2))


def test_the_binomial_limit_is_one() -> None:
    assert most_of(2, 0.5, 0.3) == 1
    assert most_of(2, 0.5, 0.2) == 2
    assert most_of(30_000, 0.05) == 1642
    assert most_of(1000, 0.01) == 24


# --- the error over all looks ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "paths"), [(10, 4000), pytest.param(27, 2000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("noise", [normal, cauchy, two_scales])
def test_looking_after_every_pair_errs_no_more_often_than_asked_for(
    noise: Noise, pairs: int, paths: int
) -> None:
    # The bounds of one design say at once what is sure to 1 % and what to 5 %, on either side.
    design = Design(alpha=0.01, beta=0.05, max_pairs=pairs)
    wrong: Counter[str] = Counter()
    for path in noise(np.random.default_rng(pairs), paths, pairs).tolist():
        found = [bounds(values, design) for values in looks(path)]
        wrong["surely above"] += any(each.surely_above > 0 for each in found)
        wrong["above"] += any(each.low > 0 for each in found)
        wrong["below"] += any(each.high < 0 for each in found)
    assert wrong["surely above"] <= most_of(paths, 0.01)
    assert wrong["above"] <= most_of(paths, 0.05)
    assert wrong["below"] <= most_of(paths, 0.05)
    # As much as that is allowed is made use of.
    assert wrong["above"] + wrong["below"] > 0.05 * paths


def errs(values: npt.NDArray[np.float64], level: float) -> float:
    """Return the share of paths that a test at ``level`` rejects at any look."""
    paths, pairs = values.shape
    rejected = np.zeros(paths, dtype=bool)
    for count in range(1, pairs + 1):
        part = values[:, :count]
        ranks = np.abs(part).argsort(axis=1).argsort(axis=1) + 1
        least = critical(count, level)
        if least is not None:
            rejected |= ((part > 0) * ranks).sum(axis=1) >= least
    return float(rejected.mean())


@pytest.mark.parametrize("pairs", [7, 10, 27])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_the_level_of_a_look_is_as_high_as_the_error_over_all_of_them_allows(
    error: float, pairs: int
) -> None:
    paths = 30_000
    values = normal(np.random.default_rng(99), paths, pairs)
    level = nominal_level(error, pairs)
    assert errs(values, level) <= most_of(paths, error) / paths
    # Levels lie far apart where pairs are few: the next one would be too high.
    above = min(chance for n in range(1, pairs + 1) for chance in _tail(n) if chance > level)
    assert errs(values, above) > 0.9 * error


@pytest.mark.parametrize("pairs", [10, 27])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_looks_at_the_plain_level_would_err_too_often(error: float, pairs: int) -> None:
    paths = 5000
    values = normal(np.random.default_rng(5), paths, pairs)
    assert errs(values, error) > 1.7 * error > most_of(paths, error) / paths


def test_noise_that_grows_with_every_pair_is_not_far_from_what_was_asked_for() -> None:
    # The worst order there is: each pair outweighs all before it, so that looks agree least.
    paths, pairs = 20_000, 27
    signs = np.where(np.random.default_rng(7).random((paths, pairs)) < 0.5, 1.0, -1.0)
    growing = signs * np.arange(1.0, pairs + 1)
    assert errs(growing, nominal_level(0.01, pairs)) < 0.02
    assert errs(growing[:, ::-1], nominal_level(0.01, pairs)) < 0.01


@pytest.mark.parametrize(("slower", "least"), [(2.0, 0.9), (4.0, 0.999)])
def test_what_is_there_is_found(slower: float, least: float) -> None:
    values = normal(np.random.default_rng(3), 2000, 27) + slower
    assert errs(values, nominal_level(0.01, 27)) > least
    assert errs(-values, nominal_level(0.01, 27)) == 0


# --- one look --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 11))
def test_the_distribution_of_the_rank_sum_is_exact(count: int) -> None:
    sums = Counter(
        sum(rank for rank, positive in enumerate(signs, 1) if positive)
        for signs in itertools.product([False, True], repeat=count)
    )
    largest = count * (count + 1) // 2
    expected = [
        sum(number for value, number in sums.items() if value >= least) / 2**count
        for least in range(largest + 1)
    ]
    assert list(_tail(count)) == expected


def test_nothing_has_a_rank_sum_of_zero() -> None:
    assert _tail(0) == (1.0,)


@pytest.mark.parametrize(
    ("count", "level", "least"),
    [
        (4, 0.05, None),  # 1 in 16 is the least
        (5, 0.05, 15),
        (8, 0.05, 31),  # as in the tables of two-sided tests at 10 %, and the next at 2 %
        (8, 0.01, 35),
        (10, 0.05, 45),
        (10, 0.01, 50),
        (20, 0.05, 150),
        (20, 0.01, 167),
        (5, 1 / 32, 15),
        (200, 0.0, None),
    ],
)
def test_critical_values_are_those_of_the_tables(
    count: int, level: float, least: int | None
) -> None:
    assert critical(count, level) == least


def agrees(values: Sequence[float], limit: float) -> None:
    """Check the bounds of ``values`` against the test of each of its sides."""
    found = bounds(values, DESIGN)
    above = rank_sum([value - limit for value in values])
    below = rank_sum([limit - value for value in values])
    sure = critical(len(values), nominal_level(DESIGN.alpha, DESIGN.max_pairs))
    rank = critical(len(values), nominal_level(DESIGN.beta, DESIGN.max_pairs))
    assert (found.surely_above > limit) == (sure is not None and above >= sure)
    assert (found.low > limit) == (rank is not None and above >= rank)
    assert (found.high < limit) == (rank is not None and below >= rank)


@QUICK
@given(values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=14), limit=st.integers(-9, 9))
def test_a_bound_is_beyond_the_limit_exactly_if_the_test_says_so(
    values: list[int], limit: int
) -> None:
    # Whole numbers, so that nothing is lost where the limit is taken off.
    agrees([float(value) for value in values], float(limit))


@QUICK
@given(values=COARSE, limit=st.sampled_from([0.0, 0.5, 1.0]))
def test_ties_and_zeros_count_for_neither_side(values: list[float], limit: float) -> None:
    agrees(values, limit)


def test_nothing_but_zeros_is_sure_to_be_zero_and_neither_above_nor_below() -> None:
    found = bounds([0.0] * 14, DESIGN)
    assert found == Bounds(estimate=0.0, low=0.0, high=0.0, surely_above=0.0)


@QUICK
@given(values=VALUES | COARSE)
def test_bounds_are_symmetric_and_in_order(values: list[float]) -> None:
    found, mirrored = (bounds(each, DESIGN) for each in (values, [-value for value in values]))
    assert mirrored.estimate == -found.estimate
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)
    assert found.surely_above <= found.low <= found.estimate <= found.high


@QUICK
@given(values=VALUES, seed=st.randoms())
def test_the_order_of_pairs_does_not_matter(values: list[float], seed: Any) -> None:
    shuffled = list(values)
    seed.shuffle(shuffled)
    assert bounds(shuffled, DESIGN) == bounds(values, DESIGN)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_with_too_few_pairs_nothing_is_known_but_an_estimate(count: int) -> None:
    found = bounds([3.0] * count, DESIGN)
    assert found == Bounds(estimate=3.0, low=-math.inf, high=math.inf, surely_above=-math.inf)


def test_the_estimate_is_the_median_of_the_means_of_all_pairs() -> None:
    # Of 1, 1.5, 2, 5.5, 6, 10.
    assert bounds([1.0, 2.0, 10.0], DESIGN).estimate == 3.75
    # Of 1, 1.5, 2.
    assert bounds([2.0, 1.0], DESIGN).estimate == 1.5


def test_bounds_close_in_from_the_first_pair_count_that_can_decide() -> None:
    design = Design()
    least = design.least_pairs
    assert math.isinf(bounds([1.0] * (least - 1), design).low)
    assert bounds([1.0] * least, design).low == 1.0


# --- designs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "pairs", "possible"),
    [
        (0.01, 6, False),  # 1 in 64 is the least that six launches can be wrong by
        (0.01, 7, True),
        (0.05, 4, False),
        (0.05, 5, True),
        (0.5, 1, False),
        (0.0005, 10, False),
        (0.0005, 27, True),
        (0.01, 0, False),
    ],
)
def test_it_is_known_beforehand_whether_it_can_be_decided(
    alpha: float,
    pairs: int,
    possible: bool,  # noqa: FBT001
) -> None:
    design = Design(alpha=alpha, max_pairs=pairs)
    assert design.can_decide is possible
    sure = [bounds([1.0] * count, design).surely_above for count in range(1, pairs + 1)]
    assert any(math.isfinite(each) for each in sure) is possible


@pytest.mark.parametrize("design", [Design(), Design(alpha=0.05, max_pairs=10), DESIGN])
def test_the_least_number_of_pairs_is_that_of_the_less_strict_side(design: Design) -> None:
    least = design.least_pairs
    levels = [nominal_level(error, design.max_pairs) for error in (design.alpha, design.beta)]
    assert critical(least, max(levels)) is not None
    assert critical(least - 1, max(levels)) is None


def test_where_nothing_can_be_decided_no_number_of_pairs_is_enough() -> None:
    assert Design(alpha=0.001, beta=0.001, max_pairs=5).least_pairs == 6


def test_a_design_knows_how_sure_its_interval_is() -> None:
    assert Design(beta=0.05).confidence == pytest.approx(0.9)
    assert Design(beta=0.005).confidence == pytest.approx(0.99)


def test_stricter_designs_are_wider() -> None:
    values = normal(np.random.default_rng(1), 1, 20)[0].tolist()
    lax = Design(alpha=0.05, beta=0.1, max_pairs=20)
    strict = replace(lax, alpha=0.005, beta=0.02)
    longer = replace(lax, max_pairs=40)
    base = bounds(values, lax)
    for other in (strict, longer):
        found = bounds(values, other)
        assert found.surely_above < base.surely_above
        assert found.low <= base.low < base.high <= found.high
        assert found.estimate == base.estimate
