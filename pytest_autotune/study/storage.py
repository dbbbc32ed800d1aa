"""Open the Optuna storage that a study lives in: a journal in the cache, or a database."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.study.database_url import masked_url, without_url_secrets
from pytest_autotune.system.interrupts import uninterrupted
from pytest_autotune.system.locks import Coordinator, DatabaseCoordinator, FileCoordinator

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_SQLITE: Final = "sqlite"
_JOURNAL: Final = "trials.journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An open storage, the locks that go with it, and what had to be mended to open it."""

    storage: BaseStorage
    coordinator: Coordinator
    notices: tuple[str, ...] = ()
    disconnect: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Give up all locks and connections."""
        self.disconnect()
        self.coordinator.release()


def open_journal(directory: Path, slug: str) -> Store:
    """Open (or make) the journal ``slug`` under ``directory``.

    A journal with a damaged line is cut before that line, the damaged file is kept beside it,
    and a notice says so.
    """
    # NumPy, which it loads, cannot be loaded again once that was interrupted.
    with uninterrupted():
        from optuna.storages import JournalStorage

        _quiet_optuna()
    place = directory / slug
    coordinator = FileCoordinator(place)
    path = place / _JOURNAL
    notices: list[str] = []
    with coordinator.mutex():
        backend = _journal_backend(path, coordinator)
        if path.stat().st_size and not _ends_cleanly(path):
            notices += _repair(path)
        try:
            storage = JournalStorage(backend)
        except (ValueError, KeyError, TypeError, AttributeError):
            notices += _repair(path)
            backend = _journal_backend(path, coordinator)
            storage = JournalStorage(backend)
    return Store(storage=storage, coordinator=coordinator, notices=tuple(notices))


def journal_exists(directory: Path, slug: str) -> bool:
    """Return whether anything was ever stored under ``slug``."""
    return (directory / slug / _JOURNAL).exists()


def _journal_backend(path: Path, coordinator: FileCoordinator) -> Any:
    from optuna.storages.journal import JournalFileBackend

    class NoLock:
        """Optuna's lock files outlive a killed process by 30 s; the coordinator's do not."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    class Backend(JournalFileBackend):
        """Appends under the study's lock, and never to a line that a killed process left open."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with coordinator.mutex():
                if path.stat().st_size and not _ends_cleanly(path):
                    _truncate(path, _last_line_start(path))
                super().append_logs(logs)

    return Backend(str(path), lock_obj=NoLock())  # type: ignore[arg-type]


def _ends_cleanly(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _last_line_start(path: Path) -> int:
    data = path.read_bytes()
    return data.rfind(b"\n") + 1


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _repair(path: Path) -> Iterator[str]:
    """Cut the journal before its first bad line; keep a copy of the damaged file."""
    kept = offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not _is_entry(line):
                break
            kept += 1
            offset += len(line)
    saved = next(
        candidate
        for number in range(1, 10_000)
        if not (candidate := path.with_suffix(f".damaged-{number}")).exists()
    )
    shutil.copyfile(path, saved)
    _truncate(path, offset)
    yield (
        f"line {kept + 1} of the trial log was damaged: the {kept} lines before it were kept, "
        f"the damaged file was saved as {saved.name}"
    )


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, Mapping) and "op_code" in entry and "worker_id" in entry


def open_database(url: str, study: str) -> Store:
    """Open the RDB at ``url``; raise :class:`StorageError` without its password."""
    with uninterrupted():
        import sqlalchemy
        from optuna.storages import RDBStorage, get_storage

        _quiet_optuna()
    shown = masked_url(url)
    try:
        parsed = sqlalchemy.make_url(url)
        dialect = parsed.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The second is for a port that is no number.
        raise StorageError(
            f"storage {shown!r} is not a database URL; write for example postgresql://user@host/db"
        ) from None
    if dialect != _SQLITE and dialect not in DatabaseCoordinator.dialects:
        known = ", ".join(sorted({_SQLITE, *DatabaseCoordinator.dialects}))
        raise StorageError(f"storage {shown!r}: {dialect} is not supported; known: {known}")
    if dialect == _SQLITE and parsed.database in (None, "", ":memory:"):
        raise StorageError(
            f"storage {shown!r} is in memory, which other processes cannot see; name a file"
        )
    try:
        if dialect == _SQLITE:
            coordinator: Coordinator = _beside(Path(str(parsed.database)))
        else:
            with uninterrupted():
                coordinator = DatabaseCoordinator(url, study)
        # Creating the tables is not safe against a second process doing so.
        with coordinator.mutex():
            database = RDBStorage(url)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise StorageError(
            f"storage {shown!r} needs a driver that is not installed: {error}"
        ) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        problem = str(error.__cause__ or error).strip().splitlines()[0]
        raise StorageError(
            f"storage {shown!r} cannot be opened: {without_url_secrets(problem, url)}"
        ) from None
    except OSError as error:
        raise StorageError(f"storage {shown!r} cannot be opened: {error}") from None

    def disconnect() -> None:
        database.remove_session()
        database.engine.dispose()

    return Store(storage=get_storage(database), coordinator=coordinator, disconnect=disconnect)


def _beside(database: Path) -> FileCoordinator:
    if not database.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {database.parent}")
    return FileCoordinator(database.with_name(f"{database.name}.locks"))


def check_database(url: str) -> None:
    """Raise :class:`StorageError` unless the RDB at ``url`` can be opened."""
    open_database(url, "check").close()


def _quiet_optuna() -> None:
    """Silence Optuna's chatter on standard error, unless the user chose a level."""
    import optuna

    if optuna.logging.get_verbosity() == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
