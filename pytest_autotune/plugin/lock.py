"""``--autotune-lock`` in a pytest run: reads the lock file at the start, writes it at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.gate.lock.entry import LockError
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file
from pytest_autotune.gate.lock.locking import Locking, Pinning
from pytest_autotune.gate.revision.repository import describe
from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.harness import harness_of
from pytest_autotune.system.files import unwritable

if TYPE_CHECKING:
    import pytest

    from pytest_autotune.plugin.context import RunContext
    from pytest_autotune.study.settings import Settings
    from pytest_autotune.study.summary import Summary


class Locker:
    """Pins the best configurations of a run at its end."""

    def __init__(self, config: pytest.Config, settings: Settings, context: RunContext) -> None:
        """Read the lock file, so that errors in it appear before hours of tuning.

        Raises :class:`LockError`.
        """
        self._config = config
        self._force = settings.lock_force
        self._log = context.logs / "lock.log"
        self._path = config.rootpath / LOCK_NAME
        locked = unwritable(self._path.resolve().parent)
        if locked is not None:
            raise LockError(f"{locked} cannot be written, so nothing can be pinned in {LOCK_NAME}")
        there = self._path.exists() or self._path.is_symlink()
        self._entries = read_lock_file(self._path) if there else {}

    def lock(self, summaries: Sequence[Summary]) -> list[Locking]:
        """Pin the best of each study; raises :class:`LockError` if that fails."""
        harness = harness_of(self._config)
        commit = describe(self._config.rootpath)
        pinning = Pinning(
            launcher=lambda params: replace(harness.launcher(params, self._log), lenient=False),
            force=self._force,
            commit="" if commit is None else f"{commit.short}{'-dirty' if commit.dirty else ''}",
            say=self._say,
        )
        return pinning.lock(summaries, self._entries, self._path)

    def _say(self, text: str) -> None:
        announce(self._config, f"autotune: {text}", cyan=True)
