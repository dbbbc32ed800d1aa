"""Studies in which every trial failed in the same way: a later run begins anew, with others.

What failed is a corner of the space, or the tests: nobody knows before something else was tried.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.space.parameters import Point
from pytest_autotune.strategies import History, Strategy
from pytest_autotune.study.adoption import KeptTrials
from pytest_autotune.study.catalogue import Found
from pytest_autotune.study.documents import read_trials
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.repeated import ended_in_vain, failure

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_LATER: Final = "autotune:later"


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


def put_off(storage: BaseStorage, plan: Plan, study_id: int, vain: Sequence[int]) -> None:
    """Store that a study tries other points before those that failed in ``vain`` studies."""
    keys = {record.key for other in vain for record in _records(storage, plan, other)}
    storage.set_study_user_attr(study_id, _LATER, sorted(keys))


def put_off_points(storage: BaseStorage, study_id: int) -> frozenset[str]:
    """Return the keys of the points that a study tries later."""
    return frozenset(storage.get_study_user_attrs(study_id).get(_LATER, ()))


def open_to_others(slot: SlotRequest, later: Collection[str]) -> SlotRequest:
    """Return a request for any point of a grid, where the order of its points was changed."""
    own = slot.point is None or slot.exact or slot.rerun or slot.left_out
    return slot if own or not later else replace(slot, point=None)


def propose(
    strategy: Strategy, history: History, later: frozenset[str], seed: Sequence[int]
) -> Point | None:
    """Return the next point: one that failed in vain only once something works, or none is left."""
    works = any(map(_has_result, history.records))
    point = None
    if later and not works:
        point = strategy.propose(replace(history, later=later), seed)
    return strategy.propose(history, seed) if point is None else point


def _only_failures(storage: BaseStorage, plan: Plan, study_id: int) -> list[TrialRecord] | None:
    """Return the trials of a study, None as soon as one of them has a result."""
    found = []
    for record in _records(storage, plan, study_id):
        if _has_result(record):
            return None
        found.append(record)
    return found


def _records(storage: BaseStorage, plan: Plan, study_id: int) -> Iterator[TrialRecord]:
    yield from read_trials(storage, plan, study_id)
    yield from KeptTrials(storage, plan, study_id).each()


def _has_result(record: TrialRecord) -> bool:
    return record.finished and record.outcome is not Outcome.SKIPPED and not failure(record)
