"""Slots have ids that depend on nothing but the spec and the options."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_plan, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.plugin.slots import Slot, make_slots, point_id
from pytest_autotune.strategies import make_strategy

json_scalars = st.none() | st.booleans() | st.integers(-9, 99) | st.floats(-1e6, 1e6) | st.text()


def slots_of(parameters: dict[str, Any], *, spares: int = 0, **options: Any) -> list[Slot]:
    plan = make_plan(make_spec(parameters=parameters), **options)
    return make_slots("study", plan, make_strategy(plan.strategy, plan.context), spares)


def test_an_adaptive_study_has_interchangeable_slots() -> None:
    slots = slots_of({"a": list(range(50))}, strategy="random", trials=3)
    assert [slot.id for slot in slots] == ["trial-000", "trial-001", "trial-002"]
    assert [slot.ordinal for slot in slots] == [0, 1, 2]
    assert all(slot.point is None and slot.study == "study" for slot in slots)


def test_there_are_no_more_slots_than_points() -> None:
    assert len(slots_of({"a": [1, 2], "b": [1, 2]}, strategy="bayesian", trials=20)) == 4


def test_a_space_that_cannot_be_listed_has_as_many_slots_as_the_budget() -> None:
    smooth = {"x": {"type": "continuous", "low": 0, "high": 1}}
    assert len(slots_of(smooth, strategy="bayesian", trials=20)) == 20


@pytest.mark.parametrize(
    ("trials", "last"), [(1, "trial-000"), (1000, "trial-999"), (1001, "trial-1000")]
)
def test_ids_sort_as_their_numbers(trials: int, last: str) -> None:
    wide = {"x": {"type": "integer", "low": 1, "high": 10**9}}
    ids = [slot.id for slot in slots_of(wide, strategy="random", trials=trials)]
    assert ids[-1] == last
    assert ids == sorted(ids)


def test_spare_slots_come_last() -> None:
    slots = slots_of({"a": [1, 2]}, strategy="random", spares=3)
    assert [slot.id for slot in slots[2:]] == ["trial-002", "trial-003", "trial-004"]
    assert all(slot.ordinal is None for slot in slots[2:])


def test_a_grid_has_a_slot_for_every_point_with_the_point_in_its_id() -> None:
    slots = slots_of({"tp-size": [1, 2], "mem": [0.7]}, strategy="grid_search", spares=1)
    assert [slot.id for slot in slots] == ["tp-size:1-mem:0.7", "tp-size:2-mem:0.7", "trial-002"]
    assert [slot.point for slot in slots] == [
        {"tp-size": 1, "mem": 0.7},
        {"tp-size": 2, "mem": 0.7},
        None,
    ]
    request = slots[1].request(rerun=True)
    assert (request.id, request.ordinal, request.rerun) == ("tp-size:2-mem:0.7", 1, True)
    assert request.point == {"tp-size": 2, "mem": 0.7}


@pytest.mark.parametrize("strategy", ["bayesian", "grid_search", "random"])
def test_every_process_makes_the_same_slots(strategy: str) -> None:
    parameters = {name: {"type": "integer", "low": 0, "high": 99} for name in "abcd"}
    first, second = (
        [(s.id, s.ordinal, s.point) for s in slots_of(parameters, strategy=strategy, trials=9)]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("point", "id_"),
    [
        ({"a": 1, "b": "x"}, "a:1-b:x"),
        ({"a": "fp8 (e4m3)"}, "a:fp8_e4m3_"),
        ({"a": [1, 2]}, "a:_1_2_"),
        ({"a": "x[y]::z"}, "a:x_y_::z"),
        ({"a": None, "b": True}, "a:null-b:true"),
        ({}, "default"),
    ],
)
def test_a_points_id_can_be_selected(point: dict[str, Any], id_: str) -> None:
    assert point_id(point) == id_


@pytest.mark.parametrize(
    "values",
    [
        ["x y", "x_y", "x+y", "x(y"],
        ["x y", "x_y", "x_y.2"],
        ["x_y.2", "x y", "x_y"],
        [1, "1", 1.0, True, "true"],
        ["", " ", "(", ")"],
        ["ä", "Ä", "a\u0308"],
    ],
)
def test_points_that_look_alike_have_different_ids(values: list[Any]) -> None:
    slots = slots_of({"a": values}, strategy="grid_search", spares=1)
    assert len({slot.id for slot in slots}) == len(values) + 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.lists(json_scalars, min_size=1, max_size=6))
def test_the_ids_of_a_grid_are_unique_and_fit_into_a_node_id(values: list[Any]) -> None:
    slots = slots_of({"a": values, "b": [1, 2]}, strategy="grid_search")
    ids = [slot.id for slot in slots]
    assert len(set(ids)) == len(ids)
    assert not any(character in id_ for id_ in ids for character in "[] \n\t\0")


def test_a_trial_is_named_after_its_number_or_in_a_grid_after_its_point() -> None:
    adaptive = slots_of({"a": list(range(50))}, strategy="random", trials=3, spares=1)
    assert {slot.names.of(2, {"a": 7}) for slot in adaptive} == {"trial-002"}
    assert adaptive[0].names.place({"a": 7}) is None
    grid = slots_of({"a": [1, 2, 3]}, strategy="grid_search", spares=1)
    assert {slot.names.of(0, {"a": 3}) for slot in grid} == {"a:3"}
    assert grid[0].names.place({"a": 3}) == 2
    assert grid[0].names.of(3, {"a": 4}) == "trial-003"


def test_slots_are_compared_by_identity() -> None:
    first, second = (Slot(study="s", id="trial-000", ordinal=0) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
