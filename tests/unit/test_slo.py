"""Violations cost what they should: nothing at the threshold, ever more past it, never NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
from builders import make_bound, make_slo, make_spec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pytest_autotune.scoring.slo import (
    MAX_RATIO,
    MAX_SCORE,
    Bound,
    Compliance,
    Severity,
    check,
    check_bound,
    penalized,
    soft_penalty,
    violation_ratio,
    worst,
)

ratios = st.floats(0, MAX_RATIO)
steepnesses = st.floats(1e-6, 100)
weights = st.floats(0, 1e6)
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("threshold", "upper", "actual", "ratio"),
    [
        (2.0, True, 3.0, 0.5),
        (2.0, True, 2.0, 0.0),
        (2.0, True, 1.0, -0.5),
        (1000.0, False, 900.0, 0.1),
        (1000.0, False, 1000.0, 0.0),
        (1000.0, False, 1500.0, -0.5),
        (-1.0, True, 0.0, 1.0),
        (-1.0, False, -2.0, 1.0),
    ],
)
def test_the_ratio_is_the_share_of_the_threshold_by_which_it_is_missed(
    threshold: float, *, upper: bool, actual: float, ratio: float
) -> None:
    assert violation_ratio(make_bound("x", threshold, upper=upper), actual) == pytest.approx(ratio)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(threshold=finite, actual=finite, upper=st.booleans())
@example(threshold=0.0, actual=0.001, upper=True)
@example(threshold=-1.7e308, actual=1.7e308, upper=True)
def test_every_ratio_is_finite_and_positive_only_for_a_miss(
    threshold: float, actual: float, *, upper: bool
) -> None:
    ratio = violation_ratio(make_bound("x", threshold, upper=upper), actual)
    assert abs(ratio) <= MAX_RATIO
    missed = actual > threshold if upper else actual < threshold
    assert ratio > 0 if missed else ratio <= 0


def test_the_penalty_is_the_exponential_less_one() -> None:
    assert soft_penalty(0.1, 1.0, 0.1) == pytest.approx(math.e - 1)
    assert soft_penalty(0.3, 2.0, 0.1) == pytest.approx(2 * (math.exp(3) - 1))
    assert soft_penalty(0.1, 1.0, 0.2) == pytest.approx(math.exp(0.5) - 1)


@pytest.mark.parametrize("ratio", [0.0, -0.0, -0.5, -MAX_RATIO])
def test_what_is_met_costs_nothing(ratio: float) -> None:
    assert soft_penalty(ratio, 5.0, 0.1) == 0.0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ratio=st.floats(1e-15, 1e-6), weight=weights, steepness=st.floats(1e-3, 10))
def test_an_infinitesimal_miss_costs_infinitesimally_little(
    ratio: float, weight: float, steepness: float
) -> None:
    slope = weight / steepness
    assert soft_penalty(ratio, weight, steepness) <= slope * ratio * 1.01


def test_a_millionth_of_a_second_too_much_does_not_double_the_score() -> None:
    bound = make_bound("p50_e2e_latency", 2.0)
    at, past = (check_bound(bound, {"p50_e2e_latency": x}, 0.1).penalty for x in (2.0, 2.000001))
    assert at == 0.0
    assert penalized(2.0, past) == pytest.approx(2.0, rel=1e-5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(low=ratios, high=ratios, weight=weights, steepness=steepnesses)
@example(low=5.0, high=5.0 + 1e-9, weight=1.0, steepness=0.1)
def test_the_penalty_never_falls_as_the_miss_grows(
    low: float, high: float, weight: float, steepness: float
) -> None:
    low, high = sorted((low, high))
    assert soft_penalty(low, weight, steepness) <= soft_penalty(high, weight, steepness)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(low=ratios, high=ratios, steepness=st.floats(1e-3, 10))
def test_a_larger_miss_costs_more(low: float, high: float, steepness: float) -> None:
    assume(low * 1.001 + 1e-9 < high)
    assert soft_penalty(low, 1.0, steepness) < soft_penalty(high, 1.0, steepness)


@pytest.mark.parametrize("steepness", [0.01, 0.1, 1.0])
def test_the_penalty_is_continuous_where_the_exponential_is_continued(steepness: float) -> None:
    seam = 50.0 * steepness
    below, above = (soft_penalty(seam * (1 + e), 1.0, steepness) for e in (-1e-12, 1e-12))
    assert above == pytest.approx(below, rel=1e-9)
    assert below < above


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ratio=st.floats(-MAX_RATIO, MAX_RATIO),
    weight=weights,
    steepness=st.floats(min_value=0, exclude_min=True, max_value=1e3),
)
@example(ratio=MAX_RATIO, weight=1.0, steepness=5e-324)
def test_the_penalty_never_overflows(ratio: float, weight: float, steepness: float) -> None:
    penalty = soft_penalty(ratio, weight, steepness)
    assert math.isfinite(penalty)
    assert penalty >= 0.0


def test_eighty_seconds_against_one_is_a_large_number() -> None:
    result = check_bound(make_bound("mean_ttft", 1.0), {"mean_ttft": 80.0}, 0.1)
    assert result.severity is Severity.SEVERE
    assert 1e20 < result.penalty < math.inf
    worse = check_bound(make_bound("mean_ttft", 1.0), {"mean_ttft": 81.0}, 0.1)
    assert worse.penalty > result.penalty


@settings(max_examples=200, deadline=None, derandomize=True)
@given(score=finite, penalty=st.floats(min_value=0, allow_nan=False))
def test_a_penalized_score_is_finite_and_never_better(score: float, penalty: float) -> None:
    result = penalized(score, penalty)
    assert math.isfinite(result)
    assert result >= min(score, MAX_SCORE)


@pytest.mark.parametrize("score", [2.0, -2.0, 0.0])
def test_a_penalty_worsens_scores_of_either_sign(score: float) -> None:
    assert penalized(score, 0.0) == score
    assert penalized(score, 0.5) == score + 0.5 * (abs(score) or 1.0)
    assert penalized(score, 0.25) < penalized(score, 0.5)


@pytest.mark.parametrize(
    ("actual", "severity"),
    [
        (0.5, Severity.MET),
        (1.0, Severity.MET),
        (1.001, Severity.MINOR),
        (1.2, Severity.MINOR),
        (1.21, Severity.SEVERE),
        (1e9, Severity.SEVERE),
    ],
)
def test_a_soft_bound_is_missed_by_degrees(actual: float, severity: Severity) -> None:
    result = check_bound(make_bound("x", 1.0), {"x": actual}, 0.1)
    assert result.severity is severity
    assert not result.infeasible
    assert (result.penalty > 0) == (severity is not Severity.MET)


@pytest.mark.parametrize(
    ("actual", "severity"),
    [
        (1.0, Severity.MET),
        (1.1, Severity.MINOR),
        (1.5, Severity.SEVERE),
        (1.51, Severity.HARD),
        (1e300, Severity.HARD),
    ],
)
def test_a_hard_bound_gives_way_until_its_fail_ratio(actual: float, severity: Severity) -> None:
    result = check_bound(make_bound("x", 1.0, hard=True, fail_ratio=0.5), {"x": actual}, 0.1)
    assert result.severity is severity
    assert result.infeasible == (severity is Severity.HARD)
    assert (result.penalty > 0) == (severity in {Severity.MINOR, Severity.SEVERE})


def test_a_fifth_too_much_is_still_a_minor_miss() -> None:
    result = check_bound(make_bound("x", 5.0), {"x": 6.0}, 0.1)
    assert (result.ratio, result.severity) == (0.2, Severity.MINOR)


def test_a_minimum_is_missed_from_below() -> None:
    bound = make_bound("x", 1000.0, upper=False, hard=True, fail_ratio=0.0)
    assert check_bound(bound, {"x": 1000.0}, 0.1).severity is Severity.MET
    assert check_bound(bound, {"x": 2000.0}, 0.1).severity is Severity.MET
    broken = check_bound(bound, {"x": 900.0}, 0.1)
    assert broken.severity is Severity.HARD
    assert broken.ratio == pytest.approx(0.1)


REPORTED = {
    "mean_e2e_latency": 0.1,
    "p50_e2e_latency": 0.1,
    "p90_e2e_latency": 0.1,
    "p99_e2e_latency": 0.1,
    "mean_ttft": 0.1,
    "mean_tpot": 0.01,
}


@pytest.mark.parametrize(
    ("slo", "metric"),
    [
        ({"latency": {"p95": {"threshold": 9}}}, "p95_e2e_latency"),
        ({"latency": {"max": {"threshold": 9}}}, "max_e2e_latency"),
        ({"ttft": {"p99": {"threshold": 9}}}, "p99_ttft"),
        ({"tpot": {"p95": {"threshold": 9}}}, "p95_tpot"),
        ([{"metric": "error_rate", "max": 0.01}], "error_rate"),
        ([{"metric": "output_throughput", "min": 1000}], "output_throughput"),
        ([{"metric": "itl", "statistic": "p99", "max": 0.5, "hard_fail": False}], "p99_itl"),
        ({"metrics": [{"metric": "error_rate", "max": 0.01}]}, "error_rate"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "nan", "inf", "-inf"])
def test_a_metric_that_was_not_reported_fails_closed(slo: Any, metric: str, how: str) -> None:
    bounds = make_spec(parameters={"a": [1]}, slo=slo).slo
    metrics = dict(REPORTED) if how == "missing" else {**REPORTED, metric: float(how)}
    compliance = check(bounds, metrics)
    (result,) = compliance.results
    assert result.severity is Severity.MISSING
    assert result.actual is None
    assert not compliance.feasible
    good = 10_000.0 if metric == "output_throughput" else 0.001
    assert check(bounds, {**REPORTED, metric: good}).met


@pytest.mark.parametrize(
    ("name", "statistic"), [("p99_latency", None), ("latency", "p99"), ("e2e_latency", "p99")]
)
def test_a_bound_on_latency_finds_it_under_any_of_its_names(
    name: str, statistic: str | None
) -> None:
    entry = {"metric": name, "max": 1.0} | ({"statistic": statistic} if statistic else {})
    slo = make_spec(parameters={"a": [1]}, slo=[entry]).slo
    assert check(slo, {"p99_e2e_latency": 0.5}).met


def test_no_slo_is_always_met() -> None:
    compliance = check(make_slo(), {})
    assert compliance.met
    assert compliance.feasible
    assert compliance.penalty == 0.0
    assert compliance.violation == 0.0


def test_penalties_add_up_and_violations_count_hard_bounds_only() -> None:
    slo = make_slo(
        make_bound("soft", 1.0),
        make_bound("soft2", 1.0, weight=2.0),
        make_bound("hard", 1.0, hard=True, fail_ratio=0.0),
        make_bound("hard2", 1.0, hard=True, fail_ratio=0.0),
        steepness=0.5,
    )
    compliance = check(slo, {"soft": 1.5, "soft2": 1.5, "hard": 3.0, "hard2": 1.5})
    assert compliance.penalty == pytest.approx(3 * (math.e - 1))
    assert compliance.violation == pytest.approx(2.5)
    assert not compliance.feasible
    assert check(slo, {"soft": 9.0, "soft2": 9.0, "hard": 1.0, "hard2": 1.0}).violation == 0.0


def test_a_broken_bound_always_has_a_positive_violation() -> None:
    bound = make_bound("x", 1.0, hard=True, fail_ratio=0.0)
    barely = math.nextafter(1.0, 2.0)
    assert check(make_slo(bound), {"x": barely}).violation > 0.0


def test_the_worst_result_is_an_infeasible_one() -> None:
    slo = make_slo(make_bound("soft", 1.0), make_bound("hard", 1.0, hard=True, fail_ratio=0.0))
    soft, hard = check(slo, {"soft": 100.0, "hard": 1.1}).results
    assert worst([soft, hard]) is hard
    larger = check_bound(slo.bounds[1], {"hard": 1.2}, 0.1)
    assert worst([hard, larger, soft]) is larger


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    actual=st.floats(allow_nan=True, allow_infinity=True),
    threshold=finite,
    hard=st.booleans(),
    upper=st.booleans(),
    fail_ratio=st.floats(0, 1e3),
)
def test_every_bound_on_every_number_gives_finite_results(
    actual: float, threshold: float, *, hard: bool, upper: bool, fail_ratio: float
) -> None:
    bound = Bound(
        label="x",
        metrics=("x",),
        threshold=threshold,
        hard=hard,
        upper=upper,
        fail_ratio=fail_ratio,
    )
    result = check_bound(bound, {"x": actual}, 0.1)
    assert math.isfinite(result.ratio)
    assert math.isfinite(result.penalty)
    assert math.isfinite(Compliance(results=(result, result)).violation)
    if not math.isfinite(actual):
        assert result.infeasible
