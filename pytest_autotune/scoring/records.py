"""Trials: what was measured of each, and the judgement on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from pytest_autotune.scoring.judgement import Judgement, Measurement, Outcome
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.slo import BoundResult
from pytest_autotune.space.parameters import Point, point_key

_RUNNING: Final = Judgement(outcome=Outcome.RUNNING)
_UNMEASURED: Final = Measurement()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that runs a trial.

    ``process`` names a lock that lives exactly as long as the process, and is empty once it
    gave the trial back; ``session`` is shared by all workers of one pytest run; ``attempt``
    counts the processes that began it; ``started`` is in seconds since the epoch.
    """

    process: str
    session: str
    slot: str
    attempt: int = 1
    retry_of: int | None = None
    started: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a study: its parameters, the measurement, and the judgement on it.

    ``number`` counts the trials of a study from 0, and is part of its tests' ids; a trial that
    is measured again keeps it. A trial that still runs has neither a measurement nor a
    judgement. ``stored`` is its id in the storage, None where it is not in there.
    ``earlier_code`` is whether the code changed since, and the trial was kept all the same.
    """

    number: int
    params: Point
    owner: Owner
    measurement: Measurement = _UNMEASURED
    judgement: Judgement = _RUNNING
    stored: int | None = field(default=None, compare=False, repr=False)
    earlier_code: bool = False

    @cached_property
    def key(self) -> str:
        """Identity of the parameters."""
        return point_key(self.params)

    def anew(self) -> TrialRecord:
        """Return the trial as it was before it ran."""
        return TrialRecord(number=self.number, params=self.params, owner=self.owner)

    @property
    def outcome(self) -> Outcome:
        """The judgement in a word, or that the trial still runs."""
        return self.judgement.outcome

    @property
    def finished(self) -> bool:
        """True once the trial ran to an end, any end."""
        return self.outcome is not Outcome.RUNNING

    @property
    def metric(self) -> str | None:
        """The metric that the objective looked at, None where there was none."""
        return self.judgement.metric

    @property
    def value(self) -> float | None:
        """The objective's value with the user's sign and without penalty."""
        return self.judgement.value

    @property
    def score(self) -> float | None:
        """The canonical score: lower is better, penalties included."""
        return self.judgement.score

    @property
    def violation(self) -> float:
        """The sum of the ratios by which hard bounds are broken, 0 if feasible."""
        return self.judgement.compliance.violation

    @property
    def penalty(self) -> float:
        """The sum of the soft penalties, as a share of the objective's magnitude."""
        return self.judgement.compliance.penalty

    @property
    def metrics(self) -> Metrics:
        """All metrics that were judged: reported ones, and the aggregates of the levels."""
        return self.judgement.metrics

    @property
    def dropped(self) -> tuple[str, ...]:
        """Labels of the levels that ``slo.levels: filter`` left out."""
        return self.judgement.dropped

    @property
    def bounds(self) -> tuple[BoundResult, ...]:
        """The bounds of the SLO, each where it fared worst."""
        return self.judgement.compliance.results

    @property
    def reason(self) -> str:
        """Why the trial failed or was pruned, empty otherwise."""
        return self.judgement.reason

    @property
    def levels(self) -> tuple[Level, ...]:
        """The load levels that were measured, lightest first; not those of combined cases."""
        found = self.measurement
        return found.every_level if self.judgement.cases is None else found.levels

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the trial was measured."""
        return self.measurement.notes

    @property
    def duration(self) -> float | None:
        """Length of the trial in seconds, None where it is unknown."""
        return self.measurement.duration

    @property
    def estimate(self) -> float | None:
        """The objective of a pruned trial as far as it is known, with the user's sign."""
        return self.measurement.estimate

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: feasible by score, then infeasible by amount, then everything else."""
        if self.outcome is Outcome.FEASIBLE and self.score is not None:
            return (0, self.score)
        if self.outcome is Outcome.INFEASIBLE:
            return (1, self.violation)
        return (2, math.inf)


def incumbent(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best feasible trial, the earliest of equals, or None."""
    feasible = [record for record in records if record.rank[0] == 0]
    return min(feasible, key=lambda record: (record.rank, record.number), default=None)


def effective(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return one record for each number: the last that is finished, or the last of all."""
    latest: dict[int, TrialRecord] = {}
    for record in records:
        known = latest.get(record.number)
        if known is None or record.finished or not known.finished:
            latest[record.number] = record
    return [record for record in records if latest[record.number] is record]
