"""The order of levels: first the one that is likeliest to end the trial, for its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.records import TrialRecord, effective

#: So many infeasible trials must have been measured before anything but the lightest goes first.
MIN_INFEASIBLE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """A level's record in earlier trials: ``failed`` of ``measured``, ``seconds`` each."""

    level: Level
    failed: int
    measured: int
    seconds: float

    @property
    def worth(self) -> float:
        """Failures to expect per second of measuring, by Laplace's rule of succession."""
        return (self.failed + 1) / (self.measured + 2) / max(self.seconds, 1e-9)


def fates(
    records: Sequence[TrialRecord],
    levels: Sequence[Level],
    breaks: Callable[[Metrics, Level], bool],
) -> list[Fate]:
    """Return the records of those of ``levels`` that were ever measured.

    ``breaks`` returns whether a level's metrics break a hard bound. None are returned before
    enough trials were infeasible.
    """
    past = [record for record in effective(records) if record.finished and record.levels]
    infeasible = sum(record.outcome is Outcome.INFEASIBLE for record in past)
    if infeasible < MIN_INFEASIBLE:
        return []
    found = []
    for level in levels:
        seen = [m for record in past for m in _metrics_of(record, level)]
        seconds = [m["duration"] for m in seen if "duration" in m]
        if seconds:
            failed = sum(breaks(metrics, level) for metrics in seen)
            found.append(
                Fate(level=level, failed=failed, measured=len(seen), seconds=median(seconds))
            )
    return found


def first(found: Sequence[Fate]) -> Fate | None:
    """Return the level to begin with: the one of most worth, the earliest of equals.

    None where no level ever failed: then the lightest is as good as any.
    """
    if not any(fate.failed for fate in found):
        return None
    return max(found, key=lambda fate: fate.worth)


def _metrics_of(record: TrialRecord, level: Level) -> list[Metrics]:
    return [entry.metrics for entry in record.levels if entry.identity == level.identity]
