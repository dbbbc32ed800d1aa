"""The trials of a study as one process has read them: what is new is read, and nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.scoring.references import settled
from pytest_autotune.strategies.seen import SeenPoints
from pytest_autotune.study.adoption import KeptTrials
from pytest_autotune.study.claiming import Numbers
from pytest_autotune.study.documents import LOST, read_trial
from pytest_autotune.study.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class StoredTrials:
    """A study's own trials and those that it keeps.

    The work of a look at a study grows with what happened since the last one. Only where trials
    are kept, measured again or compared with a reference are all of them looked through.

    ``records`` are all trials in the order in which they count, ``current`` has one of them for
    each number, and ``running`` are those of ``current`` that have not ended. ``numbers`` are
    taken, ``points`` are seen. ``done_keys`` are those of points that were finished;
    ``done_numbers`` are of trials that other sessions than ``session`` finished.
    """

    def __init__(self, storage: BaseStorage, plan: Plan, kept: KeptTrials, session: str) -> None:
        self._storage = storage
        self._plan = plan
        self._kept = kept
        self._session = session
        #: The study's own, by their place in it, but for those that were lost.
        self._own: dict[int, TrialRecord] = {}
        self._read_to = 0
        #: The places of trials that run.
        self._open: set[int] = set()
        #: Trials that this process has ended, as it judged them, by their id in the storage.
        self._ended: dict[int, TrialRecord] = {}
        self._noted_kept = 0
        self.records: Sequence[TrialRecord] = ()
        self.current: Sequence[TrialRecord] = ()
        self.running: Sequence[TrialRecord] = ()
        self.numbers = Numbers()
        self.points = SeenPoints()
        self.done_keys: set[str] = set()
        self.done_numbers: set[int] = set()

    def read(self) -> None:
        """Read what changed. The caller holds the study, or lives with what is half new."""
        trials = self._storage.get_all_trials(self._kept.study_id, deepcopy=False)
        for place in [*sorted(self._open), *range(self._read_to, len(trials))]:
            trial = trials[place]
            if LOST in trial.user_attrs:
                continue
            record = self._ended.pop(trial._trial_id, None)  # noqa: SLF001
            self._put(place, read_trial(trial, self._plan) if record is None else record)
        self._read_to = len(trials)
        self.records = self._settled()
        kept = self._kept.known
        for record in kept[self._noted_kept :]:
            self._note(record)
        self._noted_kept = len(kept)
        plain = not kept and len(self.numbers) == len(self._own)
        self.current = self.records if plain else effective(self.records)
        running = [self._own[place] for place in sorted(self._open)]
        if not plain:
            there = {id(record) for record in self.current}
            running = [record for record in running if id(record) in there]
        self.running = running

    def end(self, record: TrialRecord) -> None:
        """Remember a trial as this process has judged it, so that it is not read again."""
        assert record.stored is not None, "it was claimed from the storage"
        self._ended[record.stored] = record

    def _settled(self) -> Sequence[TrialRecord]:
        records = self._kept.with_own(list(self._own.values()))
        if self._plan.question.cases is None:
            return records
        found = settled(records, self._plan.question)
        judged = {record.stored: record for record in found}
        self._own = {place: judged[record.stored] for place, record in self._own.items()}
        return found

    def _put(self, place: int, record: TrialRecord) -> None:
        self._own[place] = record
        if record.finished:
            self._open.discard(place)
        else:
            self._open.add(place)
        self._note(record)

    def _note(self, record: TrialRecord) -> None:
        self.numbers.add(record.number)
        self.points.add(record)
        if record.finished:
            self.done_keys.add(record.key)
            if record.owner.session == self._session:
                self.done_numbers.discard(record.number)
            else:
                self.done_numbers.add(record.number)
