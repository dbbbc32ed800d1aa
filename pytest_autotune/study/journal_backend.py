"""The file behind Optuna's journal storage, whose lines show damage."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from pytest_autotune.errors import ReadOnlyError, StorageError
from pytest_autotune.study.journal_lines import LAST_OPERATION, LINE, Tally
from pytest_autotune.system.locks import Coordinator


class _NoLock:
    """Optuna's lock files outlive a killed process by 30 s; the coordinator's do not."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Backend(JournalFileBackend):
    """Appends under the study's lock, and never to a line that was not written to its end."""

    def __init__(self, path: Path, coordinator: Coordinator, refusal: str = "") -> None:
        """``refusal`` is why nothing can be written, empty where that can be done."""
        super().__init__(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]
        self._path = path
        self._coordinator = coordinator
        self._refusal = refusal
        self._tally = Tally()
        #: The number of the line that was read last, from 0.
        self.last_read = -1

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the entries from this number on."""
        entries = super().read_logs(log_number_from)
        for number in range(log_number_from, 2**63):
            try:
                entry = next(entries, None)
            except ValueError:
                raise StorageError(
                    f"line {number + 1} of the trial log was damaged while runs used it; run again "
                    "to set the damage aside"
                ) from None
            if entry is None:
                return
            # Only our lines say their place. Optuna would fail, and the line pass for damaged.
            if LINE in entry and entry["op_code"] > LAST_OPERATION:
                raise StorageError(
                    f"line {number + 1} of the trial log {self._path} was written by a newer "
                    "version; upgrade pytest-autotune and Optuna, or move the file away to start "
                    "anew"
                )
            self.last_read = number
            if number >= self._tally.entries:
                self._tally.add(entry)
            yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, whole or not at all."""
        if self._refusal:
            raise ReadOnlyError(self._refusal)
        with self._coordinator.mutex():
            drop_torn_line(self._path)
            for _ in self.read_logs(self._tally.entries):
                pass  # They are counted.
            # One by one, as the number of the next depends on the one before.
            for log in logs:
                self._append(self._tally.line(log))

    def _append(self, line: bytes) -> None:
        size = self._path.stat().st_size
        try:
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.truncate(self._path, size)
            raise


def drop_torn_line(path: Path) -> bool:
    """Cut off a last line that was not written to its end; return whether there was one."""
    size = path.stat().st_size
    if not size or _ends_cleanly(path):
        return False
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return True


def _ends_cleanly(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
