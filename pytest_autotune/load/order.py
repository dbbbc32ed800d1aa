"""The order of levels: first the one that is likeliest to end the trial, for its time."""

from __future__ import annotations

import math
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


def first(
    records: Sequence[TrialRecord],
    levels: Sequence[Level],
    breaks: Callable[[Metrics, Level], bool],
) -> Fate | None:
    """Return the level to begin with: the one of most worth, the earliest of equals.

    ``breaks`` returns whether a level's metrics break a hard bound. None before enough trials were
    infeasible, or where no level ever failed: then the lightest is as good as any.
    """
    past = [record for record in effective(records) if record.finished and record.levels]
    infeasible = sum(record.outcome is Outcome.INFEASIBLE for record in past)
    if infeasible < MIN_INFEASIBLE:
        return None
    found = []
    for level in levels:
        entries = [entry for record in past for entry in record.levels]
        seen = [entry.metrics for entry in entries if entry.identity == level.identity]
        seconds = [m["duration"] for m in seen if math.isfinite(m.get("duration", math.nan))]
        if seconds:
            failed = sum(breaks(metrics, level) for metrics in seen)
            found.append(
                Fate(level=level, failed=failed, measured=len(seen), seconds=median(seconds))
            )
    if not any(fate.failed for fate in found):
        return None
    return max(found, key=lambda fate: fate.worth)
