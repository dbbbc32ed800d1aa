"""Opening a study: the one in storage that a plan goes on with, or a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.judgement import Question, judge, reported_slo
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.references import referenced
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.adoption import Adoption, KeptTrials, adopt, all_records
from pytest_autotune.study.all_failed import put_off, without_vain
from pytest_autotune.study.catalogue import (
    Found,
    StoredStudy,
    code_of,
    create,
    find,
    is_stored,
    mark_used,
    open_store,
    record_code,
    storage_errors,
)
from pytest_autotune.study.changes import identity_changes, question_changes
from pytest_autotune.study.code import Code, listed
from pytest_autotune.study.documents import read_trials
from pytest_autotune.study.groups import Group, other_groups
from pytest_autotune.study.names import TrialNames
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.repeated import IN_VAIN
from pytest_autotune.study.search_options import SearchOptions, begin_search, search_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_HINTS: Final = "autotune:hints"
#: Strategies that try hints first, as plugins need not.
_GUIDED: Final = ("auto", "bayesian")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A study that was found or made.

    ``hints`` are points to try first. ``estimates`` are trials that another question cut short.
    ``earlier`` is the study that was used before the code changed, None where it did not.
    ``notices`` are sentences on what was kept and what changed.
    """

    id: int
    kept: KeptTrials
    code: Code | None
    hints: Sequence[Point] = ()
    estimates: Sequence[TrialRecord] = ()
    earlier: int | None = None
    notices: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyState:
    """A study as it is stored: its trials by number, and its code where that is known.

    ``running`` are the numbers of the trials that some process runs now. ``search`` are the
    options that the study began with, None where they are not known. ``groups`` are the others of a
    fleet, where they were asked for.
    """

    records: Sequence[TrialRecord] = ()
    code: Code | None = None
    running: frozenset[int] = frozenset()
    search: SearchOptions | None = None
    groups: Sequence[Group] = ()


def open_study(storage: BaseStorage, plan: Plan, session: str, names: TrialNames) -> Opened:
    """Return the study of ``plan``, which is made where there is none.

    Trials of related studies count in it where they fit. The caller holds the lock.
    """
    there = find(storage, plan, session)
    found = without_vain(storage, plan, there, session)
    own = found.own or create(storage, plan, session)
    mark_used(storage, own.id)
    kept = KeptTrials(storage, plan, own.id)
    adoption = adopt(storage, plan, kept, found.usable, names)
    code = _with_code_of(own.code, adoption.sources)
    if code is not None and plan.code is not None:
        code = code.with_sources(plan.code)
    if code is not None and code != own.code:
        record_code(storage, own.id, code)
    if adoption.entries:
        # Last, as the trials must not be there without their code.
        kept.add(adoption.entries, adoption.records)
    notices = [*_why_new(plan, own, found, adoption), *_earlier_code(kept, found)]
    search = begin_search(storage, own.id, plan).note(plan)
    if search:
        notices.append(search)
    if found.own is None and found.own is not there.own:
        notices.append(IN_VAIN)
        left = {study.id for study in found.usable}
        put_off(storage, plan, own.id, [s.id for s in there.usable if s.id not in left])
    if found.own is None and (hints := _hints(storage, plan, found, adoption)):
        storage.set_study_user_attr(own.id, _HINTS, [dict(point) for point in hints])
        count = "a configuration" if len(hints) == 1 else f"{len(hints)} configurations"
        if plan.strategy in _GUIDED:
            notices.append(f"warm start: {count} that did well before came first")
    return Opened(
        id=own.id,
        kept=kept,
        code=code,
        hints=storage.get_study_user_attrs(own.id).get(_HINTS, ()),
        estimates=adoption.estimates,
        earlier=next((s.id for s in reversed(found.related) if s.changes), None),
        notices=notices,
    )


def read_study(
    plan: Plan, directory: Path, study_id: int | None = None, *, with_groups: bool = False
) -> StudyState:
    """Return the stored state of a study, without making one or taking part in it.

    ``study_id`` is known where the run has opened it; otherwise it is that of ``plan``.
    """
    if not is_stored(plan, directory):
        return StudyState()
    store = open_store(plan, directory)
    try:
        with store.coordinator.mutex(), storage_errors(plan):
            if study_id is None:
                own = find(store.storage, replace(plan, fresh=False), session="").own
                if own is None:
                    return StudyState()
                study_id = own.id
            kept = KeptTrials(store.storage, plan, study_id)
            code = plan.code and code_of(store.storage, study_id, plan.code.root)
            records = all_records(store.storage, plan, kept)
            state = StudyState(
                records=records,
                code=code,
                running=frozenset(
                    record.number
                    for record in records
                    if not record.finished
                    and record.owner.process
                    and store.coordinator.is_alive(record.owner.process)
                ),
                search=search_of(store.storage, study_id),
            )
        if not with_groups:
            return state
        # Without the lock, as they may be many, and nobody shall wait for what is only shown.
        with storage_errors(plan):
            return replace(state, groups=other_groups(store.storage, plan))
    finally:
        store.close()


def _with_code_of(code: Code | None, studies: Sequence[StoredStudy]) -> Code | None:
    """Return the code of a study and, as it is now, that of others whose trials it keeps."""
    for other in (study.code for study in studies):
        if code is not None and other is not None:
            files = {name: digest for name, digest in other.files_now().items() if digest}
            code = code.with_more(files, other.parts_now())
    return code


def _why_new(plan: Plan, own: StoredStudy, found: Found, adoption: Adoption) -> Iterator[str]:
    """Yield sentences on what became of earlier trials, where anything changed."""
    yield from _newer(found)
    if found.own is not None:
        number = sum(not earlier for *_, earlier in adoption.entries)
        if number:
            yield f"kept {_trials(number)} that had another SLO, objective or space"
        return
    if found.usable:
        yield from _kept(plan, own, found.usable[-1], adoption)
    elif found.related:
        study = found.related[-1]
        yield (
            f"a new study was started, because the code changed: {listed(study.changes)}; "
            "--autotune-keep goes on with the earlier trials"
        )
    elif found.all and not plan.fresh:
        changes = ", ".join(identity_changes(found.all[-1].identity, own.identity))
        if found.all[-1].is_newer:
            return
        if not found.all[-1].is_readable:
            yield (
                "a new study was started, because another version of pytest-autotune stored the "
                "earlier trials"
            )
        elif changes:
            yield f"a new study was started, because this changed: {changes}"


def _newer(found: Found) -> Iterator[str]:
    """Yield a sentence on studies that a later version stored, each time: both may be in use."""
    formats = [study.format for study in found.all if study.is_newer]
    if formats:
        yield (
            f"a newer pytest-autotune stored trials here, in format {max(formats)}, which this "
            "version cannot read: they do not count; use one version on all runners"
        )


def _kept(plan: Plan, own: StoredStudy, before: StoredStudy, adoption: Adoption) -> Iterator[str]:
    titles, changes = question_changes(before.question, own.question)
    kept, rest = len(adoption.entries), []
    if not titles or not (kept or adoption.misfits or adoption.estimates):
        return
    if adoption.misfits:
        rest.append(f"{_trials(adoption.misfits)} not in the new space")
    if adoption.estimates:
        rest.append(f"{_trials(len(adoption.estimates))} cut short, to be measured again if needed")
    left = f" ({'; '.join(rest)})" if rest else ""
    if kept:
        yield f"{_trials(kept)} kept, judged by the new {titles}: {changes}{left}"
    elif adoption.estimates:
        yield f"no trial kept under the new {titles}: {changes}{left}"
    else:
        left = f"{_trials(adoption.misfits)} left out"
        yield f"no earlier trial fits the new space: {changes} ({left})"
    if kept >= plan.budget:
        yield (
            f"the kept trials use up the budget of {plan.budget}; "
            f"to search on, raise it: --autotune-trials {2 * plan.budget}"
        )


def _earlier_code(kept: KeptTrials, found: Found) -> Iterator[str]:
    """Yield a sentence on trials that were kept although the code changed."""
    ids = {study_id for study_id, *_, earlier in kept.entries() if earlier}
    if not ids:
        return
    number = sum(earlier for *_, earlier in kept.entries())
    changes = dict.fromkeys(c for study in found.all if study.id in ids for c in study.changes)
    what = f" ({listed(tuple(changes))} changed since)" if changes else ""
    yield f"{_trials(number)} of earlier code kept by --autotune-keep{what}"


def _trials(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"


def _hints(storage: BaseStorage, plan: Plan, found: Found, adoption: Adoption) -> Sequence[Point]:
    """Return points that a new study may try first; none where it is to start anew."""
    if not plan.begins_warm:
        return ()
    # Here, as it loads NumPy, and a launch of the gate searches nothing.
    from pytest_autotune.study.warm_start import hints

    # What was best under another objective says little of this one, and what is kept is known.
    usable = {study.id for study in found.usable}
    alike = [
        study
        for study in reversed(found.all)
        if study.question.get("objective") == plan.aim
        and study.is_readable
        and (study.id not in usable or adoption.misfits)
    ]
    return hints(plan.spec.space, plan.pinned, _trials_of(storage, plan, alike))


def _trials_of(
    storage: BaseStorage, plan: Plan, studies: Iterable[StoredStudy]
) -> Iterator[Sequence[TrialRecord]]:
    """Read the trials of other studies, as far as they are asked for."""
    for study in studies:
        try:
            records = list(read_trials(storage, plan, study.id))
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
