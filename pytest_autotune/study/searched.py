"""A searched study: trials claimed one at a time, finished exactly once, resumable after any kill.

Everything that matters is in the storage. A trial is created in one write, with its parameters,
and finished by its state, written last; so whatever moment a process dies at, a trial is either
finished or can be seen to be orphaned and is run again under its own number.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import TrialLostError
from pytest_autotune.scoring.judgement import (
    UNMEASURED,
    Outcome,
    Question,
    stored_value,
)
from pytest_autotune.scoring.records import Owner, TrialRecord, effective
from pytest_autotune.scoring.references import referenced
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.strategies import ExtensionLookup, History, make_strategy
from pytest_autotune.study.adoption import KeptTrials, all_records, fits
from pytest_autotune.study.all_failed import open_to_others, propose, put_off_points
from pytest_autotune.study.catalogue import add_code, open_store, storage_errors
from pytest_autotune.study.claiming import trial_of, why_stop
from pytest_autotune.study.code import Digests
from pytest_autotune.study.documents import (
    MEASUREMENT,
    OWNER,
    constraint_attribute,
    measurement_document,
    new_trial,
)
from pytest_autotune.study.looks import Look
from pytest_autotune.study.names import NUMBERED, TrialNames
from pytest_autotune.study.opening import open_study
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import Claim, SlotRequest, Stop, Study, Wait
from pytest_autotune.study.repeated import repeated_failure
from pytest_autotune.study.stored_trials import StoredTrials
from pytest_autotune.system.interrupts import uninterrupted

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class SearchedStudy(Study):
    """One study in storage, as one process works on it."""

    def __init__(  # noqa: PLR0913 - made by OpenStudies
        self,
        plan: Plan,
        directory: Path,
        *,
        session: str,
        started: float,
        extension: ExtensionLookup | None = None,
        names: TrialNames = NUMBERED,
    ) -> None:
        """Open the study of ``plan``, making it where there is none.

        ``directory`` holds the journals; ``session`` is one id for all processes of a pytest
        run that began at ``started`` (on this process's monotonic clock). ``names`` are those of
        trials. Raises :class:`StorageError`.
        """
        self._store = open_store(plan, directory)
        self._storage: BaseStorage = self._store.storage
        with self._store.coordinator.mutex(), storage_errors(plan):
            opened = open_study(self._storage, plan, session, names)
            self._later = put_off_points(self._storage, opened.id)
        self.id = opened.id
        self.plan = plan
        self.seed = plan.seed
        self.notices = (*self._store.notices, *opened.notices)
        self._trials = StoredTrials(self._storage, plan, opened.kept, session)
        self._code = opened.code
        self._estimates = opened.estimates
        self._earlier_id = opened.earlier
        self._session = session
        self._started = started
        self._process = uuid.uuid4().hex
        context = replace(plan.context, hints=opened.hints)
        self._strategy = make_strategy(plan.strategy, context, extension)
        #: Trials that this process took and has neither finished nor given back, as stored.
        self._mine: dict[int, TrialRecord] = {}
        self._looks: list[TrialRecord] = []
        with self._store.coordinator.mutex():
            # Together, as a lock that is just being made looks like one that was left.
            self._store.coordinator.sweep()
            self._store.coordinator.hold(self._process)

    def leave(self) -> None:
        """Leave what this process has not finished to a later session."""
        for record in list(self._mine.values()):
            self.give_back(record)

    def close(self) -> None:
        """Give up everything this process holds; its unfinished trial becomes an orphan."""
        self._store.close()

    def records(self) -> list[TrialRecord]:
        """Return all trials in the order they began, re-runs included; kept ones come first."""
        with uninterrupted():
            self._trials.read()
        return list(self._trials.records)

    def question(self, record: TrialRecord) -> Question:
        """Return the question for a trial that was just measured, which may be the first."""
        question = self.plan.question
        if question.cases is None:
            return question
        others = [other for other in self.records() if other.number != record.number]
        return referenced(question, [*others, record])

    def claim(self, slot: SlotRequest) -> Claim:
        """Take the next trial for ``slot``: an orphan, its own point, or a new proposal."""
        slot = open_to_others(slot, self._later)
        if not slot.rerun and not slot.left_out and self._is_done_before(slot):
            return Stop.DONE_BEFORE
        with self._store.coordinator.mutex(), storage_errors(self.plan):
            self._trials.read()
            if slot.left_out:
                return self._look(slot)
            previous = trial_of(slot, self._trials.current) if slot.rerun else None
            if previous is not None and previous.finished:
                if previous.outcome in UNMEASURED:
                    return self._create(slot, previous.number, previous.params, is_retry=True)
                return self._look(slot)
            if slot.rerun or slot.exact:
                return self._claim_again(slot)
            return self._claim_next(slot)

    def _claim_again(self, slot: SlotRequest) -> Claim:
        """Take the parameters that this slot had before the code changed, if they are new here."""
        trials, earlier = self._trials, trial_of(slot, self._earlier)
        if earlier is None or slot.ordinal in trials.numbers or earlier.key in trials.points.keys:
            return self._claim_next(slot)
        return self._create(slot, trials.numbers.free(earlier.number), earlier.params)

    @cached_property
    def _earlier(self) -> Sequence[TrialRecord]:
        """The trials of the study's space that were measured before the code changed."""
        if self._earlier_id is None:
            return ()
        found = all_records(
            self._storage, self.plan, KeptTrials(self._storage, self.plan, self._earlier_id)
        )
        return [record for record in effective(found) if fits(self.plan.spec.space, record.params)]

    def is_done(self, slot: SlotRequest) -> bool:
        """Return whether the trial of ``slot`` was finished by an earlier session."""
        with self._store.coordinator.mutex(), storage_errors(self.plan):
            self._trials.read()
        return self._is_done_before(slot)

    def _look(self, slot: SlotRequest) -> Claim:
        """Return a look at the trial of ``slot``, or at one that might become it."""
        found = trial_of(slot, self._trials.current) or trial_of(slot, self._earlier)
        if found is None and slot.point is None and slot.ordinal is None:
            return Stop.DONE_BEFORE  # A spare slot stands for no trial.
        point, proposed = slot.point, False
        if found is not None:
            point = found.params
        elif point is None:
            seen = [*self._trials.current, *self._looks]
            point = self._strategy.propose(History(records=seen), [self.plan.seed, len(seen)])
            proposed = True
        if point is None:
            return Stop.DONE_BEFORE
        place = slot.names.place(point) if slot.ordinal is None else slot.ordinal
        number = (place or 0) if found is None else found.number
        owner = self._owner(slot, number, point)
        record = TrialRecord(number=number, params=point, owner=owner)
        if proposed:
            # So that the next look is at another one.
            self._looks.append(record)
        return Look(record=record, left_out=slot.left_out, proposed=proposed)

    def _claim_next(self, slot: SlotRequest) -> Claim:
        trials, current = self._trials, self._trials.current
        if self._is_done_before(slot) or self._runs_elsewhere(slot):
            return Stop.DONE_BEFORE
        if repeated_failure(current) is not None:
            # One that still runs may do better.
            return self._wait_or(Stop.SAME_FAILURE)
        running = len(trials.running)
        stop = why_stop(self.plan, current, running=running, started=self._started)
        if stop is not None:
            return stop
        orphan = self._reclaim(slot)
        if orphan is not None:
            return orphan
        if len(current) >= self.plan.budget:
            return self._wait_or(Stop.BUDGET)
        if slot.exact and (slot.ordinal is None or trial_of(slot, current) is not None):
            return self._wait_or(Stop.DONE_BEFORE)
        point = slot.point
        if point is None:
            seed = [self.plan.seed, len(trials.records)]
            history = History(records=current, estimates=self._estimates, known=trials.points)
            point = propose(self._strategy, history, self._later, seed)
        if point is None:
            return self._wait_or(Stop.EXHAUSTED)
        place = slot.names.place(point)
        number = trials.numbers.free(slot.ordinal if place is None else place)
        return self._create(slot, number, point)

    def finish(self, record: TrialRecord) -> None:
        """Store a claimed trial that is now measured and judged.

        Raises :class:`TrialLostError` where another process took it over meanwhile.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        judgement, state, values = record.judgement, TrialState.FAIL, None
        if record.outcome in {Outcome.FEASIBLE, Outcome.INFEASIBLE}:
            state = TrialState.COMPLETE
            values = [stored_value(judgement, self.plan.objective)]
        elif record.outcome is Outcome.PRUNED:
            state = TrialState.PRUNED
        with self._store.coordinator.own(), storage_errors(self.plan):
            self._require_mine(record)
            trial_id = _stored(record)
            document = measurement_document(record.measurement)
            try:
                self._storage.set_trial_user_attr(trial_id, MEASUREMENT, document)
                if judgement.constraint is not None:
                    key, amount = constraint_attribute(judgement.constraint)
                    self._storage.set_trial_system_attr(trial_id, key, amount)
                self._storage.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                raise _lost(record) from None
            self._trials.end(record)
            self._mine.pop(trial_id, None)

    def again(self, record: TrialRecord) -> TrialRecord:
        """Begin a finished trial anew, as another attempt at one of its tests is made.

        The earlier result stands until this one is finished.
        """
        with self._store.coordinator.mutex(), storage_errors(self.plan):
            owner = replace(record.owner, retry_of=record.number, started=time.time())
            return self._add(record.number, record.params, owner)

    def note_code(self, files: Digests, parts: Digests) -> None:
        """Record the code that a trial is measured with, before the trial itself.

        ``files`` are digests of imported files by path, ``parts`` are those of the server.
        """
        known = self._code
        if known is not None and not known.has(files, parts):
            with self._store.coordinator.mutex(), storage_errors(self.plan):
                self._code = add_code(self._storage, self.id, known, files, parts)

    def give_back(self, record: TrialRecord) -> None:
        """Leave an unfinished trial to a later session, without counting this attempt.

        Nothing happens where its end is stored, or where another process has it.
        """
        with self._store.coordinator.mutex(), storage_errors(self.plan):
            self._mine.pop(_stored(record), None)
            with suppress(TrialLostError):
                self._require_mine(record)
                owner = replace(record.owner, process="", attempt=record.owner.attempt - 1)
                self._set_owner(record, owner)

    def _require_mine(self, record: TrialRecord) -> None:
        trial = self._storage.get_trial(_stored(record))
        owner = trial.user_attrs[OWNER]
        if trial.state.is_finished() or owner["process"] != self._process:
            raise _lost(record)

    def _is_done_before(self, slot: SlotRequest) -> bool:
        """Return whether the trial of this slot is known to be finished.

        An adaptive slot stands for the trial of an earlier session that has its number.
        """
        if slot.point is not None:
            return point_key(slot.point) in self._trials.done_keys
        return slot.ordinal in self._trials.done_numbers

    def _runs_elsewhere(self, slot: SlotRequest) -> bool:
        if slot.point is None:
            return False
        key = point_key(slot.point)
        return any(r.key == key and not self._is_orphan(r) for r in self._trials.running)

    def _wait_or(self, stop: Stop) -> Wait | Stop:
        """Wait while a sibling of this session runs a trial that could still come free."""
        running = any(
            r.owner.session == self._session
            and r.owner.process not in ("", self._process)  # not given back, not ours
            for r in self._trials.running
        )
        return Wait() if running else stop

    def _is_orphan(self, record: TrialRecord) -> bool:
        owner = record.owner
        if record.finished or owner.process == self._process:
            return False
        if not owner.process:
            # Given back by a session that was stopped: that session must not go on with it.
            return owner.session != self._session
        return not self._store.coordinator.is_alive(owner.process)

    def _reclaim(self, slot: SlotRequest) -> TrialRecord | None:
        """Take over a trial whose process died: the slot's own one, if it is among them."""
        from optuna.exceptions import UpdateFinishedTrialError

        orphans = [record for record in self._trials.running if self._is_orphan(record)]
        found = trial_of(slot, orphans)
        if slot.exact:
            # Any other only if it was begun in this run, as then it was selected, too.
            orphans = [record for record in orphans if record.owner.session == self._session]
        if found is None and slot.point is None and orphans:
            found = orphans[0]
        if found is None:
            return None
        owner = self._owner(
            slot, found.number, found.params,
            attempt=found.owner.attempt + 1, retry_of=found.owner.retry_of,
        )  # fmt: skip
        try:
            self._set_owner(found, owner)
        except UpdateFinishedTrialError:
            # Its process ended it, and then left, after this one had read it as running.
            self._trials.read()
            return self._reclaim(slot)
        return self._taken(replace(found, owner=owner))

    def _set_owner(self, record: TrialRecord, owner: Owner) -> None:
        self._storage.set_trial_user_attr(_stored(record), OWNER, asdict(owner))

    def _owner(
        self,
        slot: SlotRequest,
        number: int,
        params: Point,
        *,
        attempt: int = 1,
        retry_of: int | None = None,
    ) -> Owner:
        return Owner(
            process=self._process,
            session=self._session,
            slot=slot.names.of(number, params),
            attempt=attempt,
            retry_of=retry_of,
            started=time.time(),
        )

    def _create(
        self, slot: SlotRequest, number: int, point: Point, *, is_retry: bool = False
    ) -> TrialRecord:
        owner = self._owner(slot, number, point, retry_of=number if is_retry else None)
        return self._add(number, point, owner)

    def _add(self, number: int, point: Point, owner: Owner) -> TrialRecord:
        template = new_trial(self.plan, number, point, owner)
        trial_id = self._storage.create_new_trial(self.id, template_trial=template)
        return self._taken(TrialRecord(number=number, params=point, owner=owner, stored=trial_id))

    def _taken(self, record: TrialRecord) -> TrialRecord:
        """Remember a trial that this process has to finish or to give back."""
        self._mine[_stored(record)] = record
        return record


def _stored(record: TrialRecord) -> int:
    assert record.stored is not None, "it was claimed from the storage"
    return record.stored


def _lost(record: TrialRecord) -> TrialLostError:
    return TrialLostError(
        f"trial {record.number} was taken over by another process while this one "
        "seemed dead; its result here is dropped"
    )
