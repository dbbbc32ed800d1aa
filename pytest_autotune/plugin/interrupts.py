"""Ctrl-C at any moment: the run cleans up undisturbed, and ends with pytest's exit status."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from pytest_autotune.system.interrupts import CleanUp, forget_interrupt, heed


class InterruptHooks:
    """Hooks that begin the clean-up where a run ends, and end it last."""

    def __init__(self) -> None:
        heed()
        self.clean_up = CleanUp()
        self._interrupted = False
        #: Whether another run of pytest in this process goes on when this one has ended.
        self._within_a_test = "PYTEST_CURRENT_TEST" in os.environ

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Begin the clean-up as soon as an interrupt ends the collection."""
        return (yield from self._until_interrupted())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Begin the clean-up as soon as an interrupt ends the tests."""
        return (yield from self._until_interrupted())

    def _until_interrupted(self) -> Generator[None, object, object]:
        try:
            return (yield)
        except KeyboardInterrupt:
            self._begin()
            raise

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """Begin the clean-up, wherever the interrupt came from."""
        self._begin()

    def _begin(self) -> None:
        self.clean_up.begin()
        self._interrupted = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Clean up undisturbed; an interrupt meanwhile counts in the exit status."""
        self.clean_up.begin()
        result = yield
        if self.clean_up.interrupted and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave Ctrl-C as it was; the process of a run on its own ends with it."""
        if self._interrupted or self.clean_up.interrupted:
            forget_interrupt()
        self.clean_up.end(process_ends=not self._within_a_test)
