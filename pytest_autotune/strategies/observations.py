"""A history as arrays that a model can be fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import MAX_SCORE, SLO, Bound
from pytest_autotune.space.pool import FloatArray

#: A trial this many times worse than the best feasible one is as bad as can be, and one so many
#: times better, but infeasible, as good. Few spaces have more, so the models see which of two bad
#: trials is worse. How much that counts is a matter of their scale.
_RANGE: Final = 1e4
#: A bound broken by this factor is as broken as can be.
_MAX_LOG_RATIO: Final = math.log(50.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Observations:
    """All finished trials in the order of their numbers, and the running ones.

    ``loss``, shape (trials,), is the objective on a logarithmic scale where it has one sign,
    lower is better, and NaN where unknown. ``signals`` has an array of that shape for each hard
    bound of the SLO: the logarithm of the metric over what is allowed at most (upside down for a
    minimum). So zero or less is feasible; NaN where it was not measured. ``feasible`` and
    ``failed`` have the same shape; what is infeasible and no signal says why has failed, too.
    """

    records: Sequence[TrialRecord]
    pending: Sequence[TrialRecord]
    loss: FloatArray
    failed: npt.NDArray[np.bool_]
    feasible: npt.NDArray[np.bool_]
    signals: Sequence[FloatArray]

    @property
    def targets(self) -> Sequence[FloatArray]:
        """The loss, and every signal: the targets of one model each."""
        return [self.loss, *self.signals]

    @classmethod
    def of(cls, records: Sequence[TrialRecord], slo: SLO, objective: Objective) -> Observations:
        """Read them from the records of a study."""
        finished = [record for record in records if record.finished]
        signals = [_signal(finished, bound) for bound in slo.bounds if bound.hard]
        explained = np.zeros(len(finished), dtype=bool)
        for signal in signals:
            explained |= signal > 0
        # Where tests skip a point, there is as little to gain as where they fail.
        failed = _having(finished, Outcome.FAILED) | _having(finished, Outcome.SKIPPED)
        return cls(
            records=finished,
            pending=[record for record in records if not record.finished],
            loss=_losses(finished, objective),
            failed=failed | (_having(finished, Outcome.INFEASIBLE) & ~explained),
            feasible=_having(finished, Outcome.FEASIBLE),
            signals=signals,
        )


def _having(records: Sequence[TrialRecord], outcome: Outcome) -> npt.NDArray[np.bool_]:
    return np.array([record.outcome is outcome for record in records], dtype=bool)


def _losses(records: Sequence[TrialRecord], objective: Objective) -> FloatArray:
    """Return the canonical scores on a scale on which a model can be fitted.

    Times and rates differ by factors, so their logarithm counts. What was given up early counts
    as what it had reached, or as an average trial where that is not known: it is no winner.
    """
    scores = np.array([_score(record, objective) for record in records], dtype=np.float64)
    known = scores[np.isfinite(scores)]
    if not len(known):
        return scores
    feasible = scores[np.isfinite(scores) & _having(records, Outcome.FEASIBLE)]
    best = float((feasible if len(feasible) else known).min())
    losses: FloatArray
    if best > 0:
        losses = np.log(np.maximum(scores / best, 1 / _RANGE))
    elif best < 0 and objective.maximize:
        losses = -np.log(np.maximum(scores / best, 1 / _RANGE))
    else:
        # Of both signs: only differences count.
        losses = (scores - best) / (float(np.median(np.abs(known - best))) or 1.0)
    losses = losses.clip(-math.log(_RANGE), math.log(_RANGE))
    middle = float(np.nanmedian(losses))
    losses[_having(records, Outcome.PRUNED) & np.isnan(losses)] = middle
    return losses


def _score(record: TrialRecord, objective: Objective) -> float:
    if record.outcome is Outcome.FEASIBLE and record.score is not None:
        return record.score if abs(record.score) < MAX_SCORE else math.nan
    value = record.judgement.absolute
    if record.outcome is Outcome.INFEASIBLE and value is not None:
        # Without penalties: that it breaks a bound is told by the bound's own signal.
        return objective.score(value)
    if record.outcome is Outcome.PRUNED and record.estimate is not None:
        return objective.score(record.estimate)
    return math.nan


def _signal(records: Sequence[TrialRecord], bound: Bound) -> FloatArray:
    slack = bound.fail_ratio * abs(bound.threshold)
    # The value of the metric at which a trial becomes infeasible.
    allowed = bound.threshold + slack if bound.upper else bound.threshold - slack
    found = np.full(len(records), np.nan)
    for at, record in enumerate(records):
        actual = next((r.actual for r in record.bounds if r.bound.label == bound.label), None)
        if actual is not None:
            found[at] = _log_ratio(actual, allowed, upper=bound.upper)
    return found


def _log_ratio(actual: float, allowed: float, *, upper: bool) -> float:
    if allowed > 0:
        ratio = math.log(actual / allowed) if actual > 0 else -_MAX_LOG_RATIO
    else:
        ratio = (actual - allowed) / (abs(allowed) or 1.0)
    return min(max(ratio if upper else -ratio, -_MAX_LOG_RATIO), _MAX_LOG_RATIO)
