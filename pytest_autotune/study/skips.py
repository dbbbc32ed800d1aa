"""Trials that their tests skipped, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord


def skip_notes(trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield a sentence on the trials that were skipped, with the reasons."""
    reasons = Counter(r.reason for r in trials if r.outcome is Outcome.SKIPPED)
    if not reasons:
        return
    total = sum(reasons.values())
    count = "a trial was" if total == 1 else f"{total} trials were"
    why = "; ".join(
        reason if number == total else f"{reason} ({number})"
        for reason, number in reasons.most_common()
    )
    yield (
        f"{count} skipped by the tests: {why} (what constraints leave out does not count towards "
        "the budget)"
    )


def mark_note(test: str, reason: str) -> str:
    """Return a sentence on a test that a mark skips: the trials count without it."""
    return f"{test} took no part, as a mark skips it ({reason}): no trial was checked by it"
