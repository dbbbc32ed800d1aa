"""Temporary folders whose owner may be killed: the next run removes what is left.

The owner holds a lock in its folder, which the operating system releases on any death. Where the
lock is free, nobody uses the folder.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_autotune.errors import StorageError

#: The name of every folder that is in use, with its lock.
_FOLDERS: Final = ("autotune-*", "pytest-autotune-*")
#: Begins its name before it is locked, so that nobody takes it for one without an owner.
_UNBORN: Final = ".new."
_LOCK: Final = "owner.lock"


class Scratch:
    """A temporary folder of this process, until it is removed or the process dies."""

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        """Make a folder whose name begins with ``prefix``.

        It is made where the system keeps such folders, or in ``parent``. Raises
        :class:`StorageError`.
        """
        try:
            parent = Path(tempfile.gettempdir()) if parent is None else parent
            made = Path(tempfile.mkdtemp(prefix=f"{_UNBORN}{prefix}", dir=parent))
            self._lock = FileLock(made / _LOCK)
            self._lock.acquire()
            # The lock is on the file, and stays with it.
            self.path = made.rename(parent / made.name.removeprefix(_UNBORN))
        except OSError as error:
            raise StorageError(
                f"no temporary folder can be made: {error}; set TMPDIR to one that can be written"
            ) from None

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Give a temporary folder for the length of a block."""
    sweep()
    made = Scratch(prefix)
    try:
        yield made.path
    finally:
        made.remove()


def sweep() -> None:
    """Remove this user's folders whose owners died."""
    try:
        place = Path(tempfile.gettempdir())
    except OSError:
        return  # Whoever needs a temporary folder says so.
    for lock in (lock for name in _FOLDERS for lock in place.glob(f"{name}/{_LOCK}")):
        try:
            if _is_own(lock.parent):
                with FileLock(lock, timeout=0):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except (Timeout, OSError):
            continue  # In use, or removed by another run at this moment.


def _is_own(folder: Path) -> bool:
    """Return whether a folder is this user's, and no link to one.

    In somebody else's the lock may be a link to a file of this user, which locking would empty.
    """
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
