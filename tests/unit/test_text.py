"""Numbers, units and tables as people read them."""

from __future__ import annotations

import math

import pytest
from builders import make_bound, make_slo
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.level_table import level_row
from pytest_autotune.report.render import metric_lines
from pytest_autotune.scoring.slo import check, check_bound
from pytest_autotune.scoring.wording import limits, penalized_by, slo_table, tolerated
from pytest_autotune.text.durations import duration
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.tables import table
from pytest_autotune.text.values import parameters


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
        (0.0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (-12, "-12"),
        (999_999.0, "999999"),
        (1e6, "1e+06"),
        (1234.5678, "1235"),
        (0.00012345678, "0.0001235"),
        (1 / 3, "0.3333"),
    ],
)
def test_a_number_has_four_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("p99_e2e_latency", 1.5, "1.5 s"),
        ("mean_ttft", 0.25, "250 ms"),
        ("mean_tpot", 0.0123456, "12.35 ms"),
        ("p50_itl", 1.5e-5, "15 µs"),
        ("kernel_time", 2.5e-8, "25 ns"),
        ("time", 1e-12, "1e-12 s"),
        ("time", 0.0, "0 s"),
        ("mean_ttft", -0.5, "-500 ms"),
        ("mean_ttft", None, "-"),
        ("mean_ttft", math.nan, "-"),
        ("output_throughput", 1234.5, "1234"),
        ("timeouts", 3.0, "3"),
        ("error_rate", 0.25, "0.25"),
        (None, 0.25, "0.25"),
    ],
)
def test_a_time_has_the_unit_that_fits(metric: str | None, value: float | None, text: str) -> None:
    assert quantity(metric, value) == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=st.floats())
def test_every_number_has_a_short_text(value: float) -> None:
    for text in (number(value), quantity("mean_ttft", value), quantity("x", value)):
        assert 0 < len(text) <= 13


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (5400, "1 h 30 min"),
        (90_061, "25 h 01 min"),
        (59.97, "1 min 00 s"),
    ],
)
def test_a_length_of_time_reads_as_people_write_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_parameters_are_pairs_in_order() -> None:
    assert parameters({"b": 1, "a": "x", "c": [1, 2]}) == "b=1 a=x c=[1,2]"
    assert parameters({}) == "(no parameters)"


def test_a_table_has_even_columns_and_no_trailing_blanks() -> None:
    text = table(("name", "value", ""), [("a", "1", "ok"), ("longer", "1000", "")])
    assert text.splitlines() == [
        "name    value",
        "a           1  ok",
        "longer   1000",
    ]
    assert table(("only", "head"), []) == "only  head"


SLO = make_slo(
    make_bound("p99_ttft", 0.5, hard=True, fail_ratio=0.0),
    make_bound("p50_e2e_latency", 2.0),
    make_bound("mean_tpot", 0.1),
    make_bound("output_throughput", 1000.0, upper=False),
    make_bound("error_rate", 0.0, hard=True, fail_ratio=0.0),
    make_bound("p95_itl", 0.1),
)
METRICS = {
    "p99_ttft": 1.0,
    "p50_e2e_latency": 2.2,
    "mean_tpot": 0.15,
    "output_throughput": 1100.0,
    "error_rate": 0.5,
}


def test_the_slo_table_shows_limit_value_margin_and_verdict() -> None:
    rows = [line.split() for line in slo_table(check(SLO, METRICS).results).splitlines()]
    assert rows[0] == ["SLO", "limit", "actual", "margin"]
    assert rows[1] == ["p99_ttft", "≤", "500", "ms", "1", "s", "-100.0", "%", "BROKEN"]
    assert rows[2][-4:] == ["-10.0", "%", "missed,", "minor"]
    assert rows[3][-4:] == ["-50.0", "%", "missed,", "severe"]
    assert rows[4] == ["output_throughput", "≥", "1000", "1100", "+10.0", "%", "met"]
    assert rows[5][-3:] == ["-5.0e+10", "%", "BROKEN"]
    assert rows[6] == ["p95_itl", "≤", "100", "ms", "-", "-", "BROKEN:", "not", "reported"]


TOLERANT = make_slo(
    make_bound("p99_e2e_latency", 0.5, hard=True, fail_ratio=0.5),
    make_bound("output_throughput", 1000.0, upper=False, hard=True, fail_ratio=0.2),
    make_bound("p50_ttft", 10.0, fail_ratio=0.5),
    make_bound("mean_tpot", 1.0, hard=True, fail_ratio=0.0),
)


def test_a_hard_bound_shows_where_it_fails() -> None:
    metrics = {"p99_e2e_latency": 0.7, "output_throughput": 700, "p50_ttft": 11, "mean_tpot": 1}
    results = check(TOLERANT, metrics).results
    said = "missed, severe: penalized, not failed"
    assert slo_table(results).splitlines() == [
        "SLO                                       limit  actual   margin",
        "p99_e2e_latency    ≤ 500 ms, fails above 750 ms  700 ms  -40.0 %  " + said,
        "output_throughput    ≥ 1000, fails below 800        700  -30.0 %  BROKEN",
        "p50_ttft             ≤ 10 s                        11 s  -10.0 %  missed, minor",
        "mean_tpot             ≤ 1 s                         1 s   +0.0 %  met",
    ]
    assert tolerated(results) == ["p99_e2e_latency 700 ms, limit ≤ 500 ms, fails above 750 ms"]
    assert penalized_by(0.5, results) == "penalized ×1.5: p99_e2e_latency 700 ms > 500 ms"
    tolerable = check(TOLERANT, {**metrics, "output_throughput": 900}).results
    assert penalized_by(0.5, tolerable).endswith(" > 500 ms, output_throughput 900 < 1000")
    assert penalized_by(0.5, results[2:]) == "penalized ×1.5"
    assert [limits(result.bound) for result in results[1:3]] == [
        "≥ 1000, fails below 800",
        "≤ 10 s",
    ]


@pytest.mark.parametrize("actual", [0.5, 0.8, math.nan])
def test_only_a_bound_that_is_missed_and_holds_is_tolerated(actual: float) -> None:
    metrics = {"p99_e2e_latency": actual, "output_throughput": 1000, "p50_ttft": 1, "mean_tpot": 1}
    results = check(TOLERANT, metrics).results
    assert tolerated(results) == []
    assert "penalized" not in slo_table(results)


def test_a_bound_met_exactly_has_no_sign_of_failure() -> None:
    assert "+0.0 %  met" in slo_table(check(make_slo(make_bound("x", 1.0)), {"x": 1.0}).results)


def test_a_level_is_named_with_its_bound() -> None:
    result = check_bound(make_bound("x", 1.0), {"x": 2.0}, 0.1, level="8")
    line = slo_table((result,)).splitlines()[1]
    assert line.split()[:5] == ["x", "@", "8", "≤", "1"]


def test_many_statistics_of_one_thing_stand_on_a_line_of_their_own() -> None:
    metrics = {
        "mean_e2e_latency": 0.002,
        "std_e2e_latency": 0.0001,
        "p50_e2e_latency": 0.0019,
        "p99_e2e_latency": 0.003,
        "mean_gpu_power_w": 300.0,
        "tflop_per_s": 1.5,
        "compile_time": 0.5,
    }
    assert list(metric_lines(metrics)) == [
        "e2e_latency: mean 2 ms, std 100 µs, p50 1.9 ms, p99 3 ms",
        "mean_gpu_power_w 300, tflop_per_s 1.5, compile_time 500 ms",
    ]


def test_a_few_metrics_stay_in_a_row() -> None:
    metrics = {"min_e2e_latency": 0.001, "p90_e2e_latency": 0.002, "workspace_mib": 1.5}
    assert list(metric_lines(metrics)) == [
        "min_e2e_latency 1 ms, p90_e2e_latency 2 ms, workspace_mib 1.5"
    ]
    assert list(metric_lines({})) == []


def test_a_level_whose_figures_are_no_numbers_has_a_row() -> None:
    row = level_row("1", {"num_requests": 5.0, "error_rate": math.nan})
    assert row[:3] == ("1", "5", "-")
    assert level_row("1", {"num_requests": 5.0, "error_rate": 0.4})[2] == "2"
