"""A level is given up only when its SLO is lost whatever follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_autotune.load.limits import Limit, Tally

STATISTICS = ["mean", "max", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "p29", "p1", "p0"]
#: Values around limits of 0 to 4, ties with them included.
VALUES = st.integers(0, 10).map(lambda n: n / 2) | st.floats(0, 1e6)
PROPERTY = settings(derandomize=True, max_examples=400, deadline=None)


def make_limit(statistic: str, most: float = 1.0, metric: str = "ttft") -> Limit:
    return Limit(label=f"{metric} {statistic}", metric=metric, statistic=statistic, most=most)


def tally_of(limit: Limit, values: Sequence[float]) -> Tally:
    tally = Tally(limit)
    for value in values:
        tally.add(value)
    return tally


def is_lost(limit: Limit, values: Sequence[float], at_most: int) -> bool:
    return limit.lost(tally_of(limit, values), at_most)


def statistic_of(name: str, values: Sequence[float]) -> float:
    """What NumPy says; nothing here is of ours."""
    if name in {"mean", ""}:
        return math.fsum(values) / len(values)
    if name == "max":
        return max(values)
    if name == "p0":
        return min(values)
    return float(np.percentile(np.asarray(values, dtype=float), float(name[1:])))


def exceeds(statistic: str, values: Sequence[float], most: float) -> bool:
    # NumPy interpolates from whichever side is nearer, and so rounds at the last digit.
    return statistic_of(statistic, values) > most * (1 - 1e-12)


@given(
    st.sampled_from(STATISTICS),
    st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    st.lists(VALUES, min_size=1, max_size=40),
    st.lists(VALUES, max_size=40),
    st.integers(0, 40),
)
@example("p50", 1.0, [2.0, 2.0], [0.0], 0)
@example("mean", 1.0, [41.0], [0.0] * 39, 0)
@example("p99", 1.0, [2.0, 2.0], [0.0] * 98, 0)
@PROPERTY
def test_what_is_lost_stays_lost_however_it_goes_on(
    statistic: str, most: float, so_far: list[float], others: list[float], missing: int
) -> None:
    limit = make_limit(statistic, most)
    if is_lost(limit, so_far, len(so_far) + len(others) + missing):
        assert exceeds(statistic, [*so_far, *others], most)
        assert exceeds(statistic, so_far, most)
        for end in range(len(others)):
            assert exceeds(statistic, [*so_far, *others[:end]], most)


@given(
    st.sampled_from(STATISTICS),
    st.lists(st.sampled_from([0.0, 1.0, 1.5, 3.0, 100.0]), min_size=1, max_size=120),
    st.integers(0, 150),
)
@PROPERTY
def test_no_number_of_perfect_values_saves_what_is_lost(
    statistic: str, so_far: list[float], to_come: int
) -> None:
    limit = make_limit(statistic)
    if is_lost(limit, so_far, len(so_far) + to_come):
        assert exceeds(statistic, so_far + [0.0] * to_come, 1.0)


@given(
    st.sampled_from(STATISTICS),
    st.lists(st.sampled_from([0.0, 1.0, 1.5, 3.0, 100.0]), min_size=1, max_size=60),
    st.integers(0, 60),
)
@PROPERTY
def test_what_perfect_values_could_not_save_is_known_to_be_lost(
    statistic: str, so_far: list[float], to_come: int
) -> None:
    limit = make_limit(statistic)
    final = so_far + [0.0] * to_come
    ordered = sorted(final)
    # A percentile between two order statistics may exceed by the upper of them; that is not
    # looked into.
    if statistic not in {"mean", "max"}:
        share = float(statistic[1:]) / 100
        certain = ordered[math.floor(share * (len(ordered) - 1))] > 1.0
    else:
        certain = statistic_of(statistic, final) > 1.0 + 1e-6
    assert is_lost(limit, so_far, len(final)) or not certain


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 1000])
def test_a_level_in_which_all_exceed_is_lost_in_the_end(statistic: str, count: int) -> None:
    assert is_lost(make_limit(statistic), [1.01] * count, count)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_level_that_keeps_its_limit_is_never_lost(statistic: str, value: float) -> None:
    limit = make_limit(statistic)
    for count in range(1, 60):
        for at_most in (count, count + 1, 2 * count, 10**9):
            assert not is_lost(limit, [value] * count, at_most)


@pytest.mark.parametrize(
    ("statistic", "at_most", "needed"),
    [
        ("max", 100, 1),
        ("p50", 1, 1),
        ("p50", 3, 2),
        ("p50", 100, 51),
        ("p50", 101, 51),
        ("p90", 100, 11),
        ("p90", 101, 11),
        ("p99", 100, 2),
        ("p99", 101, 2),
        ("p99", 1000, 11),
        ("p99", 20, 2),
        ("p99.9", 1000, 2),
        ("p0", 10, 10),
        ("error_rate", 100, 11),
    ],
)
def test_a_limit_is_lost_by_so_many_and_no_fewer(statistic: str, at_most: int, needed: int) -> None:
    rate = statistic == "error_rate"
    limit = make_limit("", 0.1, "error_rate") if rate else make_limit(statistic)
    value = 1.0 if rate else 2.0
    assert not is_lost(limit, [value] * (needed - 1), at_most)
    assert is_lost(limit, [value] * needed, at_most)


def test_a_mean_is_lost_once_the_sum_suffices_for_all() -> None:
    limit = make_limit("mean", 0.5)
    assert not is_lost(limit, [5.0], 10)
    assert is_lost(limit, [5.0, 0.001], 10)
    assert not is_lost(limit, [5.0, 0.001], 11)


def test_a_mean_at_its_limit_is_kept_however_sums_round() -> None:
    limit = make_limit("mean", 0.1)
    for count in range(1, 200):
        assert not is_lost(limit, [0.1] * count, count)


def test_no_error_is_allowed_at_a_limit_of_zero() -> None:
    limit = make_limit("", 0.0, "error_rate")
    assert not is_lost(limit, [0.0] * 50, 50)
    assert is_lost(limit, [0.0, 1.0], 10**9)


@pytest.mark.parametrize("statistic", [*STATISTICS, "std", "min", ""])
def test_nothing_is_lost_by_no_values(statistic: str) -> None:
    assert not is_lost(make_limit(statistic), [], 0)
    assert not is_lost(make_limit(statistic), [], 100)


@pytest.mark.parametrize("statistic", ["std", "min", "median", "p100", "P99"])
def test_a_statistic_that_can_still_change_its_mind_is_never_lost(statistic: str) -> None:
    assert not is_lost(make_limit(statistic), [100.0] * 50, 50)


def test_more_values_than_were_expected_are_all_of_them() -> None:
    limit = make_limit("p50")
    assert is_lost(limit, [2.0, 2.0, 2.0], 1)
    assert not is_lost(limit, [2.0, 0.0, 0.0], 1)


def test_values_that_are_not_final_leave_the_tally_as_it_is() -> None:
    tally = tally_of(make_limit("mean"), [0.5, 3.0])
    more = tally.with_more([2.0, 0.1])
    assert (tally.count, tally.total, tally.exceeding) == (2, 3.5, 1)
    assert (more.count, more.exceeding) == (4, 2)
    assert more.total == pytest.approx(5.6)
    assert more.limit is tally.limit
