"""Bounds whose unit was most likely mistaken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from builders import evaluate, make_bound, make_record, make_slo

from pytest_autotune.scoring.magnitudes import magnitude_notes
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord

COST = Objective.parse("minimize:cost")


def trials(metric: str, threshold: float, actual: Sequence[float], **bound: Any) -> list[Any]:
    slo = make_slo(make_bound(metric, threshold, **bound))
    return [trial(number, slo, **{metric: value}) for number, value in enumerate(actual)]


def trial(number: int, slo: Any, **metrics: float) -> TrialRecord:
    judged = evaluate({"cost": 1.0, **metrics}, [], slo, COST)
    return make_record(number, outcome=judged.outcome, bounds=judged.compliance.results)


@pytest.mark.parametrize(
    ("threshold", "actual", "note"),
    [
        (200.0, [0.2], "≤ 200 s, measured 200 ms: did you mean 200ms?"),
        (200.0, [0.2, 0.1, 1.9], "≤ 200 s, measured 100 ms to 1.9 s: did you mean 200ms?"),
        (1500.0, [1.2], "≤ 1500 s, measured 1.2 s: did you mean 1.5s?"),
        (500.0, [0.0004], "≤ 500 s, measured 400 µs: did you mean 500us?"),
        (0.0002, [0.3], "≤ 200 µs, measured 300 ms: did you mean 200ms?"),
        (0.2, [20.0], "≤ 200 ms, measured 20 s: did you mean 200s?"),
    ],
)
def test_a_time_that_no_trial_comes_near_to_is_noted(
    threshold: float, actual: list[float], note: str
) -> None:
    records = trials("p99_ttft", threshold, actual)
    assert magnitude_notes(records) == [f"SLO p99_ttft {note}"]


@pytest.mark.parametrize(
    ("metric", "threshold", "actual"),
    [
        ("p99_ttft", 200.0, []),
        ("p99_ttft", 200.0, [2.1]),
        ("p99_ttft", 0.2, [19.9]),
        # A hopeless configuration beside one that comes near.
        ("p99_ttft", 0.2, [0.3, 90.0]),
        ("p99_ttft", 200.0, [0.001, 3.0]),
        # In both directions: whatever this is, it is no unit.
        ("p99_ttft", 1.0, [0.001, 900.0]),
        # No ratio exists, or none that a unit explains.
        ("p99_ttft", 0.0, [5.0]),
        ("p99_ttft", 1.0, [0.0]),
        # Anything may lie between other figures.
        ("error_rate", 0.5, [0.001]),
        ("output_throughput", 1.0, [9000.0]),
    ],
)
def test_other_bounds_are_not_noted(metric: str, threshold: float, actual: list[float]) -> None:
    assert magnitude_notes(trials(metric, threshold, actual)) == []


def test_a_trial_that_did_not_get_so_far_says_nothing() -> None:
    slo = make_slo(make_bound("p99_ttft", 200.0, hard=True), make_bound("mean_tpot", 1.0))
    records = [trial(0, slo, p99_ttft=0.2), trial(1, slo, mean_tpot=0.9)]
    assert magnitude_notes(records) == [
        "SLO p99_ttft ≤ 200 s, measured 200 ms: did you mean 200ms?"
    ]


def test_a_minimum_is_noted_too() -> None:
    (note,) = magnitude_notes(trials("mean_time", 0.5, [600.0], upper=False))
    assert note == "SLO mean_time ≥ 500 ms, measured 600 s: did you mean 500s?"
