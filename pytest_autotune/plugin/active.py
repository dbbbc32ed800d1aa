"""The trial whose tests are running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from pytest_autotune.errors import TooFewGpusError
from pytest_autotune.gpu.leases import Lease
from pytest_autotune.plugin.slots import Slot
from pytest_autotune.scoring.judgement import Ending, Judgement, judge
from pytest_autotune.scoring.records import TrialRecord
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

    ``last`` is its last test. ``deadline`` is on the monotonic clock, None without a limit.
    ``refusal`` is why it cannot have its GPUs. Only its own methods change it.
    """

    slot: Slot
    study: Study
    trial: Trial
    record: TrialRecord
    last: pytest.Item
    grant: Grant
    deadline: float | None = None
    refusal: TooFewGpusError | None = None
    _ended: TrialRecord | None = None
    _finish: Callable[[], object] = lambda: None

    @property
    def concluded(self) -> bool:
        """True once its outcome is stored."""
        return self.record.finished

    @property
    def limit(self) -> str:
        """The message where the trial runs past its deadline."""
        seconds = self.study.plan.spec.optimization.timeout_per_iteration or 0.0
        number = self.record.number
        return f"trial {number} ran longer than {duration(seconds)} (timeout_per_iteration)"

    def complete(self) -> Judgement:
        """Judge the trial by everything that it reported: what is missing now stays missing."""
        self._ended = self._judged(Ending.COMPLETE)
        return self._ended.judgement

    def conclude(self, ending: Ending, *, reason: str = "", estimate: float | None = None) -> None:
        """Store how the trial ended.

        Raises :class:`TrialLostError` where another process took it over, :class:`UserError`
        where the storage fails.
        """
        judged = ending in {Ending.COMPLETE, Ending.CUT_SHORT}
        record = self._ended if judged else None
        record = record or self._judged(ending, reason=reason, estimate=estimate)
        self.study.finish(record)
        self.record = record

    def _judged(
        self, ending: Ending, *, reason: str = "", estimate: float | None = None
    ) -> TrialRecord:
        measurement = self.trial.measurement(ending, reason=reason, estimate=estimate)
        judgement = judge(measurement, self.study.plan.question)
        return replace(self.record, measurement=measurement, judgement=judgement)

    def give_back(self) -> None:
        """Leave the trial to a later session, unless its outcome is stored."""
        if not self.concluded:
            self.study.give_back(self.record)

    def end_fixtures_by(self, finish: Callable[[], object]) -> None:
        """Remember how to end the trial's fixture, and with it all that use it."""
        self._finish = finish

    def end_fixtures(self) -> None:
        """End the trial's fixtures."""
        self._finish()
