"""Trials of related studies that a study takes over, judged by its own question.

They stay where they are stored. The study keeps a list of them, with numbers of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from pytest_autotune.scoring.judgement import UNMEASURED, Ending, decides, judge
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.scoring.references import settled
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.study.catalogue import StoredStudy
from pytest_autotune.study.claiming import Numbers
from pytest_autotune.study.documents import LOST, read_trial, read_trials, stored_trials
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
        #: As many as entries were read; None for a trial that was lost.
        self._read: list[tuple[_Entry, TrialRecord] | None] = []

    def entries(self) -> list[_Entry]:
        """Return the list as it is stored."""
        # As text, since Optuna copies attributes deeply each time that they are read.
        stored = self._storage.get_study_user_attrs(self.study_id).get(_KEPT, "[]")
        return [tuple(entry) for entry in json.loads(stored)]

    def records(self) -> Sequence[TrialRecord]:
        """Return the trials, judged by the study's question."""
        return list(self.each())

    @property
    def known(self) -> Sequence[TrialRecord]:
        """The trials that were read so far."""
        return [read[1] for read in self._read if read is not None]

    def each(self) -> Iterator[TrialRecord]:
        """Yield the trials one by one, read only when they are asked for."""
        yield from (record for _, record in self.each_entry())

    def each_entry(self) -> Iterator[tuple[_Entry, TrialRecord]]:
        """Yield the trials as they are listed, but for those that were lost since."""
        yield from (read for read in self._read if read is not None)
        trials: dict[int, Sequence[FrozenTrial]] = {}
        for entry in self.entries()[len(self._read) :]:
            study_id, place, *_ = entry
            if study_id not in trials:
                trials[study_id] = self._storage.get_all_trials(study_id, deepcopy=False)
            trial = trials[study_id][place]
            if LOST in trial.user_attrs:
                self._read.append(None)
                continue
            yield self._keep(entry, read_trial(trial, self._plan))

    def with_own(self, own: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the kept trials and the study's own, in the order in which they count.

        Of two with one number the later counts: the own one, unless it has no result.
        """
        kept = self.records()
        if not kept:
            return list(own)
        failed = {r.number for r in own if r.finished and r.outcome in UNMEASURED}
        return [
            *(record for record in kept if record.number not in failed),
            *own,
            *(record for record in kept if record.number in failed),
        ]

    def add(self, entries: Sequence[_Entry], records: Iterable[TrialRecord]) -> None:
        """Store more of them, all others having been read."""
        known = json.dumps([*self.entries(), *entries])
        self._storage.set_study_user_attr(self.study_id, _KEPT, known)
        for entry, record in zip(entries, records, strict=True):
            self._keep(entry, record)

    def _keep(self, entry: _Entry, record: TrialRecord) -> tuple[_Entry, TrialRecord]:
        _, _, number, slot, earlier_code = entry
        owner = replace(record.owner, slot=slot, retry_of=None)
        kept = replace(record, number=number, owner=owner, earlier_code=earlier_code)
        self._read.append((entry, kept))
        return entry, kept


def all_records(storage: BaseStorage, plan: Plan, kept: KeptTrials) -> list[TrialRecord]:
    """Return the trials of a study and those that it keeps, by number."""
    own = list(read_trials(storage, plan, kept.study_id))
    found = settled(kept.with_own(own), plan.question)
    return sorted(found, key=lambda record: record.number)


@dataclass(kw_only=True)
class Adoption:
    """The result of looking through related studies.

    ``entries`` and ``records`` are of trials that count from now on. ``estimates`` were cut short
    by another question, so they may be measured again. ``misfits`` is the number of those that
    are not in the space. ``sources`` are the studies that trials were found in.
    """

    entries: list[_Entry] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)
    estimates: list[TrialRecord] = field(default_factory=list)
    misfits: int = 0
    sources: list[StoredStudy] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A trial that might be kept; ``earlier_code`` is whether its code was another.

    ``used`` is when that code was used last, infinite for the present code.
    """

    study: int
    place: int
    record: TrialRecord
    earlier_code: bool
    used: float = math.inf

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sort key: what was measured counts before what failed, and then the latest."""
        record = self.record
        return (record.outcome not in UNMEASURED, self.used, record.owner.started)


def adopt(
    storage: BaseStorage,
    plan: Plan,
    kept: KeptTrials,
    related: Iterable[StoredStudy],
    names: TrialNames,
) -> Adoption:
    """Find every trial of ``related`` that fits the space and answers the question.

    The caller adds them to ``kept``.
    """
    taken = {(study_id, place) for study_id, place, *_ in kept.entries()}
    found = Adoption()
    others = [study for study in related if study.id != kept.study_id]
    others = [study for study in others if _has_more(storage, plan, study, taken)]
    if not others:
        return found
    there = kept.with_own(list(read_trials(storage, plan, kept.study_id)))
    new = [c for c in _candidates(storage, plan, others) if (c.study, c.place) not in taken]
    known = {record.key: record for record in effective(there)}
    used = Numbers(record.number for record in there)
    for candidate in _best_by_point(plan, new, found):
        record, own = candidate.record, known.get(candidate.record.key)
        if own is not None and not _says_more(record, own):
            continue
        if own is None:
            place = names.place(record.params)
            number = used.free(record.number if place is None else place)
        else:
            number = own.number
        used.add(number)
        entry = (candidate.study, candidate.place, number, names.of(number, record.params))
        found.entries.append((*entry, candidate.earlier_code))
        found.records.append(record)
    studies = {study_id for study_id, *_ in found.entries}
    found.sources = [study for study in others if study.id in studies]
    return found


def _best_by_point(
    plan: Plan, candidates: Iterable[_Candidate], found: Adoption
) -> list[_Candidate]:
    """Return one trial for each point, by number; note in ``found`` those that do not count."""
    best: dict[str, _Candidate] = {}
    for candidate in candidates:
        record = candidate.record
        if not fits(plan.spec.space, record.params):
            found.misfits += 1
        elif not decides(record.measurement, plan.question):
            found.estimates.append(_as_estimate(record, plan))
        elif record.key not in best or best[record.key].rank < candidate.rank:
            best[record.key] = candidate
    return sorted(best.values(), key=lambda candidate: candidate.record.number)


def _says_more(record: TrialRecord, own: TrialRecord) -> bool:
    """Return whether a trial takes the place of the study's own one with the same parameters.

    That one failed, was skipped, or was interrupted.
    """
    return not own.finished or (own.outcome in UNMEASURED and record.outcome not in UNMEASURED)


def _candidates(
    storage: BaseStorage, plan: Plan, studies: Iterable[StoredStudy]
) -> Iterator[_Candidate]:
    """Yield the finished trials of studies, and those that they keep although their code changed.

    All others that they keep are trials of related studies, too.
    """
    for study in studies:
        for place, record in _finished(storage, plan, study):
            yield _Candidate(
                study=study.id,
                place=place,
                record=record,
                earlier_code=bool(study.changes),
                used=study.used if study.changes else math.inf,
            )
        kept = KeptTrials(storage, plan, study.id)
        if not any(earlier for *_, earlier in kept.entries()):
            continue
        for (study_id, place, *_, earlier), record in kept.each_entry():
            if earlier:
                yield _Candidate(
                    study=study_id, place=place, record=record, earlier_code=True, used=study.used
                )


def _has_more(
    storage: BaseStorage, plan: Plan, study: StoredStudy, taken: AbstractSet[tuple[int, int]]
) -> bool:
    """Return whether a study has finished trials that are not kept yet."""
    entries = KeptTrials(storage, plan, study.id).entries()
    if any(earlier and (other, place) not in taken for other, place, *_, earlier in entries):
        return True
    return any(
        trial.state.is_finished() and (study.id, trial.number) not in taken
        for trial in stored_trials(storage, study.id)
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
    trials = list(stored_trials(storage, study.id))
    records = [read_trial(trial, plan) for trial in trials]
    current = {id(record) for record in effective(records)}
    for trial, record in zip(trials, records, strict=True):
        if record.finished and id(record) in current:
            yield trial.number, record
