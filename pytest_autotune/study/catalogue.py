"""Studies in storage: the one that a plan goes on with, and those whose trials it can use.

A study is stored under its *identity*, the workload and the environment that its trials were
measured with, and its *question*, the space, the objective and the SLO. The code is a part of the
identity, too; it is compared by the files of an earlier study, as they are now.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import ReadOnlyError, StorageError
from pytest_autotune.study.code import Code, Digests, listed
from pytest_autotune.study.database_url import masked_url, without_url_secrets
from pytest_autotune.study.journal import DOUBTFUL, journal_exists, open_journal
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.storage import (
    Store,
    open_database,
)
from pytest_autotune.text.values import canonical, slug

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Version of what is stored; trials of another one are left alone, and never misread. Every version
#: looks for the number in the same place, so that it knows the studies of later ones.
_FORMAT: Final = 3
_IDENTITY: Final = "autotune:key"
_QUESTION: Final = "autotune:question"
_SESSION: Final = "autotune:session"
_FRESH: Final = "autotune:fresh"
_CODE: Final = "autotune:code"
_USED: Final = "autotune:used"
#: The part of an identity that tells the groups of a fleet apart.
ENVIRONMENT: Final = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """One study in storage.

    ``code`` is None where it was not recorded, and ``changes`` are what differs in it now.
    ``fresh`` is whether it was begun by ``--autotune-fresh``. ``used`` is when a run last opened
    it, in seconds since the epoch.
    """

    id: int
    session: str
    identity: Mapping[str, Any]
    question: Mapping[str, Any]
    code: Code | None = None
    changes: Sequence[str] = ()
    fresh: bool = False
    used: float = 0.0

    @property
    def is_readable(self) -> bool:
        """True if its trials are stored as this version stores them."""
        return self.format == _FORMAT

    @property
    def is_newer(self) -> bool:
        """True if a later version stored them."""
        return self.format > _FORMAT

    @property
    def format(self) -> int:
        """The version of what is stored, 0 where there was none yet."""
        found = self.identity.get("format", 0)
        return found if isinstance(found, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The studies of a plan's label, oldest first.

    ``own`` is the one that the plan goes on with, None where there is none yet. ``related`` have
    the plan's identity, whatever their code, the one that was used last at the end; ``usable`` are
    those of them whose trials hold.
    """

    all: Sequence[StoredStudy]
    related: Sequence[StoredStudy]
    usable: Sequence[StoredStudy]
    own: StoredStudy | None


def open_store(plan: Plan, directory: Path) -> Store:
    """Return the storage that ``plan`` names, or its journal under ``directory``."""
    if plan.storage:
        return open_database(plan.storage, plan.label)
    return open_journal(directory, slug(plan.label))


def is_stored(plan: Plan, directory: Path) -> bool:
    """Return whether there may be trials of ``plan``, without making a storage for them."""
    return bool(plan.storage) or journal_exists(directory, slug(plan.label))


def find(storage: BaseStorage, plan: Plan, session: str) -> Found:
    """Return the studies of ``plan``, as the pytest run ``session`` may use them."""
    identity, question = _identity(plan), _plain(plan.asked())
    stored = _stored(storage, plan)
    related = [study for study in stored if study.identity == identity]
    anew = [at for at, study in enumerate(related) if study.fresh]
    related = related[anew[-1] :] if anew else related
    if plan.fresh:
        related = [study for study in related if study.session == session]
    related = sorted(related, key=lambda study: (study.used, study.id))
    usable = [study for study in related if plan.keep or not study.changes]
    own = [study for study in usable if study.question == question and not study.changes]
    return Found(all=stored, related=related, usable=usable, own=own[-1] if own else None)


def in_other_environments(
    storage: BaseStorage, plan: Plan
) -> list[tuple[Mapping[str, str], StoredStudy]]:
    """Return the study that was used last in each other environment, the latest first.

    It has the workload, the code, the objective and the SLO of ``plan``. Its space may be another,
    as it may depend on the machine. Where nothing is measured there is no environment.
    """
    own, question = _identity(plan), _plain(plan.asked())
    if ENVIRONMENT not in own:
        return []
    found: dict[str, tuple[Mapping[str, str], StoredStudy]] = {}
    stored = _stored(storage, plan)
    for study in sorted(stored, key=lambda study: (study.used, study.id), reverse=True):
        environment = study.identity.get(ENVIRONMENT, {})
        if environment == own[ENVIRONMENT] or (study.changes and not plan.keep):
            continue
        if {**study.identity, ENVIRONMENT: None} != {**own, ENVIRONMENT: None}:
            continue
        if all(study.question.get(part) == question[part] for part in ("objective", "slo")):
            found.setdefault(canonical(environment), (environment, study))
    return list(found.values())


def create(storage: BaseStorage, plan: Plan, session: str) -> StoredStudy:
    """Make a new study for ``plan``."""
    from optuna.study import StudyDirection

    identity, question, code = _identity(plan), _plain(plan.asked()), plan.code
    text = json.dumps([identity, question], sort_keys=True)
    name = f"{plan.label} #{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    known = [study.study_name for study in storage.get_all_studies()]
    same = sum(other == name or other.startswith(f"{name}.") for other in known)
    name = f"{name}.{same + 1}" if same else name
    direction = StudyDirection.MAXIMIZE if plan.objective.maximize else StudyDirection.MINIMIZE
    study_id = storage.create_new_study([direction], name)
    for key, value in (
        (_QUESTION, question),
        (_SESSION, session),
        (_FRESH, plan.fresh),
        (_CODE, None if code is None else code.document()),
        # Last, as it makes the study one that is found.
        (_IDENTITY, identity),
    ):
        storage.set_study_user_attr(study_id, key, value)
    return StoredStudy(
        id=study_id, session=session, identity=identity, question=question, code=code,
        fresh=plan.fresh,
    )  # fmt: skip


def code_of(storage: BaseStorage, study_id: int, root: Path) -> Code | None:
    """Return the code of a study as it is recorded, None where it is not."""
    document = storage.get_study_user_attrs(study_id).get(_CODE)
    return None if document is None else Code.from_document(root, document)


def mark_used(storage: BaseStorage, study_id: int) -> None:
    """Record that a run opens the study now, where anything can be recorded.

    Where nothing can, a finished study is shown, and any other says so with its first trial.
    """
    with suppress(ReadOnlyError, OSError):
        storage.set_study_user_attr(study_id, _USED, time.time())


def record_code(storage: BaseStorage, study_id: int, code: Code) -> None:
    """Record the code of a study."""
    storage.set_study_user_attr(study_id, _CODE, code.document())


def add_code(
    storage: BaseStorage, study_id: int, known: Code, files: Digests, parts: Digests
) -> Code:
    """Record more code of a study, and return all of it. The caller holds the lock.

    Raises :class:`StorageError` where other processes measured with another version.
    """
    stored = code_of(storage, study_id, known.root) or known
    changed = stored.differs_from(files, parts)
    if changed:
        raise StorageError(
            f"{listed(changed)} changed while runs measured with it: this trial is not stored; "
            "run again to measure with one version"
        )
    code = stored.with_more(files, parts)
    record_code(storage, study_id, code)
    return code


def _stored(storage: BaseStorage, plan: Plan) -> list[StoredStudy]:
    """Return every study under the plan's label, oldest first."""
    found = []
    for study in storage.get_all_studies():
        attributes = study.user_attrs
        if not study.study_name.startswith(f"{plan.label} #") or _IDENTITY not in attributes:
            continue
        code: Code | None = None
        changes: Sequence[str] = ()
        # Earlier versions stored it as a text, and later ones may store anything.
        known = attributes[_IDENTITY].get("format") == _FORMAT
        if plan.code is not None and known and isinstance(attributes.get(_CODE), Mapping):
            code = Code.from_document(plan.code.root, attributes[_CODE])
            changes = tuple(code.changes(plan.code))
        if DOUBTFUL in attributes:
            changes = ("its record, which was damaged",)
        found.append(
            StoredStudy(
                id=study._study_id,  # noqa: SLF001
                session=attributes.get(_SESSION, ""),
                identity=attributes[_IDENTITY],
                question=attributes.get(_QUESTION, {}),
                code=code,
                changes=changes,
                fresh=bool(attributes.get(_FRESH)),
                used=attributes.get(_USED, 0.0),
            )
        )
    return sorted(found, key=lambda study: study.id)


@contextmanager
def storage_errors(plan: Plan) -> Iterator[None]:
    """Turn a failure of the database into one message, without the URL's password."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, OSError) as error:
        where, problem = "the trial log", str(error)
        if plan.storage:
            where = masked_url(plan.storage)
            problem = without_url_secrets(problem, plan.storage)
        raise StorageError(f"{where} cannot be read or written: {problem}") from None


def _identity(plan: Plan) -> Mapping[str, Any]:
    return _plain({**plan.identity(), "format": _FORMAT})


def _plain(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document as JSON gives it back, to be compared with what was stored."""
    found: Mapping[str, Any] = json.loads(json.dumps(document))
    return found
