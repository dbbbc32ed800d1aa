"""Parameters that reach nothing are noted; they do not change what is measured."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_spec

from pytest_autotune.plugin.findings import Findings
from pytest_autotune.serving.launch import make_launch
from pytest_autotune.study.unread import no_effect, unread_notes

THREE = {"n": [1, 2], "unused": [1, 2, 3]}
URL = {"url": "http://127.0.0.1:8000"}


def test_a_parameter_that_reached_nothing_is_noted() -> None:
    reached = {"n": True, "unused": False}
    (note,) = unread_notes(make_spec(parameters=THREE), reached)
    assert note == (
        "the parameter 'unused' reached nothing: no test read it; trials that differ only in it "
        "measured the same"
    )
    (note,) = unread_notes(make_spec(parameters=THREE, server=URL), reached)
    assert "no test read it, and the server at http://127.0.0.1:8000 was started by" in note
    (note,) = unread_notes(make_spec(parameters=THREE, server={"command": ["serve"]}), reached)
    assert "no test read it, and no flag of the server used it; trials" in note


def test_where_nothing_reached_anything_the_result_is_doubted() -> None:
    spec = make_spec(parameters=THREE)
    nothing = {"n": False, "unused": False}
    assert no_effect(spec, nothing) == (
        "no parameter reached anything: no test read trial.params; all trials measured the same, "
        "and what is best is chance"
    )
    assert not list(unread_notes(spec, nothing))
    assert "http://127.0.0.1:8000" in no_effect(make_spec(parameters=THREE, server=URL), nothing)
    assert not no_effect(spec, {"n": True, "unused": False})
    assert not no_effect(spec, {})
    assert not no_effect(make_spec(parameters={"n": [1]}), {"n": False})


def test_nothing_is_noted_of_what_is_not_known_or_has_no_choice() -> None:
    conditional = {
        "kind": [1, 2],
        "b": {"type": "categorical", "choices": [1, 2], "when": "kind == 1"},
    }
    spec = make_spec(parameters={**conditional, "one": [5]})
    assert not list(unread_notes(spec, {}))
    # A condition reads its parameter.
    assert not list(unread_notes(spec, {"kind": False, "b": True, "one": False}))


def test_findings_of_all_workers_count() -> None:
    one, other = Findings(), Findings()
    one.add_reached("s", ["a"], complete=["a", "b", "c"])
    other.add_reached("s", ["b", "d"])
    whole = Findings()
    for found in (one, other):
        whole.take_over(Findings.of(found.document()))
    assert whole.reached == {"s": {"a": True, "b": True, "c": False, "d": True}}


@pytest.mark.parametrize(
    ("server", "reached"),
    [
        ({"command": ["serve", "{a}"]}, ["a", "b-c"]),
        ({"command": ["serve"], "flags": {"a": None, "b-c": "-x"}}, ["b-c"]),
        ({"command": ["serve", "{b_c}"], "flags": {"a": None, "b-c": None}}, ["b-c"]),
        (URL, []),
    ],
)
def test_a_server_is_started_with_the_parameters_that_it_is_not_kept_from(
    server: dict[str, Any], reached: list[str]
) -> None:
    spec = make_spec(parameters={"a": [1, 2], "b-c": [1, 2]}, server=server)
    assert spec.server is not None
    params = {"a": 1, "b-c": 2}
    assert make_launch(spec.server, params, spec.layout).reached(params) == reached
