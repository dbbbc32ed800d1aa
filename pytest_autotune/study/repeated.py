"""The same failure again and again: a mistake in the tests or the spec, not in a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import Severity
from pytest_autotune.study.trial_line import broken_bounds, first_line

#: After so many equal failures, and no other end of a trial, a study stops.
LIMIT: Final = 3
#: The note of a run that begins anew after one that stopped so.
IN_VAIN: Final = "the trials of the last run all failed in the same way: others came first"
#: Parts of a message that differ between trials: addresses, paths, numbers, and constants.
_VARYING: Final = re.compile(
    r"\b0x[0-9a-f]+\b | (?:[\w.~-]+)?(?:/[\w.@~-]+)+/? | \d+(?:\.\d+)?(?:e[+-]?\d+)?"
    r" | \b(?:True|False|None|nan|inf)\b",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Trials that failed in the same way; ``reason`` is that of the first."""

    reason: str
    trials: Sequence[TrialRecord]


def failure(record: TrialRecord) -> str:
    """Return in a line why a trial has no result, nothing where it has one.

    A bound that cannot be judged is no result either: nobody reported its metric.
    """
    if record.outcome is Outcome.FAILED:
        return first_line(record.reason)
    if record.outcome is Outcome.INFEASIBLE and any(
        result.severity is Severity.MISSING for result in record.bounds
    ):
        return broken_bounds(record).removeprefix("infeasible: ")
    return ""


def failures(records: Sequence[TrialRecord]) -> list[Failures]:
    """Return the trials without a result by what went wrong, the most frequent first."""
    groups: dict[str, list[TrialRecord]] = {}
    for record in records:
        reason = failure(record)
        if reason:
            groups.setdefault(_masked(reason, record), []).append(record)
    found = [Failures(reason=failure(group[0]), trials=group) for group in groups.values()]
    return sorted(found, key=lambda group: -len(group.trials))


def repeated_failure(records: Sequence[TrialRecord]) -> Failures | None:
    """Return the failure of the first trials that ended, if it is one and nothing else worked."""
    finished = []
    for record in records:
        if record.finished and record.outcome is not Outcome.SKIPPED:
            if not failure(record):
                # As a rule the very first, so this takes no longer in a large study.
                return None
            finished.append(record)
    if len(finished) < LIMIT:
        return None
    finished.sort(key=_end)
    first = failures(finished[:LIMIT])
    if len(first) > 1:
        return None
    same = _masked(first[0].reason, first[0].trials[0])
    return next(
        group for group in failures(finished) if _masked(group.reason, group.trials[0]) == same
    )


def ended_in_vain(records: Sequence[TrialRecord], session: str) -> bool:
    """Return whether earlier runs left nothing but one failure, which ``session`` is to repeat.

    A session that took part in it has stopped because of it.
    """
    here = any(record.finished and record.owner.session == session for record in records)
    return not here and repeated_failure(records) is not None


def _end(record: TrialRecord) -> float:
    return record.owner.started + (record.duration or 0.0)


def _masked(reason: str, record: TrialRecord) -> str:
    """Return a reason without what differs between trials."""
    words = [value for value in record.params.values() if isinstance(value, str) and value]
    if words:
        named = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        reason = re.sub(rf"(?<!\w)(?:{named})(?!\w)", "#", reason)
    return " ".join(_VARYING.sub("#", reason).split())
