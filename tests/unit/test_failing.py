"""Failures in words, as the terminal and plugins that write reports take them."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_plan, make_record, make_spec

from pytest_autotune.plugin.failing import Crash, Explanation, verdict
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.summary import Summary

PLAN = make_plan(make_spec(parameters={"a": [1, 2, 3, 4]}))


def summary(*reasons: str, **fields: Any) -> Summary:
    records = [
        make_record(number, outcome=Outcome.FAILED, score=None, reason=reason)
        for number, reason in enumerate(reasons)
    ]
    return Summary(plan=PLAN, records=records, stop=Stop.BUDGET, session="s", capacity=4, **fields)


def test_a_failure_in_words_has_what_others_ask_for() -> None:
    plain = Explanation("all of it")
    assert str(plain) == "all of it"
    assert not hasattr(plain, "reprcrash")
    found = Explanation("all of it", Crash(path="test_x.py", message="in short"))
    report = pytest.TestReport("test_x.py", ("test_x.py", None, ""), {}, "failed", None, "call")
    report.longrepr = found  # type: ignore[assignment]
    assert report.longreprtext == "all of it"
    # pytest-json-report writes these three down.
    assert (found.reprcrash.path, found.reprcrash.lineno) == ("test_x.py", 1)
    assert found.reprcrash.message == "in short"
    assert str(found.reprcrash) == "test_x.py: in short"


def test_a_verdict_begins_with_what_was_wrong() -> None:
    assert list(verdict(summary("boom", "boom", "boom"))) == [
        "every trial failed in the same way",
        "boom",
    ]
    assert list(verdict(summary("boom", "bang"))) == [
        "no trial was feasible",
        "trials: 2 of 4: 0 feasible, 2 failed",
    ]
