"""What is compared, under the names that the tests reported."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_plan, make_spec

from pytest_autotune.errors import UserError
from pytest_autotune.gate.compare.comparison import GatedMetric
from pytest_autotune.gate.metrics import gated_metrics
from pytest_autotune.study.plan import Plan

TIMED = {"mean_e2e_latency": 0.3, "p50_e2e_latency": 0.2, "num_samples": 50.0}


def plan_for(objective: str = "minimize_latency", *metrics: str, **keys: Any) -> Plan:
    gate = {"gate": {"metrics": list(metrics)}} if metrics else {}
    spec = make_spec(
        parameters={"a": [1, 2]}, optimization={"objective": objective}, **gate, **keys
    )
    return make_plan(spec)


def names(plan: Plan, reported: dict[str, float]) -> list[str]:
    return [metric.name for metric in gated_metrics(plan, reported)]


def test_by_default_the_objective_is_compared() -> None:
    assert gated_metrics(plan_for("minimize:cost"), {"cost": 1.0, "other": 2.0}) == [
        GatedMetric(name="cost")
    ]
    rates = {"mean_total_throughput": 9.0, "max_total_throughput": 10.0}
    assert gated_metrics(plan_for("maximize_throughput"), rates) == [
        GatedMetric(name="mean_total_throughput", maximize=True)
    ]


def test_of_a_timed_callable_the_median_is_compared() -> None:
    assert names(plan_for(), TIMED) == ["p50_e2e_latency"]
    other = {"mean_kernel_time": 1.0, "p50_kernel_time": 1.0, "num_samples": 9.0}
    assert names(plan_for("minimize:kernel_time"), other) == ["p50_kernel_time"]


@pytest.mark.parametrize("without", ["p50_e2e_latency", "num_samples"])
def test_of_what_was_not_timed_the_mean_stays_the_mean(without: str) -> None:
    reported = {name: value for name, value in TIMED.items() if name != without}
    assert names(plan_for(), reported) == ["mean_e2e_latency"]


def test_a_mean_that_the_spec_names_is_meant() -> None:
    assert names(plan_for("minimize_latency", "minimize_latency"), TIMED) == ["mean_e2e_latency"]
    assert names(plan_for("minimize_latency", "latency"), TIMED) == ["mean_e2e_latency"]


def test_metrics_of_the_spec_are_compared_instead_of_the_objective() -> None:
    plan = plan_for("minimize:cost", "p99_ttft", "maximize:output_throughput")
    reported = {"cost": 1.0, "p99_ttft": 0.1, "mean_output_throughput": 5.0}
    assert gated_metrics(plan, reported) == [
        GatedMetric(name="p99_ttft"),
        GatedMetric(name="mean_output_throughput", maximize=True),
    ]


def test_levels_max_is_compared_by_the_load_that_complies() -> None:
    plan = plan_for("minimize_latency", slo={"levels": "max"})
    assert gated_metrics(plan, {"max_compliant_concurrency": 8.0}) == [
        GatedMetric(name="max_compliant_concurrency", maximize=True)
    ]


def test_what_was_not_reported_is_named_with_where_it_is_asked_for() -> None:
    plan = plan_for("minimize:cost", "minimize:cost", "minimize:p99_ttft")
    with pytest.raises(UserError) as caught:
        gated_metrics(plan, {"cost": 1.0, "a": 2.0})
    assert str(caught.value) == (
        "inline: /gate/metrics/1: 'minimize:p99_ttft' is not among what the tests reported: a, cost"
    )


def test_what_is_no_number_counts_as_not_reported() -> None:
    with pytest.raises(UserError, match="is not among what the tests reported"):
        gated_metrics(plan_for("minimize:cost"), {"cost": float("nan")})
