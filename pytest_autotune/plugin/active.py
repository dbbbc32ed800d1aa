"""The trial whose tests are running."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gpu.leases import Lease
from pytest_autotune.plugin.attempts import Attempts
from pytest_autotune.plugin.slots import Slot
from pytest_autotune.scoring.judgement import Ending, Judgement, Outcome, judge
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.looks import Look
from pytest_autotune.study.protocol import Study
from pytest_autotune.study.trial import Trial
from pytest_autotune.text.durations import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The GPUs of one trial, and the processes that were on them before it began."""

    lease: Lease = field(default_factory=lambda: Lease(devices=()))
    guests: frozenset[int] = frozenset()


@dataclass(kw_only=True, eq=False)
class ActiveTrial:
    """A trial from the moment it is drawn until its last test has ended.

    ``last`` is its last test. ``look`` is set where it is run to be seen only. ``deadline`` is on
    the monotonic clock, None without a limit. ``refusal`` is why it cannot run.
    ``skip_reason`` is that of a mark that skips one of its tests.
    """

    slot: Slot
    study: Study
    trial: Trial
    record: TrialRecord
    last: pytest.Item
    grant: Grant
    look: Look | None = None
    deadline: float | None = None
    refusal: AutotuneError | None = None
    attempts: Attempts = field(init=False)
    _is_complete: bool = False
    skip_reason: str = ""
    _decider: pytest.Item | None = None
    _finish: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        """Begin without an attempt at any test."""
        self.attempts = Attempts(self.trial)

    def begin(self, item: pytest.Item) -> None:
        """Begin a test, or another attempt at it: then what an earlier one decided is open again.

        Raises :class:`UserError` where the storage fails.
        """
        if not self.attempts.begin(item):
            return
        self._is_complete = False
        if self.concluded and item is self._decider:
            self.reopen()

    def reopen(self) -> None:
        """Make what was decided open again; the result stands until there is another.

        Raises :class:`UserError` where the storage fails.
        """
        self.record = self.record.anew() if self.look else self.study.again(self.record)
        self.trial.begin_again(self.record)
        if self.deadline is not None:
            self.deadline = time.monotonic() + self._seconds

    @property
    def _seconds(self) -> float:
        return self.study.plan.spec.optimization.timeout_per_iteration or 0.0

    @property
    def concluded(self) -> bool:
        """True once its outcome is stored."""
        return self.record.finished

    @property
    def limit(self) -> str:
        """The message where the trial runs past its deadline."""
        return f"ran longer than {duration(self._seconds)} (timeout_per_iteration)"

    def complete(self) -> Judgement:
        """Return the judgement on the trial now that all its tests ran.

        What nobody has reported by the end counts as missing from here on.
        """
        self._is_complete = True
        return self.ended(Ending.COMPLETE).judgement

    def ended(
        self,
        ending: Ending,
        *,
        reason: str = "",
        estimate: float | None = None,
        in_last: bool = True,
    ) -> TrialRecord:
        """Return the trial, ended so and judged by everything that it reported.

        ``in_last`` is whether that was in its last test. Otherwise tests were left out.
        """
        measurement = self.trial.measurement(ending, reason=reason, estimate=estimate)
        if ending is Ending.CUT_SHORT and not in_last:
            measurement = replace(measurement, partial=True)
        question = self.study.question(replace(self.record, measurement=measurement))
        if ending is Ending.CUT_SHORT and self._is_complete:
            complete = replace(measurement, ending=Ending.COMPLETE)
            if judge(complete, question).outcome is Outcome.INFEASIBLE:
                measurement = complete
        look = self.look
        judgement = (
            judge(measurement, question) if look is None else look.judge(measurement, question)
        )
        return replace(self.record, measurement=measurement, judgement=judgement)

    def rivals(self) -> Sequence[TrialRecord]:
        """Return the trials that it must be able to beat: none if it is run to be seen."""
        return () if self.look is not None else self.study.records()

    def store(self, record: TrialRecord, item: pytest.Item) -> None:
        """Store the trial as it ended in the test ``item``, unless it is a look.

        Raises :class:`TrialLostError` where another process took it over, :class:`UserError`
        where the storage fails.
        """
        if self.look is None:
            self.study.finish(record)
        self.record, self._decider = record, item

    def give_back(self) -> None:
        """Leave the trial to a later session, unless its outcome is stored."""
        if not self.concluded and self.look is None:
            self.study.give_back(self.record)

    def end_fixtures_by(self, finish: Callable[[], object]) -> None:
        """Remember how to end the trial's fixture, and with it all that use it."""
        self._finish = finish

    def end_fixtures(self) -> None:
        """End the trial's fixtures."""
        self._finish()
