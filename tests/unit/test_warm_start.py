"""A new study tries first what did well before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import ended, make_plan, make_record, make_space, make_spec

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.warm_start import MAX_HINTS, fit, hints

SPACE = {"tile": [16, 32, 64, 128], "layout": ["rows", "columns"]}


def good(number: int, score: float, **params: Any) -> TrialRecord:
    return make_record(number, params=params, outcome=Outcome.FEASIBLE, score=score)


def test_what_is_pinned_comes_before_the_best_of_each_earlier_study() -> None:
    pinned = {"tile": 32, "layout": "rows"}
    latest = [
        good(0, 3.0, tile=16, layout="rows"),
        good(1, 1.0, tile=64, layout="rows"),
        good(2, 2.0, tile=128, layout="rows"),
        make_record(3, params={"tile": 16, "layout": "columns"}, outcome=Outcome.FAILED),
    ]
    oldest = [good(0, 1.0, tile=64, layout="columns"), good(1, 1.5, tile=16, layout="rows")]
    found = hints(make_space(SPACE), [pinned], [latest, oldest])
    assert found == [
        pinned,
        {"tile": 64, "layout": "rows"},
        {"tile": 128, "layout": "rows"},
        {"tile": 64, "layout": "columns"},
    ]
    assert len(found) == MAX_HINTS


def test_the_same_is_not_tried_twice() -> None:
    pinned = {"layout": "rows", "tile": 64}
    assert hints(make_space(SPACE), [pinned], [[good(0, 1.0, tile=64, layout="rows")]]) == [pinned]


def test_what_was_infeasible_is_no_hint() -> None:
    broken = make_record(
        0, params={"tile": 16, "layout": "rows"}, outcome=Outcome.INFEASIBLE, score=1.0
    )
    assert hints(make_space(SPACE), [], [[broken]]) == []


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({"tile": 100, "layout": "rows"}, {"tile": 128, "layout": "rows"}),
        ({"tile": 64}, {"tile": 64, "layout": "rows"}),
        ({"tile": "wide", "layout": "tiles", "gone": 3}, {"tile": 16, "layout": "rows"}),
        ({"tile": 128, "layout": "columns"}, {"tile": 64, "layout": "columns"}),
    ],
)
def test_what_the_space_no_longer_has_is_moved_to_what_is_nearest(
    point: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    space = make_space(SPACE, "layout == 'rows' or tile <= 64")
    assert fit(space, point) == expected


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ({"type": "integer", "low": 2, "high": 10, "step": 2}, 7.2, 8),
        ({"type": "integer", "low": 2, "high": 10}, 99, 10),
        ({"type": "continuous", "low": 0.0, "high": 1.0}, 0.25, 0.25),
        ({"type": "continuous", "low": 0.0, "high": 1.0}, None, 0.0),
        ({"type": "continuous", "low": 0.0, "high": 1.0, "step": 0.25}, 0.6, 0.5),
    ],
)
def test_numbers_are_moved_into_their_range(entry: Any, value: Any, expected: float) -> None:
    assert fit(make_space({"x": entry}), {"x": value}) == {"x": expected}


def run(plan: Plan, directory: Path, trials: int) -> tuple[SearchedStudy, list[Mapping[str, Any]]]:
    """Run a few trials, of which the one with the smallest tile is the fastest."""
    study = SearchedStudy(plan, directory, session="s", started=0.0)
    points = []
    for number in range(trials):
        record = study.claim(SlotRequest(id=f"trial-{number}", ordinal=number))
        assert isinstance(record, TrialRecord)
        points.append(record.params)
        metrics = {"mean_e2e_latency": float(record.params["tile"])}
        study.finish(ended(record, plan, metrics=metrics))
    study.close()
    return study, points


@pytest.mark.parametrize("strategy", ["auto", "bayesian"])
def test_a_changed_study_begins_with_the_best_of_the_one_before(
    tmp_path: Path, strategy: str
) -> None:
    run(make_plan(make_spec(parameters=SPACE), strategy=strategy), tmp_path, 8)
    # The first study could not know of the bound.
    more: dict[str, Any] = {"model": {"id_or_path": "m"}, "slo": [{"metric": "accuracy", "min": 1}]}
    changed = make_plan(make_spec(parameters=SPACE, **more), strategy=strategy)
    study, points = run(changed, tmp_path, 2)
    assert [point["tile"] for point in points] == [16, 16]
    assert "warm start: 2 configurations that did well before came first" in study.notices


def test_the_hints_stay_when_the_study_is_resumed(tmp_path: Path) -> None:
    plan = replace(make_plan(make_spec(parameters=SPACE)), pinned=[{"tile": 64, "layout": "rows"}])
    study, first = run(plan, tmp_path, 1)
    assert first == [{"tile": 64, "layout": "rows"}]
    assert "warm start: a configuration that did well before came first" in study.notices
    moved = replace(plan, pinned=[{"tile": 32, "layout": "rows"}])
    resumed = SearchedStudy(moved, tmp_path, session="t", started=0.0)
    record = resumed.claim(SlotRequest(id="trial-1", ordinal=1))
    assert isinstance(record, TrialRecord)
    assert record.params != {"tile": 32, "layout": "rows"}
    assert resumed.notices == ()
    resumed.close()


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(make_spec(parameters=SPACE, optimization={"warm_start": False})),
        make_plan(make_spec(parameters=SPACE), strategy="random"),
        make_plan(make_spec(parameters=SPACE), fresh=True),
    ],
    ids=["switched-off", "random", "fresh"],
)
def test_a_search_that_goes_by_nothing_has_no_warm_start(plan: Plan, tmp_path: Path) -> None:
    study, _ = run(replace(plan, pinned=[{"tile": 64, "layout": "rows"}]), tmp_path, 1)
    assert not [notice for notice in study.notices if "warm start" in notice]
