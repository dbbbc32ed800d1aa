"""The trial that a test gets as ``trial``."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any, Final, NoReturn, TypeAlias

from pytest_autotune.errors import (
    ConflictingReportsError,
    InvalidMeasurementError,
    SLOViolation,
    TrialPruned,
)
from pytest_autotune.scoring.compliance import broken_so_far
from pytest_autotune.scoring.judgement import Ending, Measurement, ambiguity
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import flatten
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import Compliance
from pytest_autotune.scoring.wording import slo_table
from pytest_autotune.study.case_reports import CaseReports
from pytest_autotune.study.params import Params
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.reported import read_level, read_report

#: What a trial had reported at some moment.
Checkpoint: TypeAlias = Mapping[str, Any]
#: Attributes of a trial that no report changes.
_FIXED: Final = frozenset({"_record", "_plan", "_seed", "_reported", "_read", "_began"})


class Trial:
    """One configuration under test, shared by all tests of its study that run for it."""

    def __init__(self, record: TrialRecord, plan: Plan, seed: int | None = None) -> None:
        self._record = record
        self._plan = plan
        self._seed = plan.seed if seed is None else seed
        self._read: set[str] = set()
        self._reports = 0
        self._reported = CaseReports()
        self._notes: list[str] = []
        self._disturbances: list[str] = []
        self._partial = False
        # The time of day may be set meanwhile.
        self._began = time.monotonic()

    def __repr__(self) -> str:
        """Show number and parameters, as they appear in a failing test's locals."""
        return f"<Trial {self.number} {dict(self._record.params)}>"

    @property
    def number(self) -> int:
        """Number of the trial in its study, from 0."""
        return self._record.number

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters to run with: name to value, conditional ones only where active."""
        return Params(self._record.params, self._read, self._plan.spec.space.names)

    @property
    def read(self) -> Collection[str]:
        """The names of the parameters that tests read, and those that reached a server."""
        return self._read

    def reached(self, names: Iterable[str]) -> None:
        """Note parameters that had an effect without a test."""
        self._read.update(names)

    @property
    def seed(self) -> int:
        """A seed for the data that the tests make.

        The study's own, so that all trials work on the same; a fresh one whenever a pinned
        configuration is launched again.
        """
        return self._seed

    @property
    def reports(self) -> int:
        """The number of reports so far."""
        return self._reports

    @property
    def cases(self) -> CaseReports:
        """The reports by case: the other parameters of the tests that made them."""
        return self._reported

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec document as written, as plain JSON types."""
        return self._plan.spec.raw

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics reported so far, under flat names such as ``p99_e2e_latency``.

        In a test with other parameters: those of the same case, and those outside of cases.
        """
        return self._reported.metrics

    @property
    def levels(self) -> tuple[Level, ...]:
        """The load levels reported so far, lightest first, of the same case as :attr:`metrics`."""
        return self._reported.levels

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the trial was measured."""
        return tuple(dict.fromkeys(self._notes))

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Report metrics of this trial; times in seconds, throughputs in tokens/s.

        Accepts flat names (``{"p99_e2e_latency": 0.2}``) or statistics per metric
        (``{"latency": {"p99": 0.2}}``); ``levels`` may hold a list of load levels, each a
        mapping with ``concurrency`` or ``request_rate`` (and ``scenario``), ``notes`` a list of
        sentences for the summary, and ``disturbances`` one of reasons not to believe it.
        ``partial`` says why not all was measured. A number under one of these names is a metric.
        May be called more than once: later values of a test replace earlier ones of the same
        name. A test with other parameters, such as a shape, reports in a case of its own.

        Raises :class:`ConflictingReportsError` where another test reported another value of what
        the objective or the SLO asks for, and :class:`SLOViolation` at once if a hard SLO is
        broken. What an SLO names and nobody reported fails at the end of the trial. Raises
        :class:`InvalidMeasurementError` where a level says by ``invalid`` why its numbers are
        not the server's.
        """
        __tracebackhide__ = True  # what is wrong is the user's call, so that line is shown
        report = read_report(metrics)
        self._reports += 1
        self._partial |= report.partial
        for text in report.notes:
            self.note(text)
        self.disturbed(report.disturbances)
        for level in report.levels:
            self._reported.add_level(level)
        if report.invalid:
            raise InvalidMeasurementError(report.invalid)
        self._reported.add(report.metrics)
        self._assert_reported()

    def report_measurement(self, measurement: Measurement) -> None:
        """Report a measurement of another time, which has flat names already."""
        self._reports += 1
        self.disturbed(measurement.disturbances)
        self._partial |= measurement.partial
        self._reported.take(measurement)
        for case in ("", *(case.name for case in measurement.cases)):
            self._reported.enter(case)
            self._assert_reported()

    def report_level(self, concurrency: int, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of one load level, in the same shapes as :meth:`report`.

        Each level is held against the SLO by itself. Under ``slo.levels: all`` (the default)
        a level that breaks a hard SLO raises :class:`SLOViolation` at once.
        """
        __tracebackhide__ = True
        level = read_level(concurrency, metrics)
        self._reports += 1
        self._reported.add_level(level)
        try:
            self._assert_reported()
        except SLOViolation:
            # The levels that would follow are left out.
            self._partial = True
            raise

    def note(self, text: str) -> None:
        """Add a sentence on how this trial was measured, for the summary.

        In a test with other parameters it is about their case, and says so.
        """
        case = self._reported.present.name
        self._notes.append(f"{case}: {text}" if case else text)

    def disturbed(self, reasons: Iterable[str]) -> None:
        """Add reasons not to believe what was measured; each counts once."""
        self._disturbances += (text for text in reasons if text not in self._disturbances)

    def prune(self, reason: str = "", estimate: float | None = None) -> NoReturn:
        """Give the trial up: it cannot win, or more load would tell nothing.

        ``estimate`` is what the objective had reached by then, or would at best have come to,
        where that is known: the search learns from it.
        """
        if estimate is not None:
            (estimate,) = flatten({"estimate": estimate}).values()
        raise TrialPruned(reason or "given up early", estimate)

    def measurement(
        self, ending: Ending, *, reason: str = "", estimate: float | None = None
    ) -> Measurement:
        """Return everything reported so far as a measurement."""
        outside = self._reported.outside
        repeated = self._reported.reporters.notes(self._plan.question.asked)
        return Measurement(
            ending=ending,
            metrics=outside.metrics,
            levels=outside.levels,
            cases=self._reported.cases,
            notes=tuple(dict.fromkeys((*self.notes, *repeated))),
            disturbances=tuple(self._disturbances),
            reason=reason,
            estimate=estimate if estimate is not None and math.isfinite(estimate) else None,
            partial=self._partial,
            duration=round(time.monotonic() - self._began, 6),
        )

    def checkpoint(self) -> Checkpoint:
        """Return everything reported so far, for :meth:`restore`."""
        own = {name: value for name, value in vars(self).items() if name not in _FIXED}
        return deepcopy({"own": own, "reported": vars(self._reported)})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Forget what was reported since ``checkpoint``, as it is reported anew."""
        saved = deepcopy(dict(checkpoint))
        vars(self).update(saved["own"])
        # In place, as others hold it.
        vars(self._reported).update(saved["reported"])

    def begin_again(self, record: TrialRecord) -> None:
        """Go on as another attempt of the same trial."""
        self._record = record
        self._began = time.monotonic()

    def _assert_reported(self) -> None:
        """Fail at once for a bound that the present case breaks, or for two values of a metric.

        Where nothing says how cases combine, that is what the trial fails for, at its end.
        """
        clash = self._reported.reporters.clash(self._plan.question.asked)
        if clash:
            raise ConflictingReportsError(clash)
        slo, found = self._plan.spec.slo, self._reported.present
        if ambiguity(self._reported.outside, self._reported.cases, self._plan.question):
            return
        case = None if self._plan.spec.optimization.cases is None else found.name or None
        self._assert_slo(broken_so_far(found.metrics, slo, case=case))
        if slo.levels == "all":
            for level in found.levels:
                self._assert_slo(broken_so_far(level.metrics, slo, level.label, case))

    def _assert_slo(self, compliance: Compliance) -> None:
        if not compliance.feasible:
            raise SLOViolation(slo_table(compliance.results))
