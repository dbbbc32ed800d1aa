"""Metrics of a level follow from its requests by the formulas that everybody uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.statistics import (
    PERCENTILES,
    ClientHealth,
    GoodputLimits,
    LevelRun,
    RequestRecord,
    distribution,
    error_classes,
    level_metrics,
    percentile_of,
    rounded,
)

ANY = GoodputLimits()
TIMES = st.floats(0, 1e4)


def ok(at: float = 0.0, ttft: float = 0.5, e2e: float = 2.0, **fields: Any) -> RequestRecord:
    """Return a request of 10 tokens in and 4 out."""
    fields = {"input_tokens": 10, "output_tokens": 4, "sent": at, **fields}
    return RequestRecord(scheduled=at, first=at + ttft, last=at + e2e, ended=at + e2e, **fields)


def failed(at: float = 0.0, error: str = "HTTP 500", **fields: Any) -> RequestRecord:
    return RequestRecord(scheduled=at, sent=at, error=error, **{"ended": at + 0.1, **fields})


def cut(at: float = 0.0, waited: float = 3.0, **fields: Any) -> RequestRecord:
    return RequestRecord(scheduled=at, sent=at, ended=at + waited, cut=True, **fields)


def metrics_of(
    *requests: RequestRecord,
    gaps: Sequence[float] = (),
    goodput: GoodputLimits = ANY,
    gpus: int = 1,
    percentiles: Sequence[str] = (),
    **fields: Any,
) -> dict[str, float]:
    run = LevelRun(requests=requests, gaps=gaps, **fields)
    return level_metrics(run, goodput=goodput, gpus=gpus, percentiles=percentiles)


# One request


def test_times_count_from_when_a_request_was_due() -> None:
    request = ok(100.0, 0.5, 2.0, sent=100.3)
    assert request.ok
    assert request.ttft == 0.5
    assert request.e2e_latency == 2.0
    assert request.tpot == pytest.approx(1.5 / 3)


@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_have_no_time_between_them(tokens: int) -> None:
    assert ok(output_tokens=tokens).tpot is None


def test_a_request_that_failed_has_no_latency() -> None:
    early = failed()
    late = failed(first=0.2, last=0.4, output_tokens=5)
    for request in (early, late):
        assert not request.ok
        assert request.e2e_latency is None
        assert request.tpot is None
    assert early.ttft is None


def test_a_request_that_was_cut_took_at_least_as_long_as_it_was_waited_for() -> None:
    silent, talking = cut(waited=3.0), cut(waited=3.0, first=1.0, last=2.5, output_tokens=9)
    assert (silent.ttft, silent.e2e_latency, silent.tpot) == (3.0, 3.0, None)
    assert (talking.ttft, talking.e2e_latency, talking.tpot) == (1.0, 3.0, None)
    assert not silent.ok


# Percentiles


@pytest.mark.parametrize(
    ("statistic", "share"),
    [("p50", 0.5), ("p99", 0.99), ("p0", 0.0), ("p99.9", 0.999), ("p5", 0.05), ("p1.25", 0.0125)],
)
def test_a_percentile_is_a_share(statistic: str, share: float) -> None:
    assert percentile_of(statistic) == pytest.approx(share)


@pytest.mark.parametrize(
    "name", ["mean", "max", "p", "p100", "p-1", "p9.", "P50", "p50 ", "", "xp5"]
)
def test_what_is_no_percentile_has_no_share(name: str) -> None:
    assert percentile_of(name) is None


@given(st.lists(TIMES, min_size=1, max_size=60))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_distribution_is_that_of_numpy(values: list[float]) -> None:
    array = np.asarray(values)
    found = distribution("x", iter(values), ["p99.9"])
    expected = {
        "mean_x": array.mean(),
        "min_x": array.min(),
        "max_x": array.max(),
        "std_x": array.std(),
        **{f"p{q}_x": np.percentile(array, q) for q in (*PERCENTILES, 99.9)},
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-7, abs=1e-6), name
    assert found["min_x"] <= found["p25_x"] <= found["p50_x"] <= found["p99_x"] <= found["max_x"]


def test_a_distribution_of_nothing_is_empty() -> None:
    assert distribution("x", []) == {}


@pytest.mark.parametrize(
    ("value", "short"),
    [(0.0, 0.0), (1.23456789, 1.234568), (123456789.0, 123456800.0), (1e-9, 1e-9), (-2.5, -2.5)],
)
def test_numbers_have_no_more_digits_than_mean_something(value: float, short: float) -> None:
    assert rounded(value) == short


# A level


def test_latencies_are_of_requests_that_succeeded() -> None:
    metrics = metrics_of(
        ok(0, 0.5, 2.0),
        ok(1, 1.5, 3.0),
        failed(2),
        failed(2, first=2.01, last=9.0),
        gaps=[0.1, 0.3],
    )
    assert metrics["mean_ttft"] == 1.0
    assert metrics["max_ttft"] == 1.5
    assert metrics["p50_e2e_latency"] == 2.5
    assert metrics["mean_tpot"] == 0.5
    assert metrics["mean_itl"] == 0.2
    assert metrics["num_requests"] == 4
    assert metrics["num_completed"] == 2


def test_throughput_is_over_the_time_from_the_first_request_to_the_last_answer() -> None:
    # From 10 to 14.5 seconds: the failure ended last.
    metrics = metrics_of(ok(10, 0.5, 2.0), ok(11, 0.5, 3.0), failed(11.0, ended=14.5))
    assert metrics["duration"] == 4.5
    assert metrics["request_throughput"] == pytest.approx(2 / 4.5)
    assert metrics["input_throughput"] == pytest.approx(20 / 4.5)
    assert metrics["output_throughput"] == pytest.approx(8 / 4.5)
    assert metrics["total_throughput"] == pytest.approx(28 / 4.5)
    assert metrics["mean_input_tokens"] == 10
    assert metrics["mean_output_tokens"] == 4


def test_tokens_of_requests_that_failed_are_no_throughput() -> None:
    metrics = metrics_of(ok(0, 0.5, 2.0), failed(0, output_tokens=1000, input_tokens=1000))
    assert metrics["output_throughput"] == 2.0
    assert metrics["input_throughput"] == 5.0


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_throughputs_are_given_per_gpu_as_well(gpus: int) -> None:
    goodput = GoodputLimits(ttft=9.0)
    metrics = metrics_of(ok(), ok(1), gpus=gpus, goodput=goodput)
    names = ["request", "input", "output", "total"]
    for name in [*(f"{name}_throughput" for name in names), "goodput"]:
        assert metrics[f"{name}_per_gpu"] == pytest.approx(metrics[name] / gpus, rel=1e-5)
        assert metrics[name] > 0


def test_an_error_rate_is_the_share_of_requests_that_failed() -> None:
    metrics = metrics_of(ok(), ok(), ok(), failed())
    assert (metrics["error_rate"], metrics["success_rate"]) == (0.25, 0.75)


def test_requests_that_were_cut_are_neither_failures_nor_successes() -> None:
    metrics = metrics_of(ok(), failed(), cut(), cut(), ended_early="lost")
    assert metrics["error_rate"] == 0.5
    assert metrics["num_requests"] == 4
    assert metrics["num_completed"] == 1


def test_requests_that_were_cut_are_lower_bounds_of_latency() -> None:
    metrics = metrics_of(ok(0, 0.5, 2.0), cut(0, 30.0), cut(0, 30.0, first=1.0), ended_early="lost")
    assert metrics["max_ttft"] == 30.0
    assert metrics["p50_ttft"] == 1.0
    assert metrics["p50_e2e_latency"] == 30.0
    assert metrics["mean_tpot"] == 0.5


def test_what_no_request_gave_is_left_out() -> None:
    metrics = metrics_of(failed(), failed(1))
    assert not [name for name in metrics if "ttft" in name or "latency" in name or "itl" in name]
    assert "mean_output_tokens" not in metrics
    assert metrics["error_rate"] == 1.0
    assert metrics["output_throughput"] == 0.0


def test_a_level_of_nothing_is_all_zeros() -> None:
    metrics = metrics_of(goodput=GoodputLimits(ttft=1.0))
    assert metrics["num_requests"] == metrics["duration"] == metrics["request_throughput"] == 0
    assert metrics["goodput"] == metrics["goodput_ratio"] == metrics["error_rate"] == 0
    assert all(map(math.isfinite, metrics.values()))


def test_a_level_of_one_instant_has_no_rate() -> None:
    metrics = metrics_of(RequestRecord(scheduled=1.0, sent=1.0, first=1.0, last=1.0, ended=1.0))
    assert metrics["request_throughput"] == 0.0


def test_answers_of_one_token_have_no_time_per_token() -> None:
    metrics = metrics_of(ok(output_tokens=1))
    assert "mean_tpot" not in metrics
    assert metrics["mean_ttft"] == 0.5


def test_further_percentiles_are_of_every_latency() -> None:
    metrics = metrics_of(ok(), ok(1), gaps=[0.1], percentiles=["p99.9", "p80", "p80"])
    for name in ("ttft", "tpot", "itl", "e2e_latency"):
        assert f"p99.9_{name}" in metrics
        assert f"p80_{name}" in metrics


def test_the_health_of_the_client_is_part_of_it() -> None:
    health = ClientHealth(cpu=0.25, lag_p99=0.02, late_p99=0.5)
    metrics = metrics_of(ok(), client=health)
    assert metrics["client_cpu"] == 0.25
    assert metrics["p99_client_lag"] == 0.02
    assert metrics["p99_send_delay"] == 0.5


@given(
    st.lists(
        st.builds(
            ok, st.floats(0, 100), st.floats(0.001, 5), st.floats(5, 50),
            output_tokens=st.integers(0, 500), input_tokens=st.integers(0, 500),
        )
        | st.builds(failed, st.floats(0, 100))
        | st.builds(cut, st.floats(0, 100), st.floats(0, 50)),
        max_size=30,
    ),
    st.integers(1, 8),
)  # fmt: skip
@settings(derandomize=True, max_examples=200, deadline=None)
def test_whatever_the_requests_the_metrics_are_finite_and_add_up(
    requests: list[RequestRecord], gpus: int
) -> None:
    metrics = metrics_of(*requests, goodput=GoodputLimits(ttft=2.0), gpus=gpus)
    assert all(map(math.isfinite, metrics.values()))
    assert all(value >= 0 for value in metrics.values())
    assert metrics["error_rate"] + metrics["success_rate"] == pytest.approx(1)
    assert metrics["num_completed"] <= metrics["num_requests"] == len(requests)
    assert metrics["goodput"] <= metrics["request_throughput"]
    assert metrics["goodput_ratio"] <= 1
    parts = metrics["input_throughput"] + metrics["output_throughput"]
    assert metrics["total_throughput"] == pytest.approx(parts, rel=1e-5)


# Goodput


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 0.5}, True),
        ({"ttft": 0.49}, False),
        ({"tpot": 0.5}, True),
        ({"tpot": 0.49}, False),
        ({"e2e_latency": 2.0}, True),
        ({"e2e_latency": 1.9}, False),
        ({"ttft": 9.0, "tpot": 9.0, "e2e_latency": 1.9}, False),
        ({}, True),
    ],
)
def test_a_good_request_keeps_every_limit(limits: dict[str, float], *, good: bool) -> None:
    goodput = GoodputLimits(**limits)
    assert goodput.good(ok()) == good
    assert not goodput.good(failed())
    assert not goodput.good(cut())
    assert goodput.any == bool(limits)


def test_a_request_without_a_time_per_token_may_be_good() -> None:
    assert GoodputLimits(tpot=0.01).good(ok(output_tokens=1))


def test_goodput_is_good_requests_per_second() -> None:
    goodput = GoodputLimits(ttft=1.0)
    requests = [ok(0, 0.5, 4.0), ok(0, 1.5, 4.0), failed(0), cut(0, 0.5)]
    metrics = metrics_of(*requests, goodput=goodput, gpus=2)
    assert metrics["goodput"] == 0.25
    assert metrics["goodput_per_gpu"] == 0.125
    assert metrics["goodput_ratio"] == 0.25
    assert "goodput" not in metrics_of(*requests)


# Errors


def test_errors_are_counted_by_class_the_most_frequent_first() -> None:
    requests = [
        failed(0, "timeout", detail="t1"),
        failed(1, "HTTP 500", detail="first"),
        ok(2),
        failed(3, "HTTP 500", detail="second"),
        cut(4),
        failed(5, "HTTP 503"),
    ]
    found = error_classes(requests)
    assert found == {"HTTP 500": (2, "first"), "timeout": (1, "t1"), "HTTP 503": (1, "")}
    assert next(iter(found)) == "HTTP 500"
    assert error_classes([ok(), cut()]) == {}
