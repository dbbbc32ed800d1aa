"""Studies in storage: the one that a plan goes on with, and hints from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.judgement import Question, judge, reported_slo
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.references import referenced, settled
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.documents import read_trial
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.storage import (
    Store,
    journal_exists,
    masked_url,
    open_database,
    open_journal,
)
from pytest_autotune.text.values import slug

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Version of what is stored; trials of another one are left alone, and never misread.
_FORMAT: Final = 2
_KEY: Final = "autotune:key"
_SESSION: Final = "autotune:session"
_CODE: Final = "autotune:code"
HINTS: Final = "autotune:hints"
#: Strategies that try hints first, as plugins need not.
_GUIDED: Final = ("auto", "bayesian")
_STALE: Final = (
    "the test module changed since this study began, and earlier trials were kept; "
    "if they no longer hold, start anew with --autotune-fresh"
)


def read_records(plan: Plan, directory: Path) -> list[TrialRecord]:
    """Return the trials of ``plan``'s latest study by number, re-runs included.

    Without making one or taking part in it.
    """
    if not plan.storage and not journal_exists(directory, slug(plan.label)):
        return []
    store = open_store(plan, directory)
    try:
        with store.coordinator.mutex(), storage_errors(plan):
            wanted = _key_of(plan)
            existing = [
                study_id for study_id, key in _studies(store.storage, plan) if key == wanted
            ]
            trials = store.storage.get_all_trials(existing[-1], deepcopy=False) if existing else []
            found = [read_trial(trial, plan) for trial in trials]
            found = settled(found, plan.question)
            return sorted(found, key=lambda record: record.number)
    finally:
        store.close()


def open_store(plan: Plan, directory: Path) -> Store:
    """Return the storage that ``plan`` names, or its journal under ``directory``."""
    if plan.storage:
        return open_database(plan.storage, plan.label)
    return open_journal(directory, slug(plan.label))


def find_or_create(storage: BaseStorage, plan: Plan, session: str) -> tuple[int, Sequence[str]]:
    """Return the id of the plan's study and, where it is new, notices on that."""
    key = _key_of(plan)
    base = f"{plan.label} #{_digest(key)}"
    mine = _studies(storage, plan)
    same = [study_id for study_id, known in mine if known == key]
    if same:
        attributes = storage.get_study_user_attrs(same[-1])
        if not plan.fresh or attributes.get(_SESSION) == session:
            return same[-1], () if attributes.get(_CODE) == plan.code else (_STALE,)
    from optuna.study import StudyDirection

    direction = StudyDirection.MAXIMIZE if plan.objective.maximize else StudyDirection.MINIMIZE
    name = f"{base}.{len(same) + 1}" if same else base
    study_id = storage.create_new_study([direction], name)
    storage.set_study_user_attr(study_id, _KEY, key)
    storage.set_study_user_attr(study_id, _SESSION, session)
    storage.set_study_user_attr(study_id, _CODE, plan.code)
    notices = []
    if mine and not same:
        changes = ", ".join(_changes(mine[-1][1], key))
        notices.append(f"a new study was started, because this changed: {changes}")
    # What was best under another objective says little of this one.
    wanted = (key["objective"], _FORMAT)
    alike = [study for study, old in mine if (old["objective"], old.get("format")) == wanted]
    found = _hints(storage, plan, alike)
    if found:
        storage.set_study_user_attr(study_id, HINTS, [dict(point) for point in found])
        count = "a configuration" if len(found) == 1 else f"{len(found)} configurations"
        if plan.strategy in _GUIDED:
            notices.append(f"warm start: {count} that did well before came first")
    return study_id, notices


def _hints(storage: BaseStorage, plan: Plan, earlier: Sequence[int]) -> Sequence[Point]:
    """Return points that a new study may try first; none where it is to start anew."""
    if not plan.begins_warm:
        return ()
    # Here, as it loads NumPy, and a launch of the gate searches nothing.
    from pytest_autotune.study.warm_start import hints

    return hints(plan.spec.space, plan.pinned, _trials_of(storage, plan, reversed(earlier)))


def _trials_of(
    storage: BaseStorage, plan: Plan, studies: Iterable[int]
) -> Iterator[Sequence[TrialRecord]]:
    """Read the trials of other studies, as far as they are asked for."""
    for study_id in studies:
        try:
            found = storage.get_all_trials(study_id, deepcopy=False)
            records = [read_trial(trial, plan) for trial in found]
            question = referenced(plan.question, records)
            yield [_by_what_it_measured(record, question) for record in records]
        except StorageError:
            continue  # It was only a help.


def _by_what_it_measured(record: TrialRecord, question: Question) -> TrialRecord:
    """Return a trial judged by those bounds only that an earlier study could know of."""
    measurement = record.measurement
    slo = reported_slo(measurement, question.slo)
    judgement = judge(measurement, replace(question, slo=slo))
    return replace(record, judgement=judgement) if record.finished else record


def _studies(storage: BaseStorage, plan: Plan) -> list[tuple[int, Mapping[str, Any]]]:
    """Return id and key of every study under the plan's label, oldest first."""
    return sorted(
        (
            (study._study_id, study.user_attrs[_KEY])  # noqa: SLF001
            for study in storage.get_all_studies()
            if study.study_name.startswith(f"{plan.label} #") and _KEY in study.user_attrs
        ),
        key=lambda entry: entry[0],
    )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of parts that differ between two keys, with their entries."""
    changed: list[str] = []
    for part in after:
        old, new = before.get(part), after[part]
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = [k for k in {**old, **new} if old.get(k) != new.get(k)]
            changed.append(f"{part} ({', '.join(inner)})")
        else:
            changed.append(part)
    return changed


@contextmanager
def storage_errors(plan: Plan) -> Iterator[None]:
    """Turn a failure of the database into one message, without the URL's password."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, OSError) as error:
        where = masked_url(plan.storage) if plan.storage else "the trial log"
        raise StorageError(f"{where} cannot be read or written: {error}") from None


def _key_of(plan: Plan) -> Mapping[str, Any]:
    return {**plan.key(), "format": _FORMAT}


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
