"""Attempts at a test: plugins may run it again, until it passes, or so many times."""

from __future__ import annotations

import pytest

from pytest_autotune.study.trial import Checkpoint, Trial


class Attempts:
    """The attempts at the test of a trial that runs, however they come about.

    All of them happen before the next test begins. ``error`` is what ended the latest call.
    """

    def __init__(self, trial: Trial) -> None:
        self.error: BaseException | None = None
        self._trial = trial
        self._item: pytest.Item | None = None
        self._number = 0
        self._judged = 0
        self._checkpoint: Checkpoint = {}
        self._was_set_up = False
        self._may_run = False

    def begin(self, item: pytest.Item) -> bool:
        """Begin an attempt; return whether there was an earlier one.

        What an earlier one reported is forgotten, but for the reports of its set-up: a fixture
        of the trial may live on.
        """
        self.error, self._may_run = None, False
        if item is self._item:
            self._number += 1
            self._trial.restore(self._checkpoint)
            return True
        self._item, self._number, self._judged = item, 1, 0
        self._checkpoint, self._was_set_up = self._trial.checkpoint(), False
        return False

    def allow(self) -> None:
        """Note that no mark skips the test."""
        self._may_run = True

    def set_up(self) -> None:
        """Note that the test was set up."""
        if not self._was_set_up:
            self._checkpoint, self._was_set_up = self._trial.checkpoint(), True

    def judge(self) -> None:
        """Note that the latest attempt was judged."""
        self._judged = self._number

    @property
    def unjudged(self) -> bool:
        """True if the latest attempt had no report of its own, as with pytest-retry."""
        return self._judged < self._number

    @property
    def is_skipped_by_mark(self) -> bool:
        """True if a mark skips the test, which so takes no part in any trial."""
        item = self._item
        return (
            not self._may_run
            and item is not None
            and any(mark.name in {"skip", "skipif"} for mark in item.iter_markers())
        )
