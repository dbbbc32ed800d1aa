"""Open the database that a study lives in; what it gives is the same for a journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_autotune.errors import StorageError
from pytest_autotune.study.database_url import masked_url, without_url_secrets
from pytest_autotune.system.interrupts import uninterrupted
from pytest_autotune.system.locks import Coordinator, DatabaseCoordinator, FileCoordinator

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_SQLITE: Final = "sqlite"
_SQLITE_HEAD: Final = b"SQLite format 3\0"


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


def open_database(url: str, study: str) -> Store:
    """Open the RDB at ``url``; raise :class:`StorageError` without its password."""
    with uninterrupted():
        import sqlalchemy
        from optuna.storages import RDBStorage, get_storage

        quiet_optuna()
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
    except (OSError, RuntimeError) as error:
        # The second is Optuna's, where another version of it made the tables.
        raise StorageError(f"storage {shown!r} cannot be opened: {error}") from None

    def disconnect() -> None:
        database.remove_session()
        database.engine.dispose()

    return Store(storage=get_storage(database), coordinator=coordinator, disconnect=disconnect)


def _beside(database: Path) -> FileCoordinator:
    """Return the locks beside a database; make none beside a file that is no database."""
    if not database.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {database.parent}")
    if database.exists():
        # A folder or a device has no beginning that could be looked at.
        if not database.is_file():
            raise OSError(f"{database} is not a file")
        with database.open("rb") as file:
            head = file.read(len(_SQLITE_HEAD))
        # SQLite makes an empty file before it writes to it.
        if head not in (b"", _SQLITE_HEAD):
            raise OSError(f"{database} is not an SQLite database")
    return FileCoordinator(database.with_name(f"{database.name}.locks"))


def check_database(url: str) -> None:
    """Raise :class:`StorageError` unless the RDB at ``url`` can be opened."""
    open_database(url, "check").close()


def quiet_optuna() -> None:
    """Silence Optuna's chatter on standard error, unless the user chose a level."""
    import optuna

    if optuna.logging.get_verbosity() == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
