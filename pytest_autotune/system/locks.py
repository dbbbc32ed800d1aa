"""Locks that protect a study, and show which processes are alive.

The operating system or the database server releases them on any death of their holder. So a killed
run leaves nothing to wait for.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import BaseFileLock, FileLock, Timeout

from pytest_autotune.errors import StorageError
from pytest_autotune.system.interrupts import uninterrupted

#: The time between two attempts at a lock that another process has: it grows from the first to
#: the last, as most sections are over in a moment (seconds).
_FIRST_POLL: Final = 0.001
_LAST_POLL: Final = 0.03
#: A database's server lets a process wait for so long at a time, and Ctrl-C has to wait as long.
_SERVER_WAIT: Final = "200ms"
#: Settings of a lock's connection on PostgreSQL. A machine that lost its power or its network says
#: no goodbye: by the system's defaults its locks would be held for more than two hours, with these
#: for a minute.
_SERVER_SETTINGS: Final[Mapping[str, str]] = {
    "lock_timeout": _SERVER_WAIT,
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
#: Not all servers know all of them: the last one came with PostgreSQL 12.
_SET: Final = "SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name"


class Coordinator(ABC):
    """Mutual exclusion between all processes that share a study."""

    def __init__(self, take: Callable[[], bool], give: Callable[[], object]) -> None:
        """``take`` locks the study if that is possible in a moment, ``give`` unlocks it."""
        self._take = take
        self._give = give
        self._depth = 0

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Hold the study for a short, exclusive section; re-entrant within the process.

        Ctrl-C waits until its end: it would leave what is stored half read or half written. It
        takes effect at once while another process holds the study.
        """
        # Counted here, as a file lock's own re-entrance costs time.
        if self._depth:
            yield
            return
        for pause in _pauses():
            with uninterrupted():
                if self._take():
                    self._depth = 1
                    try:
                        yield
                    finally:
                        self._depth = 0
                        self._give()
                    return
            time.sleep(pause)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Hold what this process alone may change, such as the end of its trial.

        Ctrl-C waits until its end. Raises :class:`StorageError` where the process has lost the
        right to it, as others take it for dead.
        """
        with self.mutex():
            yield

    @abstractmethod
    def hold(self, process: str) -> None:
        """Announce that ``process`` (a unique name) is alive, until it dies or releases."""

    @abstractmethod
    def is_alive(self, process: str) -> bool:
        """Return whether ``process`` is alive and has not released its announcement."""

    def sweep(self) -> None:  # noqa: B027 - of a database nothing is left
        """Remove what processes left that died. The caller holds the study."""

    @abstractmethod
    def release(self) -> None:
        """Release all locks of this process."""


class FileCoordinator(Coordinator):
    """File locks in a directory that all processes can reach."""

    def __init__(self, directory: Path) -> None:
        self._owners = directory / "owners"
        self._owners.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / "study.lock")
        super().__init__(partial(_taken, lock), lock.release)
        #: Each with the id of the process that took it.
        self._held: dict[str, tuple[int, BaseFileLock]] = {}

    def hold(self, process: str) -> None:
        """Announce that ``process`` is alive."""
        if process not in self._held:
            lock = FileLock(self._path(process))
            lock.acquire()
            self._held[process] = os.getpid(), lock

    def is_alive(self, process: str) -> bool:
        """Return whether a process holds the lock of ``process``."""
        if process in self._held:
            return True
        path = self._path(process)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
        return False

    def sweep(self) -> None:
        """Remove the locks of processes that died without a trial that anybody asks for."""
        for path in self._owners.glob("*.lock"):
            self.is_alive(path.stem)

    def release(self) -> None:
        """Release all announcements of this process."""
        for process, (pid, lock) in list(self._held.items()):
            # A fork of the process has them, too, and they are not the fork's to end.
            if pid == os.getpid():
                self._path(process).unlink(missing_ok=True)
                lock.release()
                del self._held[process]

    def _path(self, process: str) -> Path:
        return self._owners / f"{process}.lock"


class NoCoordinator(Coordinator):
    """No locks at all, for what is read where no lock can be made."""

    def __init__(self) -> None:
        super().__init__(lambda: True, lambda: None)

    def hold(self, process: str) -> None:
        """Do nothing: this process can begin no trial."""

    def is_alive(self, process: str) -> bool:  # noqa: ARG002
        """Return False, as nobody can tell."""
        return False

    def release(self) -> None:
        """Do nothing."""


def _taken(lock: BaseFileLock) -> bool:
    """Return whether ``lock`` could be taken at once; raise :class:`StorageError` if it cannot be.

    It is a file, which a full disk or a folder that turned read-only does not allow.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise StorageError(f"the study cannot be locked: {error}") from None
    return True


def _pauses() -> Iterator[float]:
    """Yield the seconds between attempts, as long on average for everybody, and not in step."""
    seconds = _FIRST_POLL
    while True:
        yield random.uniform(0.5, 1.5) * seconds  # noqa: S311 - no secret
        seconds = min(2 * seconds, _LAST_POLL)


#: PostgreSQL's code for a lock that was not free within ``lock_timeout``.
_LOCK_NOT_AVAILABLE: Final = "55P03"
_MYSQL: Final = (
    "SELECT GET_LOCK(:name, 0)",
    "SELECT RELEASE_LOCK(:name)",
    "SELECT IS_FREE_LOCK(:name)",
)
#: By SQL dialect: statements that try to take, release and test a named lock of the connection.
_STATEMENTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "postgresql": (
        # The server gives it in the order in which it was asked for.
        "SELECT pg_advisory_lock(:key) IS NOT NULL",
        "SELECT pg_advisory_unlock(:key)",
        # It is free if it can be taken, and then released again.
        "SELECT CASE WHEN pg_try_advisory_lock(:key) THEN pg_advisory_unlock(:key) ELSE false END",
    ),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}


class DatabaseCoordinator(Coordinator):
    """Advisory locks of the database that holds the study.

    They belong to one connection. The server releases them with it.
    """

    dialects: Final = frozenset(_STATEMENTS)

    def __init__(self, url: str, study: str) -> None:
        import sqlalchemy

        self._held: list[str] = []
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        self._lock, unlock, self._free = _STATEMENTS[engine.dialect.name]
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if engine.dialect.name == "postgresql":
            setting = sqlalchemy.text(_SET)
            for name, value in _SERVER_SETTINGS.items():
                self._connection.execute(setting, {"name": name, "value": value})
        super().__init__(
            lambda: bool(self._execute(self._lock, study)), partial(self._execute, unlock, study)
        )

    def hold(self, process: str) -> None:
        """Announce that ``process`` is alive."""
        if process not in self._held:
            # Another process may have it for a moment, to see whether this one is alive.
            for pause in _pauses():
                if self._execute(self._lock, process):
                    break
                time.sleep(pause)
            self._held.append(process)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Hold what this process alone may change; nobody has to wait for it.

        Others take a process for dead once its connection is lost. What they have taken over
        cannot be finished twice, as a trial's state is written once.
        """
        with uninterrupted():
            self._execute("SELECT 1", "")
            yield

    def is_alive(self, process: str) -> bool:
        """Return whether a connection holds the lock of ``process``."""
        return process in self._held or not self._execute(self._free, process)

    def release(self) -> None:
        """Close the connection, and with it every lock."""
        self._held.clear()
        self._connection.close()

    def _execute(self, statement: str, name: str) -> Any:
        import sqlalchemy

        digest = hashlib.sha256(f"pytest-autotune:{name}".encode()).digest()
        arguments: dict[str, Any] = {"key": int.from_bytes(digest[:8], "big", signed=True)}
        if ":name" in statement:
            arguments = {"name": digest.hex()[:60]}
        try:
            return self._connection.execute(sqlalchemy.text(statement), arguments).scalar()
        except sqlalchemy.exc.SQLAlchemyError as error:
            if _timed_out(error):
                return False
            raise StorageError(
                "lost the connection to the study's database, and with it the right to the "
                f"running trial ({type(error.__cause__ or error).__name__}); run again to resume"
            ) from None


def _timed_out(error: Exception) -> bool:
    """Return whether a lock was not free in time. Each driver has its own place for the code."""
    original: Any = getattr(error, "orig", None)
    codes = [getattr(original, name, None) for name in ("sqlstate", "pgcode")]
    details = [each.get("C") for each in getattr(original, "args", ()) if isinstance(each, dict)]
    return _LOCK_NOT_AVAILABLE in [*codes, *details]
