"""The guard of a process's GPU: once an error broke it, no further trial runs in this process.

Under xdist another worker goes on (:mod:`~pytest_autotune.plugin.successors`). A run without
workers ends, and the same command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Final

import pytest

from pytest_autotune.gpu.cuda import CudaError
from pytest_autotune.gpu.health import DeviceHealth
from pytest_autotune.plugin.collect import StudyCollector
from pytest_autotune.plugin.context import BROKEN, RunContext
from pytest_autotune.plugin.run import TrialRunner

#: Tests that measure in processes of their own, whatever happened in this one.
OWN_PROCESS: Final = pytest.StashKey[bool]()
#: Work that a failed test left on the GPU may go on for so long (seconds).
_PATIENCE: Final = 10.0
#: What to do where an error comes up after the call that caused it.
LATE: Final = "it came up after the test; CUDA_LAUNCH_BLOCKING=1 shows which call it comes from"


class DeviceGuard:
    """Hooks that wait for the GPU after each part of a test, and end the run where it broke.

    ``pinned`` is whether nothing is searched.
    """

    def __init__(
        self,
        context: RunContext,
        collector: StudyCollector,
        runner: TrialRunner,
        health: DeviceHealth,
        *,
        pinned: bool,
    ) -> None:
        self._context = context
        self._collector = collector
        self._runner = runner
        self._health = health
        self._pinned = pinned
        self._next: pytest.Item | None = None
        self._culprit: pytest.Item | None = None
        self._text = ""
        self._is_stored = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, nextitem: pytest.Item | None) -> None:
        """Remember which test comes next."""
        self._next = nextitem

    @pytest.hookimpl(specname="pytest_runtest_setup", tryfirst=True)
    def pytest_refuse_setup(self, item: pytest.Item) -> None:
        """Keep tests from a GPU that is broken; those of the trial that broke it are skipped.

        Not a wrapper, as other plugins' wrappers must have begun where a set-up fails.
        """
        error = self._health.error
        if error is None or OWN_PROCESS in item.stash:
            return
        active = self._runner.active_for(item)
        if item is self._culprit or active is None or not active.concluded:
            raise error

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Find out whether a set-up that failed broke the GPU."""
        if self._health.error is not None:
            self._leave_after(item)
        slot = self._collector.slot_of(item)
        passed_over = slot is not None and self._runner.active_for(item) is None
        try:
            return (yield)
        except BaseException as failure:
            # No fixture of a test that is passed over ran, and a study may have thousands of them.
            if not passed_over:
                self._look(item, failure)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Wait for what a test left on the GPU: an error of it is that of the test."""
        try:
            result = yield
        except BaseException as failure:
            self._look(item, failure)
            raise
        self._check(item)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Wait for what the fixtures of a test left on the GPU."""
        worked = self._health.error is None
        try:
            result = yield
            # Fixtures hardly begin to use it in their teardown, and asking takes 0.1 ms.
            if self._health.in_use:
                self._check(item)
        except BaseException as failure:
            self._look(item, failure)
            raise
        finally:
            if worked and self._is_left_after(item):
                # What the remaining fixtures report is of no use; at the end it would be a crash.
                with suppress(Exception, pytest.fail.Exception, pytest.skip.Exception):
                    item.session._setupstate.teardown_exact(None)  # noqa: SLF001 - pytest's own way
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Decide which test is the last of this process, once the trial has been judged.

        Before the teardown, in which pytest ends all fixtures, then.
        """
        report = yield
        if self._health.error is not None:
            self._leave_after(item)
        return report

    def _check(self, item: pytest.Item) -> None:
        """Fail a test whose work broke the GPU."""
        known = self._health.error
        error = self._health.look()
        if error is None or error is known:
            return
        self._note(item, error)
        if self._runner.active_for(item) is None:
            pytest.fail(f"{error}\n{LATE}", pytrace=False)
        raise error

    def _look(self, item: pytest.Item, failure: BaseException) -> None:
        """Find out whether a test that failed broke the GPU."""
        ends = isinstance(failure, KeyboardInterrupt | SystemExit | pytest.exit.Exception)
        if self._health.error is None and not ends:
            if isinstance(failure, CudaError):
                # Waiting does not show everything, such as a capture that cannot be ended.
                self._health.error = failure
            error = self._health.look(_PATIENCE)
            if error is not None:
                self._note(item, error)

    def _note(self, item: pytest.Item, error: CudaError) -> None:
        """Note which test broke the GPU."""
        active = self._runner.active_for(item)
        name = item.nodeid if active is None else f"trial {active.record.number}"
        self._culprit = item
        self._text = f"the GPU no longer works in this process after {name} ({error})"
        self._is_stored = active is not None and active.look is None and not self._pinned

    def _is_left_after(self, item: pytest.Item) -> bool:
        """Return whether this process runs no test after ``item``, although there is one."""
        following = self._next
        if self._health.error is None or following is None or OWN_PROCESS in following.stash:
            return False
        slot = self._collector.slot_of(item)
        same = slot is not None and self._collector.slot_of(following) is slot
        return not same and not self._runner.is_unneeded(following)

    def _leave_after(self, item: pytest.Item) -> None:
        """Leave the tests after ``item`` to another process, unless they may run here."""
        if not self._is_left_after(item):
            return
        if self._context.is_worker:
            output: dict[str, Any] = item.config.workeroutput  # type: ignore[attr-defined]
            output[BROKEN] = item.session.shouldstop = self._text
        elif self._is_stored:
            item.session.shouldfail = (
                f"{self._text}; the same command goes on with the rest, and -n 1 does so by itself"
            )
        else:
            item.session.shouldfail = f"{self._text}; with -n 1, another process runs the rest"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Generator[None, object, object]:
        """End a worker whose GPU is broken, which otherwise keeps its memory until the run ends.

        At once, as what libraries do at the end of a process may crash or hang with it.
        """
        try:
            return (yield)
        finally:
            if self._context.is_worker and self._health.error is not None:
                os._exit(0)
