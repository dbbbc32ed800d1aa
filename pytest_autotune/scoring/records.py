"""Trials as this package sees them: frozen, plain, and told apart by outcome."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.report.text import compliance_rows
from pytest_autotune.scoring.metrics import aggregate, level_label
from pytest_autotune.space.parameters import Point, point_key

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pytest_autotune.scoring.evaluation import Evaluation, Level

#: Keys of Optuna's user attributes.
PARAMS: Final = "autotune:params"
OWNER: Final = "autotune:owner"
RESULT: Final = "autotune:result"


class Outcome(str, enum.Enum):
    """How a trial ended, or that it has not."""

    RUNNING = "running"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    PRUNED = "pruned"


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

    def document(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "process": self.process,
            "session": self.session,
            "slot": self.slot,
            "attempt": self.attempt,
            "retry_of": self.retry_of,
            "started": self.started,
        }


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a study.

    ``value`` has the user's sign and no penalty; ``score`` is canonical, lower is better,
    penalties included. ``violation`` is by how much hard bounds are broken. ``duration`` is
    in seconds. ``slo`` has one plain mapping per bound, ``notes`` one sentence each on how it
    was measured. ``estimate`` is what is known of the objective of a trial that was pruned, with
    the user's sign.
    """

    number: int
    params: Point
    outcome: Outcome
    owner: Owner
    metric: str | None = None
    value: float | None = None
    score: float | None = None
    violation: float = 0.0
    penalty: float = 0.0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    levels: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[str] = ()
    slo: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    reason: str = ""
    duration: float | None = None
    estimate: float | None = None

    @cached_property
    def key(self) -> str:
        """Identity of the parameters."""
        return point_key(self.params)

    @property
    def finished(self) -> bool:
        """Whether the trial ran to an end, any end."""
        return self.outcome is not Outcome.RUNNING

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: feasible by score, then infeasible by amount, then everything else."""
        if self.outcome is Outcome.FEASIBLE and self.score is not None:
            return (0, self.score)
        if self.outcome is Outcome.INFEASIBLE:
            return (1, self.violation)
        return (2, math.inf)

    @classmethod
    def from_optuna(cls, trial: FrozenTrial) -> TrialRecord:
        """Read a trial back from storage; raise KeyError where it is none of ours."""
        result: Mapping[str, Any] = trial.user_attrs.get(RESULT, {})
        # The result is written before the state: without the state it does not count.
        done = trial.state.is_finished()
        common = {
            "number": trial.number,
            "params": json.loads(trial.user_attrs[PARAMS]),
            "owner": Owner(**trial.user_attrs[OWNER]),
        }
        if not done:
            return cls(outcome=Outcome.RUNNING, **common)
        return cls(outcome=Outcome(result.get("outcome", "failed")), **common, **expanded(result))


def result_document(  # noqa: PLR0913 - all that is known of a trial
    outcome: Outcome,
    *,
    evaluation: Evaluation | None,
    levels: Sequence[Level],
    reason: str,
    duration: float,
    notes: Sequence[str] = (),
    estimate: float | None = None,
) -> dict[str, Any]:
    """Return what is stored of a finished trial, as plain and finite JSON types."""
    document: dict[str, Any] = {"outcome": outcome.value, "duration": round(duration, 6)}
    if reason:
        document["reason"] = reason
    if notes:
        document["notes"] = list(notes)
    if estimate is not None and math.isfinite(estimate):
        document["estimate"] = float(estimate)
    if levels:
        document["levels"] = [level.document() for level in levels]
        # One list per metric, as the names would be most of what is stored.
        document["level_metrics"] = {
            name: [_finite(level.metrics.get(name, math.nan)) for level in levels]
            for name in dict.fromkeys(name for level in levels for name in level.metrics)
        }
    if evaluation is None:
        return document
    return document | {
        "metric": evaluation.metric,
        "value": evaluation.value,
        "score": evaluation.score,
        "violation": evaluation.compliance.violation,
        "penalty": evaluation.compliance.penalty,
        "metrics": {
            name: _finite(value)
            for name, value in evaluation.metrics.items()
            if name not in evaluation.aggregates
        },
        "dropped": list(evaluation.dropped),
        "slo": compliance_rows(evaluation.compliance),
    }


def expanded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record: what was stored, and the aggregates of its levels."""
    fields = {
        key: value for key, value in document.items() if key not in {"outcome", "level_metrics"}
    }
    columns: Mapping[str, Sequence[float | None]] = document.get("level_metrics", {})
    if columns:
        fields["levels"] = [
            {**level, "metrics": {name: values[at] for name, values in columns.items()}}
            for at, level in enumerate(document["levels"])
        ]
    if "metrics" in fields:
        dropped = set(document.get("dropped", ()))
        kept = [
            {name: math.nan if v is None else v for name, v in level["metrics"].items()}
            for level in fields.get("levels", ())
            if level_label(level) not in dropped
        ]
        merged = aggregate(kept) if kept else {}
        finite = {name: _finite(value) for name, value in merged.items()}
        fields["metrics"] = {**finite, **fields["metrics"]}
    return fields


def _finite(value: float) -> float | None:
    """Replace NaN and infinity, which JSON does not know, by None."""
    return value if math.isfinite(value) else None


def incumbent(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best feasible trial, the earliest of equals, or None."""
    feasible = [record for record in records if record.rank[0] == 0]
    return min(feasible, key=lambda record: (record.rank, record.number), default=None)


def effective(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Leave out trials that a later, finished re-run of the same parameters replaced."""
    replaced = {r.owner.retry_of for r in records if r.finished}
    return [record for record in records if record.number not in replaced]
