"""Measurements as they are stored: plain JSON that reads back exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from builders import evaluate, make_bound, make_level, make_slo
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.scoring.judgement import Ending, Measurement
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.study.documents import measurement_document, read_measurement

NUMBERS = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(), max_size=4)


def stored(measurement: Measurement) -> Measurement:
    document = measurement_document(measurement)
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    return read_measurement(json.loads(text))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ending=st.sampled_from(Ending),
    metrics=NUMBERS,
    levels=st.lists(st.tuples(NUMBERS, st.text(max_size=3)), max_size=3),
    notes=st.lists(st.text(), max_size=2),
    disturbances=st.lists(st.text(), max_size=2),
    reason=st.text(),
    estimate=st.none() | st.floats(),
    duration=st.none() | st.floats(0, 1e6),
)
def test_a_measurement_reads_back_exactly(  # noqa: PLR0913, PLR0917 - all its parts
    ending: Ending,
    metrics: dict[str, float],
    levels: list[tuple[dict[str, float], str]],
    notes: list[str],
    disturbances: list[str],
    reason: str,
    estimate: float | None,
    duration: float | None,
) -> None:
    measurement = Measurement(
        ending=ending,
        metrics=metrics,
        levels=tuple(
            replace(make_level(at + 1, **found), failure=failure)
            for at, (found, failure) in enumerate(levels)
        ),
        notes=tuple(notes),
        disturbances=tuple(disturbances),
        reason=reason,
        estimate=estimate if estimate is None or math.isfinite(estimate) else None,
        duration=duration,
    )
    assert repr(stored(measurement)) == repr(measurement)  # NaN is unequal to itself


def test_only_what_was_reported_is_stored_and_aggregates_follow_from_it() -> None:
    levels = (make_level(1, soft=0.1, hard=0.5), make_level(4, soft=0.3, hard=0.7))
    measurement = Measurement(metrics={"x": 1.0}, levels=levels)
    assert measurement_document(measurement) == {
        "ending": "complete",
        "metrics": {"x": 1.0},
        "levels": [{"concurrency": 1}, {"concurrency": 4}],
        "level_metrics": {"soft": [0.1, 0.3], "hard": [0.5, 0.7]},
    }
    read = stored(measurement)
    objective, slo = Objective.parse("minimize:x"), make_slo()
    before, after = (
        evaluate(found.metrics, found.levels, slo, objective) for found in (measurement, read)
    )
    assert before == after
    assert after.metrics["soft"] == pytest.approx(0.2)


def test_aggregates_are_of_the_levels_that_were_kept() -> None:
    slo = make_slo(make_bound("hard", 1.0, hard=True, fail_ratio=0.0), levels="filter")
    levels = (make_level(1, hard=0.5, y=1.0), make_level(4, hard=2.0, y=9.0))
    read = stored(Measurement(metrics={"x": 1.0}, levels=levels))
    judgement = evaluate(read.metrics, read.levels, slo, Objective.parse("minimize:x"))
    assert (judgement.dropped, judgement.metrics["y"]) == (("4",), 1.0)
