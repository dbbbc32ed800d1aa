"""Trials as they lie in Optuna's storage: plain JSON, written once and read back exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Ending, Measurement, Question, judge
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.scoring.records import Owner, TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: Keys of Optuna's user attributes.
_PARAMS: Final = "autotune:params"
OWNER: Final = "autotune:owner"
_NUMBER: Final = "autotune:number"
MEASUREMENT: Final = "autotune:measurement"
#: Of one that only stands for a trial which was lost in a damaged journal.
LOST: Final = "autotune:lost"
_CONSTRAINT: Final = "slo"


def new_trial(plan: Plan, number: int, point: Point, owner: Owner) -> FrozenTrial:
    """Return a running trial with its number and parameters, to be created in one write."""
    from optuna.trial import TrialState, create_trial

    active = [p for p in plan.spec.space.parameters if p.name in point]
    return create_trial(
        state=TrialState.RUNNING,
        params={p.name: p.storable(point[p.name]) for p in active},
        distributions={p.name: p.distribution() for p in active},
        # The exact values; Optuna's own would turn lists into text and 1.0 into 1.
        user_attrs={_NUMBER: number, _PARAMS: json.dumps(dict(point)), OWNER: asdict(owner)},
    )


def read_trial(trial: FrozenTrial, plan: Plan) -> TrialRecord:
    """Return a stored trial, judged by the question of ``plan``.

    Raises :class:`StorageError` where it is none of ours.
    """
    try:
        return _record(trial, plan.question)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"trial {trial.number} of study {plan.label!r} cannot be read ({error!r}); "
            "start anew with --autotune-fresh"
        ) from None


def stored_trials(storage: BaseStorage, study_id: int) -> Iterator[FrozenTrial]:
    """Yield a study's own trials in the order they began, without those that were lost."""
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        if LOST not in trial.user_attrs:
            yield trial


def read_trials(storage: BaseStorage, plan: Plan, study_id: int) -> Iterator[TrialRecord]:
    """Yield a study's own trials in the order they began, read only when they are asked for."""
    for trial in stored_trials(storage, study_id):
        yield read_trial(trial, plan)


def _record(trial: FrozenTrial, question: Question) -> TrialRecord:
    number: int = trial.user_attrs.get(_NUMBER, trial.number)
    params = json.loads(trial.user_attrs[_PARAMS])
    owner = Owner(**trial.user_attrs[OWNER])
    stored = trial._trial_id  # noqa: SLF001 - Optuna offers no public name for it
    # The measurement is written before the state: without the state it does not count.
    if not trial.state.is_finished():
        return TrialRecord(number=number, params=params, owner=owner, stored=stored)
    document = trial.user_attrs.get(MEASUREMENT, {"ending": Ending.FAILED.value})
    measurement = read_measurement(document)
    return TrialRecord(
        number=number,
        stored=stored,
        params=params,
        owner=owner,
        measurement=measurement,
        judgement=judge(measurement, question),
    )


def measurement_document(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as plain and finite JSON types."""
    found = {
        "ending": measurement.ending.value,
        **_reported(measurement.outside),
        "cases": [
            {"name": case.name, **_filled({**_reported(case), "missing": list(case.missing)})}
            for case in measurement.cases
        ],
        "notes": list(measurement.notes),
        "disturbances": list(measurement.disturbances),
        "reason": measurement.reason,
        "estimate": measurement.estimate,
        "partial": measurement.partial or None,
        "duration": measurement.duration,
    }
    return _filled(found)


def _reported(case: Case) -> dict[str, Any]:
    levels = case.levels
    failures = [level.failure for level in levels]
    return {
        "metrics": _numbers(case.metrics),
        "levels": [level.document() for level in levels],
        # One list per metric, as the names would be most of what is stored.
        "level_metrics": {
            name: [
                _number(level.metrics[name]) if name in level.metrics else None for level in levels
            ]
            for name in dict.fromkeys(name for level in levels for name in level.metrics)
        },
        "level_failures": failures if any(failures) else [],
    }


def _filled(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value not in (None, "", [], (), {})}


def read_measurement(document: Mapping[str, Any]) -> Measurement:
    """Return the measurement that :func:`measurement_document` wrote."""
    outside = _read_case(document, "")
    return Measurement(
        ending=Ending(document["ending"]),
        metrics=outside.metrics,
        levels=outside.levels,
        cases=tuple(_read_case(case, case["name"]) for case in document.get("cases", ())),
        notes=tuple(document.get("notes", ())),
        disturbances=tuple(document.get("disturbances", ())),
        reason=document.get("reason", ""),
        estimate=document.get("estimate"),
        partial=document.get("partial", False),
        duration=document.get("duration"),
    )


def _read_case(document: Mapping[str, Any], name: str) -> Case:
    columns: Mapping[str, Sequence[float | str | None]] = document.get("level_metrics", {})
    levels = document.get("levels", ())
    failures = document.get("level_failures") or [""] * len(levels)
    return Case(
        name=name,
        metrics={name: float(value) for name, value in document.get("metrics", {}).items()},
        levels=tuple(
            Level(
                **level,
                failure=failures[at],
                metrics={
                    name: float(value)
                    for name, values in columns.items()
                    if (value := values[at]) is not None
                },
            )
            for at, level in enumerate(levels)
        ),
        missing=tuple(document.get("missing", ())),
    )


def _numbers(metrics: Metrics) -> dict[str, float | str]:
    return {name: _number(value) for name, value in metrics.items()}


def _number(value: float) -> float | str:
    """Write NaN and infinity, which JSON does not know, as the text that ``float`` reads."""
    return value if math.isfinite(value) else str(value)


def constraint_attribute(amount: float) -> tuple[str, float]:
    """Return the system attribute under which Optuna finds a trial's constraint, and its value."""
    from optuna.trial import TrialState, create_trial

    carrier = create_trial(state=TrialState.RUNNING)
    carrier.set_constraint(_CONSTRAINT, amount)
    ((key, value),) = carrier.system_attrs.items()
    return key, value
