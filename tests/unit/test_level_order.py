"""The level that is likeliest to end a trial, for its time, goes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from builders import make_level, make_record

from pytest_autotune.load.order import Fate, first
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.records import TrialRecord

LEVELS = [Level(concurrency=load, metrics={}) for load in (1, 4, 16)]


def breaks(metrics: Mapping[str, float | None], level: Level) -> bool:
    return metrics["broken"] == 1.0


def trial(number: int, *levels: tuple[int, bool, float], outcome: str = "") -> TrialRecord:
    broken = any(failed for _, failed, _ in levels)
    entries = [
        make_level(load, broken=float(failed), duration=seconds) for load, failed, seconds in levels
    ]
    default = Outcome.INFEASIBLE if broken else Outcome.FEASIBLE
    return make_record(number, outcome=Outcome(outcome) if outcome else default, levels=entries)


def chosen(records: Sequence[TrialRecord]) -> int | None:
    found = first(records, LEVELS, breaks)
    return None if found is None else found.level.concurrency


def broken_at_16(count: int) -> list[TrialRecord]:
    return [trial(n, (1, False, 1.0), (4, False, 1.0), (16, True, 1.0)) for n in range(count)]


def test_three_infeasible_trials_are_needed_to_depart_from_the_lightest() -> None:
    assert chosen([]) is None
    assert chosen(broken_at_16(2)) is None
    assert chosen(broken_at_16(3)) == 16


def test_what_fails_as_often_in_less_time_goes_first() -> None:
    quick = [trial(n, (1, False, 1.0), (4, True, 1.0)) for n in range(3)]
    slow = [trial(n + 3, (1, False, 1.0), (4, False, 1.0), (16, True, 9.0)) for n in range(3)]
    assert chosen([*quick, *slow]) == 4


@pytest.mark.parametrize(
    ("failed", "measured", "seconds", "worth"),
    [(3, 3, 1.0, 0.8), (0, 0, 1.0, 0.5), (0, 8, 2.0, 0.05), (1, 8, 2.0, 0.1)],
)
def test_the_worth_is_the_smoothed_share_for_the_time(
    failed: int, measured: int, seconds: float, worth: float
) -> None:
    fate = Fate(level=LEVELS[0], failed=failed, measured=measured, seconds=seconds)
    assert fate.worth == pytest.approx(worth)


def test_of_equals_the_first_is_taken() -> None:
    assert chosen([trial(n, *((load, True, 1.0) for load in (16, 4, 1))) for n in range(3)]) == 1


def test_where_no_level_failed_nothing_is_known_against_the_lightest() -> None:
    records = [trial(n, (1, False, 9.0), (4, False, 1.0), outcome="infeasible") for n in range(5)]
    assert chosen(records) is None


def test_a_level_that_was_never_measured_does_not_go_first() -> None:
    records = [trial(n, (1, True, 1.0)) for n in range(5)]
    assert chosen(records) == 1


def test_the_usual_time_counts() -> None:
    records = [trial(n, (1, False, 1.0), (4, True, 100.0 if n == 0 else 1.0)) for n in range(5)]
    fate = first(records, LEVELS, breaks)
    assert fate is not None
    assert fate.level.concurrency == 4
    assert (fate.failed, fate.measured, fate.seconds) == (5, 5, 1.0)


def test_what_a_rerun_replaced_or_what_still_runs_does_not_count() -> None:
    records: list[Any] = broken_at_16(3)
    running = make_record(9, outcome=Outcome.RUNNING, levels=records[0].levels)
    rerun = make_record(0, outcome=Outcome.FEASIBLE, retry_of=0)
    assert chosen([*records, running]) == 16
    assert chosen([*records, rerun]) is None
