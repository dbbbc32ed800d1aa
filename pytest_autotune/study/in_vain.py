"""Studies in which every trial failed in the same way: a later run begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.study.adoption import KeptTrials
from pytest_autotune.study.catalogue import Found
from pytest_autotune.study.documents import read_trial
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.repeated import ended_in_vain, failure

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def without_vain(storage: BaseStorage, plan: Plan, found: Found, session: str) -> Found:
    """Return the studies of ``found`` without those whose trials do not count.

    They count if they are judged to have a result by the question of ``plan``: a metric that was
    misspelled, for one. Those that ``session`` took part in count, as it stops because of them.
    """
    failed = {study.id: _only_failures(storage, plan, study.id) for study in found.usable}
    vain = {
        study_id
        for study_id, records in failed.items()
        if records is not None and ended_in_vain(effective(records), session)
    }
    # The same failure may have stopped a study that kept the trials of several.
    left = [failed[study.id] for study in found.usable if study.id not in vain]
    together = [record for records in left if records is not None for record in records]
    if None not in left and ended_in_vain(together, session):
        vain = set(failed)
    if not vain:
        return found
    own = found.own
    return replace(
        found,
        related=[study for study in found.related if study.id not in vain],
        usable=[study for study in found.usable if study.id not in vain],
        own=None if own is not None and own.id in vain else own,
    )


def _only_failures(storage: BaseStorage, plan: Plan, study_id: int) -> list[TrialRecord] | None:
    """Return the trials of a study, None as soon as one of them has a result."""
    found = []
    for record in _records(storage, plan, study_id):
        if record.finished and record.outcome is not Outcome.SKIPPED and not failure(record):
            return None
        found.append(record)
    return found


def _records(storage: BaseStorage, plan: Plan, study_id: int) -> Iterator[TrialRecord]:
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        yield read_trial(trial, plan)
    yield from KeptTrials(storage, plan, study_id).each()
