"""Trials of related studies that a study takes over, judged by its own question.

They stay where they are stored. The study keeps a list of them, with numbers of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from pytest_autotune.scoring.judgement import Ending, decides, judge
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.study.catalogue import StoredStudy
from pytest_autotune.study.claiming import lowest_free
from pytest_autotune.study.documents import read_trial
from pytest_autotune.study.names import TrialNames
from pytest_autotune.study.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_KEPT: Final = "autotune:kept"
#: Study, place in it, number and slot in the study that keeps it, whether its code was another.
_Entry: TypeAlias = tuple[int, int, int, str, bool]


class KeptTrials:
    """The trials that a study took over, as far as one process has read them."""

    def __init__(self, storage: BaseStorage, plan: Plan, study_id: int) -> None:
        self._storage = storage
        self._plan = plan
        self.study_id = study_id
        self._records: list[TrialRecord] = []

    def entries(self) -> list[_Entry]:
        """Return the list as it is stored."""
        # As text, since Optuna copies attributes deeply each time that they are read.
        stored = self._storage.get_study_user_attrs(self.study_id).get(_KEPT, "[]")
        return [tuple(entry) for entry in json.loads(stored)]

    def records(self) -> Sequence[TrialRecord]:
        """Return the trials, judged by the study's question."""
        return list(self.each())

    def each(self) -> Iterator[TrialRecord]:
        """Yield the trials one by one, read only when they are asked for."""
        yield from self._records
        trials: dict[int, Sequence[FrozenTrial]] = {}
        for entry in self.entries()[len(self._records) :]:
            study_id, place, *_ = entry
            if study_id not in trials:
                trials[study_id] = self._storage.get_all_trials(study_id, deepcopy=False)
            self._keep(entry, read_trial(trials[study_id][place], self._plan))
            yield self._records[-1]

    def add(self, entries: Sequence[_Entry], records: Iterable[TrialRecord]) -> None:
        """Store more of them, all others having been read."""
        known = json.dumps([*self.entries(), *entries])
        self._storage.set_study_user_attr(self.study_id, _KEPT, known)
        for entry, record in zip(entries, records, strict=True):
            self._keep(entry, record)

    def _keep(self, entry: _Entry, record: TrialRecord) -> None:
        _, _, number, slot, earlier_code = entry
        owner = replace(record.owner, slot=slot, retry_of=None)
        self._records.append(replace(record, number=number, owner=owner, earlier_code=earlier_code))


@dataclass(kw_only=True)
class Adoption:
    """The result of looking through related studies.

    ``kept`` are trials that count from now on. ``estimates`` were cut short by another question,
    so they may be measured again. ``misfits`` is the number of those that are not in the space.
    """

    kept: list[tuple[StoredStudy, int, TrialRecord]] = field(default_factory=list)
    estimates: list[TrialRecord] = field(default_factory=list)
    misfits: int = 0


def adopt(
    storage: BaseStorage,
    plan: Plan,
    kept: KeptTrials,
    related: Iterable[StoredStudy],
    names: TrialNames,
) -> Adoption:
    """Add every trial of ``related`` to ``kept`` that fits the space and answers the question."""
    taken = {(study_id, place) for study_id, place, *_ in kept.entries()}
    found = Adoption()
    others = [study for study in related if study.id != kept.study_id]
    others = [study for study in others if _has_more(storage, study, taken)]
    if not others:
        return found
    there = [*_trials(storage, plan, kept.study_id), *kept.records()]
    keys = {record.key for record in there if record.finished}
    # Of several measurements of a point, the one of the study that was used last counts.
    for study in sorted(others, key=lambda study: (study.used, study.id), reverse=True):
        for place, record in _finished(storage, plan, study):
            if (study.id, place) in taken or record.key in keys:
                continue
            if not fits(plan.spec.space, record.params):
                found.misfits += 1
            elif decides(record.measurement, plan.question):
                found.kept.append((study, place, record))
                keys.add(record.key)
            else:
                found.estimates.append(_as_estimate(record, plan))
    found.kept.sort(key=lambda entry: entry[2].owner.started)
    used = {record.number for record in there}
    entries: list[_Entry] = []
    for study, place, record in found.kept:
        number = lowest_free(names.place(record.params), used)
        used.add(number)
        slot = names.of(number, record.params)
        entries.append((study.id, place, number, slot, bool(study.changes)))
    if entries:
        kept.add(entries, [record for _, _, record in found.kept])
    return found


def _has_more(
    storage: BaseStorage, study: StoredStudy, taken: AbstractSet[tuple[int, int]]
) -> bool:
    """Return whether a study has finished trials that are not kept yet."""
    trials = storage.get_all_trials(study.id, deepcopy=False)
    return any(
        trial.state.is_finished() and (study.id, place) not in taken
        for place, trial in enumerate(trials)
    )


def _as_estimate(record: TrialRecord, plan: Plan) -> TrialRecord:
    """Return a trial that another question cut short as one that was pruned."""
    estimate = record.value if record.estimate is None else record.estimate
    measurement = replace(record.measurement, ending=Ending.PRUNED, estimate=estimate)
    judgement = judge(measurement, plan.question)
    return replace(record, measurement=measurement, judgement=judgement)


def fits(space: Space, point: Point) -> bool:
    """Return whether ``point`` is one of ``space``, value by value."""
    return space.is_valid(point) and all(
        parameter.contains(point[parameter.name])
        for parameter in space.parameters
        if parameter.name in point
    )


def _finished(
    storage: BaseStorage, plan: Plan, study: StoredStudy
) -> Iterator[tuple[int, TrialRecord]]:
    """Yield the place and the record of each finished trial that no later one replaced."""
    records = _trials(storage, plan, study.id)
    current = {id(record) for record in effective(records)}
    for place, record in enumerate(records):
        if record.finished and id(record) in current:
            yield place, record


def _trials(storage: BaseStorage, plan: Plan, study_id: int) -> list[TrialRecord]:
    return [read_trial(t, plan) for t in storage.get_all_trials(study_id, deepcopy=False)]
