"""The journal that a study lives in where no database is named: Optuna's log, in a file."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.study.journal_repair import Repaired, is_sound, repair
from pytest_autotune.study.storage import Store, quiet_optuna
from pytest_autotune.system.files import replace_file, unwritable
from pytest_autotune.system.interrupts import uninterrupted
from pytest_autotune.system.locks import Coordinator, FileCoordinator, NoCoordinator

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_JOURNAL: Final = "trials.journal"
#: Set on studies of which more than trials was lost.
DOUBTFUL: Final = "autotune:doubtful"
#: Lines that Optuna cannot apply, in a journal without checksums, before all of it is given up.
_MOST_UNUSABLE: Final = 50
_MOST_SHOWN: Final = 5


def open_journal(directory: Path, slug: str) -> Store:
    """Open (or make) the journal ``slug`` under ``directory``.

    Damaged lines are replaced, so that all others hold. The damaged file is kept beside the
    journal, and a notice says what was lost. A journal that cannot be written can be read.
    """
    place = directory / slug
    path = place / _JOURNAL
    locked = _read_only(place)
    if locked:
        refusal = (
            f"{locked} cannot be written, so no trial can be stored; make it writable, or name "
            "another place: -o cache_dir=FOLDER, or --autotune-storage URL"
        )
        if not path.exists():
            raise StorageError(refusal)
        storage, notices = _opened(path, NoCoordinator(), refusal)
        return Store(storage=storage, coordinator=NoCoordinator(), notices=tuple(notices))
    try:
        coordinator = FileCoordinator(place)
        with coordinator.mutex():
            storage, notices = _opened(path, coordinator)
    except OSError as error:
        raise StorageError(f"the trial log cannot be opened: {error}") from None
    return Store(storage=storage, coordinator=coordinator, notices=tuple(notices))


def journal_exists(directory: Path, slug: str) -> bool:
    """Return whether anything was ever stored under ``slug``."""
    return (directory / slug / _JOURNAL).exists()


def _read_only(place: Path) -> Path | None:
    """Return the folder or the file that keeps a journal from being written, None without one."""
    wanted = (place, place / _JOURNAL, place / "owners", place / "study.lock")
    return next((found for path in wanted if (found := unwritable(path)) is not None), None)


def _opened(
    path: Path, coordinator: Coordinator, refusal: str = ""
) -> tuple[BaseStorage, list[str]]:
    """Return the storage in a journal, and sentences on what was damaged."""
    # NumPy, which it loads, cannot be loaded again once that was interrupted.
    with uninterrupted():
        from optuna.storages import JournalStorage

        from pytest_autotune.study.journal_backend import Backend, drop_torn_line

        quiet_optuna()
    notices: list[str] = []
    backend = Backend(path, coordinator, refusal)
    if not refusal and drop_torn_line(path):
        kept = path.read_bytes().count(b"\n")
        notices.append(
            f"line {kept + 1} of the trial log was damaged: it was not written to its end, and is "
            f"left out; the {kept} lines before it were kept"
        )
    mending = _Mending(path, refusal)
    mending.mend_lines()
    while True:
        try:
            storage = JournalStorage(backend)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever Optuna stumbles over
            mending.mend_unusable(backend.last_read, error)
            backend = Backend(path, coordinator, refusal)
        else:
            break
    for study_id in mending.doubtful:
        storage.set_study_user_attr(study_id, DOUBTFUL, value=True)
    return storage, notices + mending.notices()


class _Mending:
    """Repairs of one journal: the damaged file is saved before the first."""

    def __init__(self, path: Path, refusal: str) -> None:
        self._path = path
        self._refusal = refusal
        self._saved: Path | None = None
        self._repairs: list[Repaired] = []

    @property
    def doubtful(self) -> frozenset[int]:
        """Ids of studies of which more than trials was lost."""
        return frozenset[int]().union(*(repaired.doubtful for repaired in self._repairs))

    def mend_lines(self) -> None:
        """Replace the lines that can be seen to be damaged."""
        content = self._path.read_bytes()
        if not is_sound(content):
            self._mend(repair(content))

    def mend_unusable(self, number: int, error: Exception) -> None:
        """Replace a line that Optuna cannot apply, given by its number from 0."""
        if number < 0 or len(self._repairs) > _MOST_UNUSABLE:
            raise StorageError(
                f"the trial log {self._path} cannot be read ({error!r}); move it away to start anew"
            ) from None
        self._mend(repair(self._path.read_bytes(), [number]))

    def notices(self) -> list[str]:
        """Return what was damaged, and what became of it, in a sentence."""
        if self._saved is None:
            return []
        lines = sorted({line for repaired in self._repairs for line in repaired.lines})
        shown = ", ".join(map(str, lines[:_MOST_SHOWN])) + (", …" if lines[_MOST_SHOWN:] else "")
        trials = sum(repaired.trials for repaired in self._repairs)
        lost = "no trial was lost"
        if trials:
            those = "a trial" if trials == 1 else f"{trials} trials"
            lost = f"the results of {those} were lost, and are measured again"
        if any(repaired.cut for repaired in self._repairs):
            lost = "what came after it cannot be told apart, and is measured again"
        if self.doubtful:
            lost += ", and what was recorded of the study, such as its code"
        named = "line" if len(lines) == 1 else "lines"
        sentence = (
            f"{named} {shown} of the trial log was damaged: {lost}; all else was kept, the damaged "
            f"file was saved as {self._saved.name}"
        )
        return [sentence]

    def _mend(self, repaired: Repaired) -> None:
        if self._refusal:
            raise StorageError(f"the trial log is damaged, and {self._refusal}")
        first = self._saved is None
        if first:
            self._saved = self._save()
        try:
            replace_file(self._path, repaired.content)
        except OSError:
            if first and self._saved is not None:
                self._saved.unlink()
            raise
        self._repairs.append(repaired)

    def _save(self) -> Path:
        """Keep the damaged file under another name; that takes no space where links can be made."""
        saved = next(
            candidate
            for number in count(1)
            if not (candidate := self._path.with_suffix(f".damaged-{number}")).exists()
        )
        try:
            saved.hardlink_to(self._path)
        except OSError:
            try:
                shutil.copyfile(self._path, saved)
            except OSError:
                saved.unlink(missing_ok=True)
                raise
        return saved
