"""A study: trials claimed one at a time, finished exactly once, resumable after any kill.

Everything that matters is in the storage. A trial is created in one write, with its parameters,
and finished by its state, written last; so whatever moment a process dies at, a trial is either
finished or can be seen to be orphaned and is run again under its own number.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pytest_autotune.errors import StorageError, TrialLostError
from pytest_autotune.scoring.evaluation import Evaluation, Level, effective_objective
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import (
    OWNER,
    PARAMS,
    RESULT,
    Outcome,
    Owner,
    TrialRecord,
    effective,
    expanded,
    result_document,
)
from pytest_autotune.scoring.slo import MAX_SCORE
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import ExtensionLookup, History, StrategyContext, make_strategy
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.storage import (
    Store,
    journal_exists,
    masked_url,
    open_database,
    open_journal,
)
from pytest_autotune.study.warm_start import hints
from pytest_autotune.system.masking import without_secrets

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from pytest_autotune.replay.source import Replay
    from pytest_autotune.study.settings import Settings

#: A trial that takes its process down this often is not tried again.
MAX_ATTEMPTS: Final = 3
_KEY: Final = "autotune:key"
_SESSION: Final = "autotune:session"
_SOURCE: Final = "autotune:source"
_HINTS: Final = "autotune:hints"
_CONSTRAINT: Final = "slo"
#: What goes by no earlier result; and what tries such hints first, as plugins need not.
_UNGUIDED: Final = ("grid_search", "random")
_GUIDED: Final = ("auto", "bayesian")
_STALE: Final = (
    "the test module changed since this study began, and earlier trials were kept; "
    "if they no longer hold, start anew with --autotune-fresh"
)
#: Spec sections that a measurement depends on besides the space, the objective and the SLO.
_WORKLOAD: Final = (
    "model",
    "deployment_mode",
    "base_runtime",
    "runtime_image_tag",
    "benchmark",
    "server",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study before anything ran: the spec, with the options of this run applied.

    ``label`` names the study for people and across runs (node id and spec name);
    ``budget`` is in finished trials, times are in seconds. With ``replay`` nothing is measured.
    ``pinned`` are configurations of the lock file, which a new study may try first.
    """

    label: str
    spec: Spec
    objective: Objective
    strategy: str
    budget: int
    seed: int
    timeout: float | None = None
    patience: int | None = None
    xfail: bool = False
    storage: str | None = None
    fresh: bool = False
    source: str = ""
    pinned: Sequence[Point] = ()
    replay: Replay | None = None

    @classmethod
    def make(cls, nodeid: str, spec: Spec, settings: Settings, source: str = "") -> Plan:
        """Apply ``settings`` to ``spec``; the command line wins over the spec.

        ``source`` is a digest of the test module, to notice that it changed between runs.
        Raises :class:`UserError` where recorded results are to be replayed, and cannot be.
        """
        replay = None
        if settings.replay is not None or spec.replay is not None:
            from pytest_autotune.replay.source import replayed

            spec, replay = replayed(spec, settings)
            # Nothing of it runs.
            source = ""
        search = spec.optimization
        name = search.study_name or spec.name
        label = nodeid if nodeid.endswith(name) else f"{nodeid} ({name})"
        infeasible = settings.infeasible or search.infeasible or "fail"
        return cls(
            # Another study than the one that is measured, wherever it is kept or shown.
            label=label if replay is None else f"{label}, replayed",
            spec=spec,
            objective=effective_objective(Objective.parse(search.objective), spec.slo),
            strategy=settings.strategy or search.strategy,
            budget=settings.trials or search.max_iterations,
            seed=search.seed if settings.seed is None else settings.seed,
            timeout=settings.timeout or search.timeout,
            patience=search.patience,
            xfail=infeasible == "xfail",
            storage=settings.storage or search.storage,
            fresh=settings.fresh,
            source=source,
            replay=replay,
        )

    @property
    def context(self) -> StrategyContext:
        """What the strategy is made from."""
        return StrategyContext(
            space=self.spec.space,
            optimization=self.spec.optimization,
            limit=self.budget,
            seed=self.seed,
            slo=self.spec.slo,
            objective=self.objective,
        )

    @property
    def begins_warm(self) -> bool:
        """Whether a new study tries first what did well elsewhere."""
        wanted = self.spec.optimization.warm_start and self.replay is None
        return wanted and not self.fresh and self.strategy not in _UNGUIDED

    def key(self) -> Mapping[str, Any]:
        """Return what identifies comparable trials; a change in it starts a new study."""
        raw = self.spec.raw
        key = {
            "space": self.spec.space.document(),
            "objective": self.objective.name,
            "slo": raw.get("slo", {}),
        }
        if self.replay is not None:
            # The same on every machine, whatever a server would be started with.
            return {**key, "replay": self.replay.key()}
        return {
            **key,
            "workload": without_secrets({name: raw[name] for name in _WORKLOAD if name in raw}),
            "environment": fingerprint(),
        }


class Stop(str, enum.Enum):
    """Why no further trial is started."""

    BUDGET = "budget"
    EXHAUSTED = "exhausted"
    PATIENCE = "patience"
    TIMEOUT = "timeout"
    DONE_BEFORE = "done before"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now, but a sibling's running trial may yet come free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRequest:
    """Which slot asks for a trial.

    ``ordinal`` is its place among the study's slots, None for a spare one. ``point`` is given
    where the slot stands for one combination of a grid. With ``rerun`` the trial that this
    slot ran last is measured again.
    """

    id: str
    ordinal: int | None = None
    point: Point | None = None
    rerun: bool = False


Claim: TypeAlias = TrialRecord | Wait | Stop


class Study:
    """One study in storage, as one process works on it."""

    def __init__(  # noqa: PLR0913 - use Study.open()
        self,
        plan: Plan,
        store: Store,
        study_id: int,
        *,
        session: str,
        started: float,
        extension: ExtensionLookup | None,
        hints: Sequence[Point],
        notices: Sequence[str],
    ) -> None:
        self.plan = plan
        self.notices = tuple(notices)
        self._store = store
        self._storage: BaseStorage = store.storage
        self._id = study_id
        self._session = session
        self._started = started
        self._process = uuid.uuid4().hex
        context = replace(plan.context, hints=hints)
        self._strategy = make_strategy(plan.strategy, context, extension)
        self._finished: dict[int, TrialRecord] = {}
        self._trial_ids: dict[int, int] = {}
        self._done_keys: frozenset[str] = frozenset()
        self._done_ordinals: frozenset[int] = frozenset()
        store.coordinator.hold(self._process)

    @classmethod
    def open(
        cls,
        plan: Plan,
        directory: Path,
        *,
        session: str,
        started: float,
        extension: ExtensionLookup | None = None,
    ) -> Study:
        """Open the study of ``plan``, making it where there is none.

        ``directory`` holds the journals; ``session`` is one id for all processes of a pytest
        run that began at ``started`` (seconds since the epoch). Raises :class:`StorageError`.
        """
        store = _open_store(plan, directory)
        with store.coordinator.mutex(), _storage_errors(plan):
            study_id, reasons = _find_or_create(store.storage, plan, session)
            hints = store.storage.get_study_user_attrs(study_id).get(_HINTS, ())
        return cls(
            plan, store, study_id,
            session=session, started=started, extension=extension, hints=hints,
            notices=[*store.notices, *reasons],
        )  # fmt: skip

    def close(self) -> None:
        """Give up everything this process holds; its unfinished trial becomes an orphan."""
        self._store.close()

    def records(self) -> list[TrialRecord]:
        """Return all trials by number, re-runs included."""
        records: list[TrialRecord] = []
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            record = self._finished.get(trial.number)
            if record is None:
                record = _read(trial, self.plan)
                self._trial_ids[trial.number] = trial._trial_id  # noqa: SLF001
                if record.finished:
                    self._finished[trial.number] = record
            records.append(record)
        return records

    def claim(self, slot: SlotRequest) -> Claim:
        """Take the next trial for ``slot``: an orphan, its own point, or a new proposal."""
        if not slot.rerun and self._is_done_before(slot):
            return Stop.DONE_BEFORE
        with self._store.coordinator.mutex(), _storage_errors(self.plan):
            records = self.records()
            previous = _last_of_slot(records, slot.id) if slot.rerun else None
            if previous is not None:
                return self._create(slot, previous.params, records, retry_of=previous.number)
            if self._bury(effective(records)):
                records = self.records()
            return self._claim_next(slot, records)

    def _claim_next(self, slot: SlotRequest, records: Sequence[TrialRecord]) -> Claim:
        current = effective(records)
        self._note_done(current)
        if self._is_done_before(slot) or self._runs_elsewhere(slot, current):
            return Stop.DONE_BEFORE
        stop = self._should_stop(current)
        if stop is not None:
            return stop
        orphan = self._reclaim(slot, current)
        if orphan is not None:
            return orphan
        if len(current) >= self.plan.budget:
            return self._wait_or(Stop.BUDGET, current)
        point = slot.point
        if point is None:
            seed = [self.plan.seed, len(records)]
            point = self._strategy.propose(History(records=current), seed)
        if point is None:
            return self._wait_or(Stop.EXHAUSTED, current)
        return self._create(slot, point, records)

    def finish(  # noqa: PLR0913 - all that is known of a trial
        self,
        record: TrialRecord,
        outcome: Outcome,
        *,
        evaluation: Evaluation | None = None,
        levels: Sequence[Level] = (),
        notes: Sequence[str] = (),
        reason: str = "",
        estimate: float | None = None,
    ) -> TrialRecord:
        """Store how a claimed trial ended and return it finished.

        Raises :class:`TrialLostError` where another process took it over meanwhile.
        """
        from optuna.trial import TrialState

        duration = time.time() - record.owner.started
        document = result_document(
            outcome,
            evaluation=evaluation, levels=levels, notes=notes, reason=reason, duration=duration,
            estimate=estimate,
        )  # fmt: skip
        state, values = TrialState.FAIL, None
        if outcome in {Outcome.FEASIBLE, Outcome.INFEASIBLE}:
            state, values = TrialState.COMPLETE, [self._value(evaluation)]
        elif outcome is Outcome.PRUNED:
            state = TrialState.PRUNED
        with self._store.coordinator.mutex(), _storage_errors(self.plan):
            self._require_mine(record)
            trial_id = self._trial_ids[record.number]
            self._storage.set_trial_user_attr(trial_id, RESULT, document)
            if evaluation is not None and evaluation.compliance.results:
                key, amount = _constraint(evaluation)
                self._storage.set_trial_system_attr(trial_id, key, amount)
            self._storage.set_trial_state_values(trial_id, state, values)
        finished = replace(record, outcome=outcome, **expanded(document))
        self._finished[record.number] = finished
        return finished

    def give_back(self, record: TrialRecord) -> None:
        """Leave an unfinished trial to a later session, without counting this attempt."""
        with self._store.coordinator.mutex(), _storage_errors(self.plan):
            owner = replace(record.owner, process="", attempt=record.owner.attempt - 1)
            self._set_owner(record, owner)

    def _require_mine(self, record: TrialRecord) -> None:
        trial = self._storage.get_trial(self._trial_ids[record.number])
        owner = trial.user_attrs[OWNER]
        if trial.state.is_finished() or owner["process"] != self._process:
            msg = (
                f"trial {record.number} was taken over by another process while this one "
                "seemed dead; its result here is dropped"
            )
            raise TrialLostError(msg)

    def _value(self, evaluation: Evaluation | None) -> float:
        """Return the penalized value with the user's sign, for Optuna's own tools."""
        score = None if evaluation is None else evaluation.score
        return self.plan.objective.score(MAX_SCORE if score is None else score)

    def _note_done(self, current: Sequence[TrialRecord]) -> None:
        """Remember what is finished: it stays so, and need not be looked up for every slot."""
        self._done_keys = frozenset(record.key for record in current if record.finished)
        self._done_ordinals = frozenset(
            ordinal
            for ordinal, record in enumerate(current)
            if record.finished and record.owner.session != self._session
        )

    def _is_done_before(self, slot: SlotRequest) -> bool:
        """Tell whether what this slot stands for is known to be finished.

        An adaptive slot stands for a trial of an earlier session with its ordinal.
        """
        if slot.point is not None:
            return point_key(slot.point) in self._done_keys
        return slot.ordinal in self._done_ordinals

    def _runs_elsewhere(self, slot: SlotRequest, current: Sequence[TrialRecord]) -> bool:
        if slot.point is None:
            return False
        key = point_key(slot.point)
        return any(r.key == key and not r.finished and not self._is_orphan(r) for r in current)

    def _should_stop(self, current: Sequence[TrialRecord]) -> Stop | None:
        plan = self.plan
        finished = [record for record in current if record.finished]
        if len(finished) >= plan.budget:
            return Stop.BUDGET
        if plan.timeout is not None and time.time() - self._started >= plan.timeout:
            return Stop.TIMEOUT
        if plan.patience is not None and _since_improvement(finished) >= plan.patience:
            return Stop.PATIENCE
        return None

    def _wait_or(self, stop: Stop, current: Sequence[TrialRecord]) -> Wait | Stop:
        """Wait while a sibling of this session runs a trial that could still come free."""
        running = any(
            not r.finished
            and r.owner.session == self._session
            and r.owner.process not in ("", self._process)  # not given back, not ours
            for r in current
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

    def _reclaim(self, slot: SlotRequest, current: Sequence[TrialRecord]) -> TrialRecord | None:
        """Take over a trial whose process died."""
        wanted = None if slot.point is None else point_key(slot.point)
        for record in current:
            if wanted in (None, record.key) and self._is_orphan(record):
                owner = self._owner(
                    slot, attempt=record.owner.attempt + 1, retry_of=record.owner.retry_of
                )
                self._set_owner(record, owner)
                return replace(record, owner=owner)
        return None

    def _bury(self, current: Sequence[TrialRecord]) -> bool:
        """Finish as failed what took its process down too often; tell whether there was any."""
        hopeless = [r for r in current if r.owner.attempt >= MAX_ATTEMPTS and self._is_orphan(r)]
        for record in hopeless:
            owner = replace(record.owner, process=self._process, session=self._session)
            self._set_owner(record, owner)
            reason = f"the process running it died {owner.attempt} times"
            self.finish(replace(record, owner=owner), Outcome.FAILED, reason=reason)
        return bool(hopeless)

    def _set_owner(self, record: TrialRecord, owner: Owner) -> None:
        trial_id = self._trial_ids[record.number]
        self._storage.set_trial_user_attr(trial_id, OWNER, owner.document())

    def _owner(self, slot: SlotRequest, *, attempt: int = 1, retry_of: int | None) -> Owner:
        return Owner(
            process=self._process,
            session=self._session,
            slot=slot.id,
            attempt=attempt,
            retry_of=retry_of,
            started=time.time(),
        )

    def _create(
        self,
        slot: SlotRequest,
        point: Point,
        records: Sequence[TrialRecord],
        *,
        retry_of: int | None = None,
    ) -> TrialRecord:
        owner = self._owner(slot, retry_of=retry_of)
        template = self._template(point, owner)
        trial_id = self._storage.create_new_trial(self._id, template_trial=template)
        number = len(records)
        self._trial_ids[number] = trial_id
        return TrialRecord(number=number, params=point, outcome=Outcome.RUNNING, owner=owner)

    def _template(self, point: Point, owner: Owner) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        active = [p for p in self.plan.spec.space.parameters if p.name in point]
        return create_trial(
            state=TrialState.RUNNING,
            params={p.name: p.storable(point[p.name]) for p in active},
            distributions={p.name: p.distribution() for p in active},
            # The exact values; Optuna's own would turn lists into text and 1.0 into 1.
            user_attrs={PARAMS: json.dumps(dict(point)), OWNER: owner.document()},
        )


def read_records(plan: Plan, directory: Path) -> list[TrialRecord]:
    """Return the trials of ``plan``'s latest study, without making one or taking part in it."""
    if not plan.storage and not journal_exists(directory, slug(plan.label)):
        return []
    store = _open_store(plan, directory)
    try:
        with store.coordinator.mutex(), _storage_errors(plan):
            existing = [
                study_id for study_id, key in _studies(store.storage, plan) if key == plan.key()
            ]
            trials = store.storage.get_all_trials(existing[-1], deepcopy=False) if existing else []
            return [_read(trial, plan) for trial in trials]
    finally:
        store.close()


def _open_store(plan: Plan, directory: Path) -> Store:
    if plan.storage:
        return open_database(plan.storage, plan.label)
    return open_journal(directory, slug(plan.label))


def _read(trial: FrozenTrial, plan: Plan) -> TrialRecord:
    try:
        return TrialRecord.from_optuna(trial)
    except (KeyError, TypeError, ValueError) as error:
        msg = (
            f"trial {trial.number} of study {plan.label!r} cannot be read ({error!r}); "
            "start anew with --autotune-fresh"
        )
        raise StorageError(msg) from None


def _since_improvement(finished: Sequence[TrialRecord]) -> int:
    """Count the trials after the one that last improved on all before it."""
    best: tuple[int, float] = (2, float("inf"))
    since = 0
    for record in finished:
        since += 1
        if record.rank < best:
            best, since = record.rank, 0
    return since


def _last_of_slot(records: Sequence[TrialRecord], slot: str) -> TrialRecord | None:
    return next(
        (r for r in reversed(effective(records)) if r.owner.slot == slot and r.finished), None
    )


def _constraint(evaluation: Evaluation) -> tuple[str, float]:
    """Return the system attribute under which Optuna finds a trial's constraint, and its value.

    Positive by the amount of the violation, else the smallest margin left, negated.
    """
    from optuna.trial import TrialState, create_trial

    compliance = evaluation.compliance
    tightest = max(result.ratio for result in compliance.results)
    amount = min(tightest, 0.0) if compliance.feasible else compliance.violation
    carrier = create_trial(state=TrialState.RUNNING)
    carrier.set_constraint(_CONSTRAINT, amount)
    ((key, value),) = carrier.system_attrs.items()
    return key, value


def slug(label: str) -> str:
    """Return a file name for ``label``: readable, and unique by a short digest."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower()[-60:]
    return f"{readable}-{_digest(label)[:8]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _find_or_create(storage: BaseStorage, plan: Plan, session: str) -> tuple[int, Sequence[str]]:
    """Return the id of the plan's study and, where it is new, what is to be said of that."""
    key = plan.key()
    base = f"{plan.label} #{_digest(key)[:12]}"
    mine = _studies(storage, plan)
    same = [study_id for study_id, known in mine if known == key]
    if same:
        attributes = storage.get_study_user_attrs(same[-1])
        if not plan.fresh or attributes.get(_SESSION) == session:
            return same[-1], () if attributes.get(_SOURCE) == plan.source else (_STALE,)
    from optuna.study import StudyDirection

    direction = StudyDirection.MAXIMIZE if plan.objective.maximize else StudyDirection.MINIMIZE
    name = f"{base}.{len(same) + 1}" if same else base
    study_id = storage.create_new_study([direction], name)
    storage.set_study_user_attr(study_id, _KEY, key)
    storage.set_study_user_attr(study_id, _SESSION, session)
    storage.set_study_user_attr(study_id, _SOURCE, plan.source)
    notices = []
    if mine and not same:
        changes = ", ".join(_changes(mine[-1][1], key))
        notices.append(f"a new study was started, because this changed: {changes}")
    found = _hints(storage, plan, [study for study, known in mine if _is_alike(known, key)])
    if found:
        storage.set_study_user_attr(study_id, _HINTS, [dict(point) for point in found])
        count = "a configuration" if len(found) == 1 else f"{len(found)} configurations"
        if plan.strategy in _GUIDED:
            notices.append(f"warm start: {count} that did well before came first")
    return study_id, notices


def _is_alike(known: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Tell whether what was best in a study may be good in another."""
    return bool(known["objective"] == key["objective"])


def _hints(storage: BaseStorage, plan: Plan, earlier: Sequence[int]) -> Sequence[Point]:
    """Return what a new study may try first; nothing where it is to start anew."""
    if not plan.begins_warm:
        return ()
    return hints(plan.spec.space, plan.pinned, _trials_of(storage, plan, reversed(earlier)))


def _trials_of(
    storage: BaseStorage, plan: Plan, studies: Iterable[int]
) -> Iterator[Sequence[TrialRecord]]:
    """Read the trials of other studies, as far as they are asked for."""
    for study_id in studies:
        try:
            found = storage.get_all_trials(study_id, deepcopy=False)
            yield [_read(trial, plan) for trial in found]
        except StorageError:
            continue  # Of an older version, say: it was only a help.


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
    """Name what differs between two keys, down to the entries of each part."""
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


class _storage_errors:  # noqa: N801 - a context manager, used like a function
    """Turn a failure of the database into one message, without the URL's password."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Translate Optuna's and the system's errors."""
        if kind is None or not issubclass(kind, Exception):
            return
        from optuna.exceptions import StorageInternalError

        if issubclass(kind, StorageInternalError | OSError):
            where = masked_url(self._plan.storage) if self._plan.storage else "the trial log"
            msg = f"{where} cannot be read or written: {error}"
            raise StorageError(msg) from None


def new_session_id() -> str:
    """Return a unique id for a pytest run."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
