"""A stored baseline is believed as far as sessions are known to agree, and no further."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

import pytest

from pytest_autotune.errors import OutOfTime
from pytest_autotune.gate.compare import baseline
from pytest_autotune.gate.compare.baseline import LAUNCHES, compare_with_baseline, spread
from pytest_autotune.gate.compare.comparison import Comparison, GatedMetric, Verdict
from pytest_autotune.spec.gate import GateSpec

RULE: Final = GateSpec(tolerance=0.03)
TIME: Final = GatedMetric(name="time")
RATE: Final = GatedMetric(name="rate", maximize=True)
#: Three sessions that agree to half a percent.
QUIET: Final = (1.0, 1.005, 1.002)


class Launches:
    """Stands in for launches, each of which measures the next of the values."""

    def __init__(self, *values: float, metric: str = "time") -> None:
        self.values = list(values)
        self.metric = metric
        self.seeds: list[int] = []

    def __call__(self, seed: int) -> Mapping[str, float]:
        self.seeds.append(seed)
        return {self.metric: self.values[len(self.seeds) - 1]}


def twice(first: float, second: float) -> Launches:
    """Return launches of which those after a suspicion measure something else."""
    return Launches(*[first] * LAUNCHES, *[second] * LAUNCHES)


def compared(
    launch: Launches,
    sessions: Sequence[float] = QUIET,
    metric: GatedMetric = TIME,
    old: float = 1.0,
    rest: float = 0.0,
) -> Comparison:
    return compare_with_baseline(
        launch, [metric], RULE,
        baseline={metric.name: old}, sessions={metric.name: sessions}, seed=70, rest=rest,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sessions", "share"),
    [
        ([1.0], 0.0),
        ([2.0, 2.2, 2.1], 0.1),
        ([], math.inf),
        ([0.0, 1.0], math.inf),
        ([-1.0, 1.0], math.inf),
    ],
)
def test_sessions_differ_by_what_the_largest_exceeds_the_smallest(
    sessions: list[float], share: float
) -> None:
    assert spread(sessions) == pytest.approx(share)


def test_what_is_as_it_was_passes_after_one_round() -> None:
    launch = Launches(1.01, 0.99, 1.0, 1.02, 0.98)
    found = compared(launch)
    assert found.verdict is Verdict.PASSED
    assert launch.seeds == [70, 71, 72, 73, 74]
    assert (found.pairs, found.stopped, found.notes) == (5, "", ())
    (only,) = found.results
    assert (only.old, only.new, only.ratio) == (1.0, 1.0, 1.0)
    # Not an interval, but what the launches were like.
    assert (only.low, only.high, only.confidence) == (0.98, 1.02, 0.0)
    assert found.values["time"] == [(1.0, value) for value in launch.values]
    assert found.remaining_seconds is None


def test_a_slowdown_that_stays_is_a_regression() -> None:
    launch = twice(1.1, 1.2)
    found = compared(launch)
    assert found.verdict is Verdict.REGRESSED
    assert launch.seeds == list(range(70, 80))
    assert found.pairs == 10
    assert found.notes == ()
    (only,) = found.results
    assert only.new == only.ratio == pytest.approx(1.15)
    assert (only.low, only.high) == (1.1, 1.2)


@pytest.mark.parametrize(("first", "second"), [(1.2, 1.0), (1.2, 1.03), (1.031, 1.029)])
def test_a_suspicion_that_is_not_confirmed_passes_and_is_told(first: float, second: float) -> None:
    found = compared(twice(first, second))
    assert found.verdict is Verdict.PASSED
    worse = 100 * (first - 1)
    assert found.notes == (
        f"time seemed worse by {worse:.1f} % at first, and was not when measured again",
    )


def test_what_is_within_the_tolerance_is_not_measured_again() -> None:
    launch = Launches(*[1.03] * 5)
    assert compared(launch).verdict is Verdict.PASSED
    assert len(launch.seeds) == 5


def test_a_few_slow_launches_are_no_suspicion() -> None:
    launch = Launches(1.0, 3.0, 1.0, 3.0, 1.0)
    assert compared(launch).verdict is Verdict.PASSED


def test_it_rests_before_it_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    compared(Launches(*[1.0] * 5), rest=3.0)
    assert rests == []
    compared(twice(1.2, 1.2), rest=3.0)
    assert rests == [3.0]


@pytest.mark.parametrize("sessions", [(1.0,), (1.0, 1.001)])
def test_with_too_few_sessions_a_slowdown_is_inconclusive(sessions: Sequence[float]) -> None:
    found = compared(twice(1.2, 1.2), sessions)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.results[0].reason == (
        f"how much sessions on this machine differ is not known yet: {len(sessions)} of 3 were seen"
    )
    assert found.results[0].ratio == pytest.approx(1.2)
    assert compared(Launches(*[1.0] * 5), sessions).verdict is Verdict.PASSED


def test_where_sessions_differ_much_a_slowdown_is_inconclusive() -> None:
    found = compared(twice(1.5, 1.5), (1.0, 1.08, 1.04))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.results[0].reason == (
        "sessions on this machine differ among themselves by 8.0 %, more than 1 %: compare with "
        "a revision instead (--autotune-against REV)"
    )


@pytest.mark.parametrize(("ratio", "verdict"), [(1.034, "inconclusive"), (1.036, "regressed")])
def test_a_regression_lies_beyond_the_tolerance_and_what_sessions_differ_by(
    ratio: float, verdict: str
) -> None:
    found = compared(twice(ratio, ratio), QUIET)
    assert found.verdict.value == verdict
    reason = (
        "sessions on this machine differ by as much (0.5 %)" if verdict == "inconclusive" else ""
    )
    assert found.results[0].reason == reason


def test_the_more_favourable_round_counts() -> None:
    assert compared(twice(1.5, 1.034)).verdict is Verdict.INCONCLUSIVE
    assert compared(twice(1.04, 1.5)).verdict is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("ratio", "sessions", "verdict"),
    [
        (0.9, QUIET, "improved"),
        (0.968, QUIET, "passed"),  # within what sessions differ by
        (0.965, QUIET, "improved"),
        (0.9, QUIET[:2], "passed"),  # nobody knows
        (0.9, (1.0, 1.05, 1.0), "passed"),
    ],
)
def test_an_improvement_is_told_where_sessions_agree(
    ratio: float, sessions: Sequence[float], verdict: str
) -> None:
    assert compared(Launches(*[ratio] * 5), sessions).verdict.value == verdict


@pytest.mark.parametrize(("rate", "verdict"), [(80.0, "regressed"), (120.0, "improved")])
def test_of_what_is_to_be_much_less_is_worse(rate: float, verdict: str) -> None:
    launch = Launches(*[rate] * 10, metric="rate")
    found = compared(launch, [100.0, 100.2, 100.1], RATE, old=100.0)
    assert found.verdict.value == verdict
    assert found.results[0].ratio == pytest.approx(100 / rate)
    assert found.results[0].new == rate


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("metric", [TIME, RATE])
def test_without_a_ratio_nothing_is_concluded(metric: GatedMetric, value: float) -> None:
    values = [1.0, 1.0, value, 1.0, 1.0] * 2
    found = compared(Launches(*values, metric=metric.name), metric=metric)
    (only,) = found.results
    assert only.verdict is Verdict.INCONCLUSIVE
    assert only.reason == f"{metric.name} was 0, negative or no number, so there is no ratio"
    assert math.isnan(only.ratio)
    assert (only.low, only.high) == (0.0, math.inf)


def test_a_baseline_of_zero_has_no_ratio() -> None:
    found = compared(Launches(*[1.0] * 10), old=0.0)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "no ratio" in found.results[0].reason


def test_each_metric_is_held_against_its_own_sessions() -> None:
    metrics = [TIME, GatedMetric(name="ttft")]

    def launch(seed: int) -> Mapping[str, float]:
        return {"time": 1.2, "ttft": 1.2}

    found = compare_with_baseline(
        launch, metrics, RULE,
        baseline={"time": 1.0, "ttft": 1.0},
        sessions={"time": QUIET, "ttft": (1.0, 1.5, 1.0)}, rest=0.0,
    )  # fmt: skip
    assert [each.verdict.value for each in found.results] == ["regressed", "inconclusive"]
    assert found.verdict is Verdict.REGRESSED


def test_only_what_was_suspected_is_told_to_have_been() -> None:
    def launch(seed: int) -> Mapping[str, float]:
        return {"time": 1.2 if seed < LAUNCHES else 1.0, "ttft": 1.0}

    found = compare_with_baseline(
        launch, [TIME, GatedMetric(name="ttft")], RULE,
        baseline={"time": 1.0, "ttft": 1.0}, sessions={"time": QUIET, "ttft": QUIET}, rest=0.0,
    )  # fmt: skip
    assert [note.partition(" ")[0] for note in found.notes] == ["time"]


def test_what_a_launch_raises_is_passed_on() -> None:
    def launch(seed: int) -> Mapping[str, float]:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        compare_with_baseline(launch, [TIME], RULE, baseline={"time": 1.0}, sessions={"time": ()})


def test_it_rests_long_enough_for_a_disturbance_to_be_over_but_not_for_the_user_to_leave() -> None:
    assert 0.5 <= baseline._REST_SECONDS <= 10


def test_nothing_is_called_on_fewer_launches_than_there_was_time_for() -> None:
    launch = Launches(*[2.0] * LAUNCHES)
    found = compare_with_baseline(
        launch, [TIME], RULE,
        baseline={TIME.name: 1.0}, sessions={TIME.name: QUIET}, deadline=time.monotonic(),
    )  # fmt: skip
    assert (found.verdict, found.pairs) == (Verdict.INCONCLUSIVE, 0)
    assert found.stopped == "the time was up"
    assert launch.seeds == []
    later = Launches(*[1.0] * LAUNCHES)
    found = compare_with_baseline(
        later, [TIME], RULE,
        baseline={TIME.name: 1.0}, sessions={TIME.name: QUIET}, deadline=time.monotonic() + 60,
    )  # fmt: skip
    assert (found.verdict, found.stopped) == (Verdict.PASSED, "")


def test_a_launch_that_is_cut_short_is_none() -> None:
    made: list[int] = []

    def launch(seed: int) -> Mapping[str, float]:
        made.append(seed)
        if len(made) == 3:
            raise OutOfTime
        return {TIME.name: 2.0}

    found = compare_with_baseline(
        launch, [TIME], RULE, baseline={TIME.name: 1.0}, sessions={TIME.name: QUIET}
    )
    assert (found.verdict, found.pairs, found.stopped) == (
        Verdict.INCONCLUSIVE, 2, "the time was up",
    )  # fmt: skip
