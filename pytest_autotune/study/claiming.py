"""The trial that a slot stands for, the number of a new one, and the reason to begin none."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.space.parameters import point_key
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop
from pytest_autotune.study.repeated import repeated_failure


def trial_of(slot: SlotRequest, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the trial that a slot stands for: with its point, or else with its number."""
    if slot.point is not None:
        key = point_key(slot.point)
        return next((record for record in records if record.key == key), None)
    return next((record for record in records if record.number == slot.ordinal), None)


class Numbers(set[int]):
    """Numbers of trials that are taken. None is ever given back."""

    _below = 0

    def free(self, wanted: int | None) -> int:
        """Return ``wanted`` if it is not taken, else the lowest number that is not."""
        if wanted is not None and wanted not in self:
            return wanted
        while self._below in self:
            self._below += 1
        return self._below


def why_stop(
    plan: Plan, current: Sequence[TrialRecord], *, running: int, started: float
) -> Stop | None:
    """Return why a run that began at ``started`` begins no further trial, None if it may.

    That is on the monotonic clock. So many of the ``current`` trials are ``running``.
    """
    if len(current) - running >= plan.budget:
        return Stop.BUDGET
    if plan.timeout is not None and time.monotonic() - started >= plan.timeout:
        return Stop.TIMEOUT
    if plan.patience is not None and _since_improvement(current) >= plan.patience:
        return Stop.PATIENCE
    return None


def why_over(
    plan: Plan, records: Sequence[TrialRecord], started: float, capacity: int
) -> Stop | None:
    """Return why no slot gets a trial any more, None where one may.

    ``capacity`` is how many trials the study can have.
    """
    current = effective(records)
    if not all(record.finished for record in current):
        return None
    if repeated_failure(current) is not None:
        return Stop.SAME_FAILURE
    stop = why_stop(plan, current, running=0, started=started)
    return Stop.EXHAUSTED if stop is None and len(current) >= capacity else stop


def _since_improvement(current: Sequence[TrialRecord]) -> int:
    """Count the finished trials after the one that last improved on all before it.

    Trials that their tests skipped do not count.
    """
    best: tuple[int, float] = (2, float("inf"))
    since = 0
    for record in current:
        if not record.finished:
            continue
        since += record.outcome is not Outcome.SKIPPED
        if record.rank < best:
            best, since = record.rank, 0
    return since
