"""Both revisions are launched in turn until it is decided, and no longer."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import OutOfTime
from pytest_autotune.gate.compare import comparison
from pytest_autotune.gate.compare.comparison import (
    Comparison,
    GatedMetric,
    MetricResult,
    Side,
    Verdict,
    compare,
    design_for,
    judge,
)
from pytest_autotune.gate.compare.sequential import Design
from pytest_autotune.spec.gate import GateSpec

Times: TypeAlias = Callable[[Side, int], Mapping[str, float]]

RULE: Final = GateSpec(tolerance=0.03, alpha=0.05, power=0.95, max_launches=12)
TIME: Final = GatedMetric(name="time")
RATE: Final = GatedMetric(name="rate", maximize=True)


class Launches:
    """Stands in for launches; each metric has its values for the old side and for the new."""

    def __init__(self, **metrics: tuple[float, float]) -> None:
        self.metrics = metrics
        self.made: list[tuple[Side, int]] = []

    def __call__(self, side: Side, seed: int) -> Mapping[str, float]:
        self.made.append((side, seed))
        # Within a percent of each other, however it is asked for.
        noise = 1 + 0.01 * random.Random(f"{side}/{seed}").uniform(-1, 1)
        return {name: pair[side == "new"] * noise for name, pair in self.metrics.items()}

    @property
    def orders(self) -> list[tuple[Side, Side]]:
        sides = [side for side, _ in self.made]
        return list(zip(sides[::2], sides[1::2], strict=True))


def compared(
    *metrics: GatedMetric, rule: GateSpec = RULE, seed: int = 0, **values: tuple[float, float]
) -> Comparison:
    return compare(Launches(**values), metrics, rule, seed=seed)


def result(verdict: Verdict, **fields: Any) -> MetricResult:
    known: dict[str, Any] = {
        "metric": TIME, "old": 1.0, "new": 1.0, "ratio": 1.0, "low": 0.9, "high": 1.1,
        "confidence": 0.9,
    }  # fmt: skip
    return MetricResult(verdict=verdict, **{**known, **fields})


# --- verdicts --------------------------------------------------------------------------------


def test_a_clear_slowdown_is_a_regression_at_the_first_look_that_can_tell() -> None:
    found = compared(TIME, time=(1.0, 1.2))
    least = design_for(RULE, 1).least_pairs
    assert (found.verdict, found.pairs, found.stopped) == (Verdict.REGRESSED, least, "")
    (only,) = found.results
    assert only.ratio == pytest.approx(1.2, rel=0.02)
    assert 1.03 < only.low <= only.ratio <= only.high
    assert [only.old, only.new] == pytest.approx([1.0, 1.2], rel=0.01)
    assert only.remaining is None
    assert only.confidence == pytest.approx(0.9)


def test_what_did_not_change_passes_well_before_the_cap() -> None:
    found = compared(TIME, time=(0.5, 0.5))
    assert found.verdict is Verdict.PASSED
    assert found.pairs < RULE.max_launches
    assert found.remaining_seconds is None


def test_what_got_slower_within_the_tolerance_passes() -> None:
    assert compared(TIME, time=(1.0, 1.015)).verdict is Verdict.PASSED


def test_what_got_faster_is_an_improvement() -> None:
    found = compared(TIME, time=(1.0, 0.8))
    assert found.verdict is Verdict.IMPROVED
    assert found.results[0].ratio == pytest.approx(0.8, rel=0.02)


def test_less_of_what_is_to_be_much_is_worse() -> None:
    found = compared(RATE, rate=(100.0, 80.0))
    assert found.verdict is Verdict.REGRESSED
    assert found.results[0].ratio == pytest.approx(1.25, rel=0.02)
    assert found.results[0].new == pytest.approx(80.0, rel=0.01)
    assert compared(RATE, rate=(100.0, 125.0)).verdict is Verdict.IMPROVED


def test_a_slowdown_of_the_tolerance_itself_is_seldom_called() -> None:
    rule = GateSpec(tolerance=0.05, alpha=0.05, power=0.8, max_launches=8)
    verdicts = [compared(TIME, rule=rule, seed=n * 99, time=(1, 1.05)).verdict for n in range(300)]
    # Of 300, 5 % are 15; that there are 30 or more has a chance of 1 in 3000.
    assert verdicts.count(Verdict.REGRESSED) < 30
    assert verdicts.count(Verdict.REGRESSED) > 0
    # Passing it is the other error, of 20 %.
    assert verdicts.count(Verdict.PASSED) < 90


def test_the_same_noise_around_no_change_never_alarms() -> None:
    verdicts = [compared(TIME, seed=n * 99, time=(1, 1)).verdict for n in range(200)]
    assert set(verdicts) == {Verdict.PASSED}


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([Verdict.PASSED, Verdict.REGRESSED, Verdict.INCONCLUSIVE], Verdict.REGRESSED),
        ([Verdict.IMPROVED, Verdict.REGRESSED], Verdict.REGRESSED),
        ([Verdict.IMPROVED, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.PASSED, Verdict.IMPROVED], Verdict.IMPROVED),
        ([Verdict.PASSED, Verdict.PASSED], Verdict.PASSED),
        ([], Verdict.INCONCLUSIVE),
    ],
)
def test_the_worst_verdict_counts(verdicts: list[Verdict], whole: Verdict) -> None:
    found = Comparison(results=[result(verdict) for verdict in verdicts], pairs=1, seconds=1.0)
    assert found.verdict is whole


# --- several metrics -------------------------------------------------------------------------


def test_one_metric_that_regressed_ends_it() -> None:
    found = compared(TIME, RATE, time=(1.0, 1.3), rate=(100.0, 97.0))
    assert found.verdict is Verdict.REGRESSED
    assert found.pairs == design_for(RULE, 2).least_pairs or found.pairs < RULE.max_launches
    assert [each.metric for each in found.results] == [TIME, RATE]
    assert found.stopped == ""


def test_to_pass_takes_all_metrics() -> None:
    # The second one lies on the limit, where nothing is decided.
    both = compared(TIME, RATE, time=(1.0, 0.7), rate=(103.0, 100.0))
    assert both.results[0].verdict is Verdict.IMPROVED
    assert both.results[1].verdict is Verdict.INCONCLUSIVE
    assert both.verdict is Verdict.INCONCLUSIVE
    assert both.pairs == RULE.max_launches
    assert compared(TIME, time=(1.0, 0.7)).pairs < RULE.max_launches


@pytest.mark.parametrize("metrics", [1, 2, 5])
def test_each_metric_has_its_part_of_the_error(metrics: int) -> None:
    rule = GateSpec(alpha=0.02, power=0.9, max_launches=20)
    design = design_for(rule, metrics)
    assert design.alpha == pytest.approx(0.02 / metrics)
    assert design.beta == pytest.approx(0.1)
    assert design.max_pairs == 20


def test_without_metrics_named_the_whole_error_is_for_the_only_one() -> None:
    assert design_for(RULE, 0) == design_for(RULE, 1)


def test_a_metric_that_is_named_twice_is_no_further_evidence() -> None:
    once = compared(TIME, time=(1.0, 1.2), rule=GateSpec(alpha=0.1, max_launches=12))
    launches = Launches(time=(1.0, 1.2))
    other = GatedMetric(name="time", maximize=True)
    twice = compare(launches, [TIME, other], GateSpec(alpha=0.1, max_launches=12))
    assert twice.pairs == len(launches.made) / 2
    assert len(twice.values["time"]) == twice.pairs
    assert twice.pairs >= once.pairs


# --- how it goes -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_has_a_launch_of_either_side(seed: int) -> None:
    launches = Launches(time=(1.0, 1.03))
    found = compare(launches, [TIME], RULE, seed=seed)
    assert len(launches.orders) == found.pairs
    assert set(launches.orders) == {("old", "new"), ("new", "old")}


def test_who_goes_first_is_decided_by_a_coin_for_each_pair_and_can_be_repeated() -> None:
    def olds(seed: int) -> list[bool]:
        return [first == "old" for first, _ in comparison._orders(27, seed)]

    found = [olds(seed) for seed in range(1000, 1400)]
    assert found == [olds(seed) for seed in range(1000, 1400)]
    assert len(set(map(tuple, found))) == 400
    # None of the 27 goes by those before it, nor does one side have an advantage.
    for at in range(27):
        assert 150 < sum(order[at] for order in found) < 250
    for at in range(26):
        assert 150 < sum(order[at] == order[at + 1] for order in found) < 250


def test_a_second_launch_that_is_always_slower_is_no_regression() -> None:
    count = 0

    def launch(side: Side, seed: int) -> Mapping[str, float]:
        nonlocal count
        count += 1
        noise = 1 + 0.01 * random.Random(count).uniform(-1, 1)
        return {"time": noise * (1.1 if count % 2 == 0 else 1.0)}

    verdicts = [compare(launch, [TIME], RULE, seed=99 * n).verdict for n in range(200)]
    assert verdicts.count(Verdict.REGRESSED) <= 20


def test_both_launches_of_a_pair_get_the_same_seed_and_every_pair_another() -> None:
    launches = Launches(time=(1.0, 1.03))
    compare(launches, [TIME], RULE, seed=500)
    seeds = [seed for _, seed in launches.made]
    assert seeds[::2] == seeds[1::2] == list(range(500, 500 + RULE.max_launches))


def test_progress_is_told_after_every_pair() -> None:
    told: list[int] = []
    found = compare(Launches(time=(1, 1.2)), [TIME], RULE, progress=told.append)
    assert told == list(range(1, found.pairs + 1))


def test_what_was_measured_is_kept_as_pairs_of_old_and_new() -> None:
    def launch(side: Side, seed: int) -> Mapping[str, float]:
        return {"time": 1.0 if side == "old" else 2.0, "unasked": 5.0}

    found = compare(launch, [TIME], RULE)
    assert found.values == {"time": [(1.0, 2.0)] * found.pairs}


def test_at_the_cap_it_ends_undecided_and_says_so() -> None:
    found = compared(TIME, time=(1.0, 1.03))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.pairs == RULE.max_launches
    assert found.stopped == "12 launches of each were not enough"


def test_what_is_decided_at_the_last_look_did_not_stop_undecided() -> None:
    least = design_for(RULE, 1).least_pairs
    rule = GateSpec(tolerance=0.03, alpha=0.05, max_launches=least)
    found = compared(TIME, rule=rule, time=(1.0, 1.3))
    assert (found.verdict, found.stopped) == (Verdict.REGRESSED, "")


def test_nothing_is_started_that_would_not_end_in_time() -> None:
    def launch(side: Side, seed: int) -> Mapping[str, float]:
        time.sleep(0.02)
        return {"time": 1.0}

    began = time.monotonic()
    found = compare(launch, [TIME], RULE, deadline=began + 0.1)
    assert time.monotonic() - began < 0.3
    assert 1 <= found.pairs <= 2
    assert (found.verdict, found.stopped) == (Verdict.INCONCLUSIVE, "the time was up")


def test_one_pair_is_launched_even_if_it_is_late() -> None:
    found = compare(Launches(time=(1, 1)), [TIME], RULE, deadline=time.monotonic() - 5)
    assert (found.pairs, found.stopped) == (1, "the time was up")
    assert found.results[0].ratio == pytest.approx(1.0, rel=0.05)


def test_what_a_launch_raises_is_passed_on() -> None:
    def launch(side: Side, seed: int) -> Mapping[str, float]:
        raise OSError(side)

    with pytest.raises(OSError, match=r"^(old|new)$"):
        compare(launch, [TIME], RULE)
    with pytest.raises(KeyError, match="time"):
        compare(Launches(other=(1, 1)), [TIME], RULE)


# --- values without a ratio ------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("metric", [TIME, RATE])
@pytest.mark.parametrize("side", ["old", "new"])
def test_without_a_ratio_nothing_is_concluded(side: str, metric: GatedMetric, value: float) -> None:
    pairs = [(1.0, 1.0)] * 9 + [(value, 1.0) if side == "old" else (1.0, value)]
    found = judge(metric, pairs, RULE, design_for(RULE, 1))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith(f"{metric.name} was 0, negative or no number in a launch")
    assert math.isnan(found.ratio)
    assert (found.low, found.high) == (0.0, math.inf)


def test_what_can_never_be_concluded_takes_no_more_launches() -> None:
    found = compared(TIME, time=(0.0, 1.0))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.pairs == 1
    assert found.stopped == ""
    assert "there is no ratio" in found.results[0].reason
    assert found.remaining_seconds is None


def test_other_metrics_are_compared_all_the_same() -> None:
    found = compared(TIME, RATE, time=(0.0, 1.0), rate=(100.0, 70.0))
    assert found.verdict is Verdict.REGRESSED
    passing = compared(TIME, RATE, time=(0.0, 1.0), rate=(100.0, 100.0))
    assert passing.verdict is Verdict.INCONCLUSIVE
    assert passing.results[1].verdict is Verdict.PASSED
    assert passing.pairs < RULE.max_launches


@pytest.mark.parametrize(
    ("maximize", "old", "new", "slowdown"),
    [(False, 2.0, 3.0, 1.5), (True, 2.0, 3.0, 2 / 3), (False, 1e-9, 1e-9, 1.0)],
)
def test_a_slowdown_is_how_many_times_worse_it_got(
    maximize: bool,  # noqa: FBT001
    old: float,
    new: float,
    slowdown: float,
) -> None:
    metric = GatedMetric(name="x", maximize=maximize)
    assert metric.slowdown(old, new) == pytest.approx(slowdown)


# --- one look --------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    ratios=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=12),
    tolerance=st.floats(0.005, 0.3),
)
def test_a_verdict_is_what_the_interval_says(ratios: list[float], tolerance: float) -> None:
    rule = GateSpec(tolerance=tolerance, alpha=0.05, power=0.95, max_launches=12)
    # With one error for both sides the interval says it all.
    design = design_for(rule, 1)
    found = judge(TIME, [(1.0, ratio) for ratio in ratios], rule, design)
    limit = 1 + tolerance
    slack = 1e-9
    if found.verdict is Verdict.REGRESSED:
        assert found.low > limit - slack
    elif found.verdict is Verdict.IMPROVED:
        assert found.high < 1 / limit + slack
    elif found.verdict is Verdict.PASSED:
        assert 1 / limit - slack <= found.high < limit + slack
    else:
        assert found.low <= limit + slack
        assert found.high >= limit - slack
    assert found.low - slack <= found.ratio <= found.high + slack
    mirrored = judge(RATE, [(1.0, 1 / ratio) for ratio in ratios], rule, design)
    assert mirrored.ratio == pytest.approx(found.ratio)


def remaining(ratios: Sequence[float], rule: GateSpec = RULE) -> int | None:
    pairs = [(1.0, ratio) for ratio in ratios]
    return judge(TIME, pairs, rule, design_for(rule, 1)).remaining


def test_with_too_few_pairs_those_are_missing_that_can_decide_at_all() -> None:
    least = design_for(RULE, 1).least_pairs
    assert [remaining([1.0] * count) for count in range(1, least)] == list(range(least - 1, 0, -1))


def test_closer_to_the_limit_takes_longer() -> None:
    noise = [0.96, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04]
    guesses = [remaining([each * ratio for each in noise]) for ratio in (1.01, 1.015, 1.02)]
    known = [guess for guess in guesses if guess is not None]
    assert known == sorted(known)
    assert len(set(known)) == 3
    assert known[0] >= 1
    assert known[-1] < 100 * RULE.max_launches


def test_on_the_limit_nobody_can_tell_how_long_it_takes() -> None:
    noise = [0.98, 0.99, 1.0, 1.01, 1.02, 1.0, 1.0]
    # In logarithms, so that the estimate is the limit to the last digit but a few.
    assert remaining([1.03 * math.exp(math.log(each)) for each in noise]) is None
    assert remaining([1.03] * 9) is None


def test_the_guess_is_in_seconds_too() -> None:
    undecided = [
        result(Verdict.INCONCLUSIVE, remaining=4),
        result(Verdict.INCONCLUSIVE, remaining=10),
        result(Verdict.INCONCLUSIVE),
        result(Verdict.PASSED),
    ]
    assert Comparison(results=undecided, pairs=5, seconds=20.0).remaining_seconds == 40.0
    assert Comparison(results=undecided[2:], pairs=5, seconds=20.0).remaining_seconds is None
    assert Comparison(results=[], pairs=0, seconds=0.0).remaining_seconds is None


def test_a_look_keeps_its_medians_in_the_metrics_own_unit() -> None:
    found = judge(RATE, [(10.0, 9.0), (20.0, 30.0), (12.0, 11.0)], RULE, Design())
    assert (found.old, found.new) == (12.0, 11.0)


def test_time_that_is_up_before_the_first_pair_is_told() -> None:
    def launch(side: Side, seed: int) -> Mapping[str, float]:
        raise OutOfTime

    found = compare(launch, [GatedMetric(name="time")], GateSpec())
    assert (found.verdict, found.pairs, found.results) == (Verdict.INCONCLUSIVE, 0, [])
    assert found.stopped == "the time was up"
    assert found.remaining_seconds is None
