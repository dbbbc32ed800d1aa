"""Every shape that metrics are reported in ends up under the same flat names."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.scoring.metrics import aggregate, flatten, lookup


@pytest.mark.parametrize(
    ("reported", "flat"),
    [
        ({"cost": 3}, {"cost": 3.0}),
        ({"p99_ttft": 0.5}, {"p99_ttft": 0.5}),
        ({"ttft": {"mean": 0.1, "p99": 0.3}}, {"mean_ttft": 0.1, "p99_ttft": 0.3}),
        ({"stats": {"ttft": {"mean": 0.1}}}, {"mean_ttft": 0.1}),
        ({"latency": {"p50": 1.0}}, {"p50_e2e_latency": 1.0}),
        ({"e2e_latency": {"p50": 1.0}}, {"p50_e2e_latency": 1.0}),
        ({"p99_latency": 2.0}, {"p99_e2e_latency": 2.0}),
        ({"latency": 2.0}, {"mean_e2e_latency": 2.0}),
        ({"first_latency": 2.0}, {"first_latency": 2.0}),
        ({"ttft": {"p99.9": 1.0, "std": 0.2}}, {"p99.9_ttft": 1.0, "std_ttft": 0.2}),
        ({"requests": {"failed": 2}}, {"requests_failed": 2.0}),
        ({"stats": 4}, {"stats": 4.0}),
        ({"ok": True}, {"ok": 1.0}),
        ({}, {}),
    ],
)
def test_every_shape_becomes_one_flat_name(
    reported: dict[str, Any], flat: dict[str, float]
) -> None:
    assert flatten(reported) == flat


def test_a_later_value_of_the_same_name_wins() -> None:
    assert flatten({"ttft": {"p99": 1.0}, "p99_ttft": 2.0}) == {"p99_ttft": 2.0}


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.int64(2), np.array(1.5), Decimal("0.5"), Fraction(1, 2)]
)
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    (number,) = flatten({"x": value}).values()
    assert type(number) is float
    assert number == float(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_kept_for_the_judge(value: float) -> None:
    (number,) = flatten({"x": value}).values()
    assert not math.isfinite(number)


@pytest.mark.parametrize(
    "value",
    ["0.5", b"1", None, [1.0], (1.0,), 1j, object(), np.array([1.0, 2.0]), 10**400],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"metric 'ttft\.p99' is .*, which is not a number"):
        flatten({"ttft": {"p99": value}})


def test_a_name_that_is_no_text_is_refused() -> None:
    nonsense: dict[Any, Any] = {1: 2.0}
    with pytest.raises(TypeError, match="metric names are strings, not 1"):
        flatten(nonsense)


def test_levels_are_aggregated_unweighted() -> None:
    low = {"mean_ttft": 0.1, "p99_ttft": 0.2, "min_ttft": 0.05, "max_ttft": 0.3, "rate": 10.0}
    high = {"mean_ttft": 0.3, "p99_ttft": 0.6, "min_ttft": 0.01, "max_ttft": 0.9, "rate": 30.0}
    assert aggregate([low, high]) == pytest.approx(
        {
            "mean_ttft": 0.2,
            "p99_ttft": 0.4,
            "min_ttft": 0.01,
            "max_ttft": 0.9,
            "rate": 20.0,
            "mean_rate": 20.0,
            "max_rate": 30.0,
        }
    )


@pytest.mark.parametrize("order", [("rate", "mean_rate"), ("mean_rate", "rate")])
def test_a_reported_mean_is_not_replaced_by_a_derived_one(order: tuple[str, str]) -> None:
    values = {"rate": 1.0, "mean_rate": 5.0}
    assert aggregate([{name: values[name] for name in order}])["mean_rate"] == 5.0


@pytest.mark.parametrize("missing", [{}, {"p99_ttft": math.nan}, {"p99_ttft": math.inf}])
def test_a_metric_that_a_level_lacks_aggregates_to_nothing_usable(
    missing: dict[str, float],
) -> None:
    result = aggregate([{"p99_ttft": 0.1}, missing])
    assert math.isnan(result["p99_ttft"])
    assert lookup(result, ["p99_ttft"]) is None


@pytest.mark.parametrize("prefix", ["", "mean_", "min_", "max_", "p50_"])
def test_the_aggregate_of_one_level_is_that_level(prefix: str) -> None:
    assert aggregate([{f"{prefix}x": 2.5}])[f"{prefix}x"] == 2.5


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
def test_an_aggregate_lies_between_its_levels(values: list[float]) -> None:
    result = aggregate([{"x": value, "min_x": value} for value in values])
    assert result["min_x"] == min(values)
    assert result["max_x"] == max(values)
    assert min(values) <= result["x"] * (1 + 1e-12)
    assert result["mean_x"] <= max(values) * (1 + 1e-12)


def test_the_mean_of_the_largest_numbers_is_a_number() -> None:
    assert aggregate([{"x": 1.7e308}, {"x": 1.7e308}])["mean_x"] == pytest.approx(1.7e308)


def test_the_first_reported_name_counts() -> None:
    metrics = {"b": 2.0, "c": 3.0}
    assert lookup(metrics, ["a", "b", "c"]) == ("b", 2.0)
    assert lookup(metrics, ["a"]) is None
    assert lookup(metrics, []) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reported_nan_is_not_passed_over_for_another_name(value: float) -> None:
    metrics = {"error_rate": value, "mean_error_rate": 0.0}
    assert lookup(metrics, ["error_rate", "mean_error_rate"]) is None
