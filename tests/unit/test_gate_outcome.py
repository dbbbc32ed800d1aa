"""What the gate found travels as plain types, and reads as sentences."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, Final

import pytest

from pytest_autotune.gate.compare.comparison import Comparison, GatedMetric, MetricResult, Verdict
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.report.gate import (
    gate_lines,
    headline,
    percent,
    ratio_text,
    result_text,
    verdict_text,
)

TIME: Final = GatedMetric(name="p50_e2e_latency")
RATE: Final = GatedMetric(name="output_throughput", maximize=True)
REGRESSED: Final = MetricResult(
    metric=TIME, verdict=Verdict.REGRESSED, old=0.00474, new=0.00522, ratio=1.101, low=1.093,
    high=1.108, confidence=0.9,
)  # fmt: skip
PASSED: Final = replace(REGRESSED, verdict=Verdict.PASSED, new=0.00475, ratio=1.002, low=0.99,
                        high=1.01)  # fmt: skip
UNDECIDED: Final = replace(PASSED, verdict=Verdict.INCONCLUSIVE, ratio=1.025, remaining=5)
NO_RATIO: Final = replace(
    UNDECIDED, ratio=math.nan, low=0.0, high=math.inf, remaining=None, old=0.0, new=1.0,
    reason="it was 0",
)  # fmt: skip


def outcome(judgement: Any = "regressed", *results: MetricResult, **fields: Any) -> GateOutcome:
    known: dict[str, Any] = {
        "study": "test_it.py (study)",
        "mode": "revision",
        "against": 'main = 1a2b3c "Faster"',
        "parameters": {"tile": 8, "kernel": "a"},
        "pairs": 9,
        "seconds": 5.2,
        "tolerance": 0.03,
        "results": results,
    }
    return GateOutcome(judgement=judgement, **{**known, **fields})


def lines(found: GateOutcome) -> list[tuple[str, str]]:
    return [(line.head, line.text) for line in gate_lines(found)]


# --- the outcome -----------------------------------------------------------------------------


def test_a_comparison_has_an_outcome() -> None:
    comparison = Comparison(
        results=[UNDECIDED, NO_RATIO, replace(NO_RATIO, metric=RATE)], pairs=10, seconds=20.0,
        stopped="the time was up", notes=["seen"],
    )  # fmt: skip
    found = GateOutcome.of(comparison, study="s", mode="baseline", notes=["first"], tolerance=0.1)
    assert (found.judgement, found.study, found.mode) == ("inconclusive", "s", "baseline")
    assert (found.pairs, found.seconds, found.remaining) == (10, 20.0, 10.0)
    # Each reason once.
    assert found.reason == "it was 0; the time was up"
    assert list(found.notes) == ["first", "seen"]
    assert found.tolerance == 0.1
    assert list(found.results) == comparison.results


@pytest.mark.parametrize(
    ("judgement", "fails", "undecided"),
    [
        ("passed", False, False),
        ("improved", False, False),
        ("regressed", True, False),
        ("failed", True, False),
        ("inconclusive", False, True),
        ("skipped", False, True),
    ],
)
def test_a_judgement_fails_the_run_or_a_strict_one(
    judgement: str,
    fails: bool,  # noqa: FBT001
    undecided: bool,  # noqa: FBT001
) -> None:
    found = outcome(judgement)
    assert (found.fails, found.undecided) == (fails, undecided)


def test_notes_are_added_once() -> None:
    found = outcome(notes=("a", "b")).with_notes(["b", "c", "c"])
    assert found.notes == ("a", "b", "c")
    assert found.with_notes(()) == found


def same(one: object, other: object) -> bool:
    """Compare as equal what is no number on either side."""
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    "result",
    [
        REGRESSED,
        PASSED,
        UNDECIDED,
        replace(UNDECIDED, low=0.0, high=math.inf),
        replace(PASSED, metric=RATE),
        NO_RATIO,
    ],
)
def test_an_outcome_survives_its_way_through_json(result: MetricResult) -> None:
    found = outcome(
        result.verdict.value, result, notes=("a",), changed={"tile": 4}, remaining=3.5,
        details="line\nline", reason="why",
    )  # fmt: skip
    # As JSON's own standard has it, which knows no infinity.
    text = json.dumps(found.document(), allow_nan=False)
    back = GateOutcome.from_document(json.loads(text))
    assert same(back.results, found.results)
    assert isinstance(back.results[0].verdict, Verdict)
    assert same(replace(back, results=(), notes=()), replace(found, results=(), notes=()))
    assert list(back.notes) == ["a"]
    assert same(back.document(), found.document())


def test_an_outcome_without_results_survives_too() -> None:
    found = GateOutcome(study="s", judgement="failed", mode="none", reason="it crashed")
    back = GateOutcome.from_document(json.loads(json.dumps(found.document(), allow_nan=False)))
    assert back.document() == found.document()


# --- in words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "text"), [(0.03, "3 %"), (0.005, "0.5 %"), (0.12345, "12.3 %"), (1.5, "150 %")]
)
def test_shares_are_written_as_people_do(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (REGRESSED, "×1.101 (90 %: 1.093 to 1.108)"),
        (replace(REGRESSED, low=0.0), "×1.101 (90 %: below 1.108)"),
        (replace(REGRESSED, high=math.inf), "×1.101 (90 %: above 1.093)"),
        (replace(REGRESSED, low=0.0, high=math.inf), "×1.101"),
        (replace(REGRESSED, confidence=0.0), "×1.101 (launches: 1.093 to 1.108)"),
        (replace(REGRESSED, confidence=1 - 2 * 0.05), "×1.101 (90 %: 1.093 to 1.108)"),
        # Not more than there is.
        (replace(REGRESSED, confidence=0.998), "×1.101 (99.8 %: 1.093 to 1.108)"),
        (NO_RATIO, "no ratio"),
    ],
)
def test_a_ratio_is_shown_with_its_interval(result: MetricResult, text: str) -> None:
    assert ratio_text(result) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1.2, 1.3, "×0.800 (90 %: 0.769 to 0.833)"),
        (0.0, 1.3, "×0.800 (90 %: above 0.769)"),
        (1.2, math.inf, "×0.800 (90 %: below 0.833)"),
        (0.0, math.inf, "×0.800"),
    ],
)
def test_of_what_is_to_be_much_new_by_old_is_shown(low: float, high: float, text: str) -> None:
    # Kept is how many times worse it got; before and after stand beside it.
    found = replace(REGRESSED, metric=RATE, old=100.0, new=80.0, ratio=1.25, low=low, high=high)
    assert ratio_text(found) == text
    assert result_text(found, 0.03) == (
        f"output_throughput 100 → 80, {text}: worse by more than 3 %"
    )


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (REGRESSED, "worse by more than 3 %"),
        (PASSED, "not worse by 3 %"),
        (replace(PASSED, verdict=Verdict.IMPROVED), "better by more than 3 %"),
        (UNDECIDED, "undecided: seems worse by 2.5 %, tolerated are 3 %"),
        (replace(UNDECIDED, ratio=0.9), "undecided: seems better by 10 %, tolerated are 3 %"),
        (NO_RATIO, "undecided"),
    ],
)
def test_a_verdict_is_said_in_words(result: MetricResult, text: str) -> None:
    assert verdict_text(result, 0.03) == text


def test_a_headline_is_about_the_metric_that_decided() -> None:
    passed = replace(PASSED, metric=RATE)
    assert headline(outcome("regressed", passed, REGRESSED)) == (
        "regressed: p50_e2e_latency 4.74 ms → 5.22 ms, ×1.101 (90 %: 1.093 to 1.108): "
        "worse by more than 3 %"
    )
    assert headline(outcome("passed", passed, PASSED)).startswith("passed: output_throughput")
    assert headline(outcome("failed", reason="it crashed")) == "failed: it crashed"


def test_a_regression_is_told_from_all_sides() -> None:
    found = outcome("regressed", PASSED, REGRESSED, notes=("numpy 1 → numpy 2",),
                    changed={"tile": 4, "kernel": "a"})  # fmt: skip
    assert lines(found) == [
        ("gate", "REGRESSED"),
        ("", result_text(PASSED, 0.03)),
        ("", result_text(REGRESSED, 0.03)),
        ("pinned", "tile=8 kernel=a"),
        ("", "in the old revision: tile=4 kernel=a"),
        ("against", 'main = 1a2b3c "Faster", 9 pairs of launches in 5.2 s'),
        ("note", "numpy 1 → numpy 2"),
    ]
    assert [line.tone for line in gate_lines(found)][:3] == ["bad", "good", "bad"]


def test_what_passed_says_no_more_than_needed() -> None:
    found = outcome("passed", PASSED, mode="baseline", against="what was locked on 2026-01-31")
    assert lines(found) == [
        ("gate", "passed"),
        ("", result_text(PASSED, 0.03)),
        ("pinned", "tile=8 kernel=a"),
        ("against", "what was locked on 2026-01-31, 9 launches in 5.2 s"),
    ]


def test_an_improvement_comes_with_a_hint_to_pin_it() -> None:
    better = replace(PASSED, verdict=Verdict.IMPROVED, ratio=0.8)
    found = outcome("improved", better)
    assert lines(found)[0] == ("gate", "improved")
    assert lines(found)[-1] == (
        "hint", "to pin what is there now: pytest --autotune --autotune-lock",
    )  # fmt: skip
    assert "hint" not in dict(lines(outcome("passed", PASSED)))


def test_what_is_inconclusive_says_why_and_how_much_longer_it_would_take() -> None:
    found = outcome("inconclusive", UNDECIDED, reason="27 launches of each were not enough",
                    remaining=75.0)  # fmt: skip
    assert lines(found) == [
        ("gate", "inconclusive"),
        ("", result_text(UNDECIDED, 0.03)),
        ("pinned", "tile=8 kernel=a"),
        ("against", 'main = 1a2b3c "Faster", 9 pairs of launches in 5.2 s'),
        ("because", "27 launches of each were not enough"),
        ("", "about 1 min 15 s more would probably decide it (gate.max_launches)"),
    ]
    assert {line.tone for line in gate_lines(found)} == {"note", "plain"}
    assert "more would decide" not in str(lines(replace(found, remaining=None)))
    assert "more would decide" not in str(lines(replace(found, judgement="regressed")))


def test_what_was_skipped_says_why_in_its_first_line() -> None:
    found = outcome("skipped", mode="none", against="", pairs=0, reason="nothing to compare with")
    assert lines(found) == [
        ("gate", "skipped: nothing to compare with"),
        ("pinned", "tile=8 kernel=a"),
    ]


def test_what_failed_shows_what_was_said() -> None:
    found = outcome("failed", pairs=0, reason="its process ended with signal 9",
                    details="first\nsecond")  # fmt: skip
    assert lines(found) == [
        ("gate", "FAILED: its process ended with signal 9"),
        ("pinned", "tile=8 kernel=a"),
        ("against", 'main = 1a2b3c "Faster"'),
        ("said", "first"),
        ("", "second"),
    ]
    assert next(gate_lines(found)).tone == "bad"
    assert headline(found) == "failed: its process ended with signal 9"
