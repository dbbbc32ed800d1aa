"""Judging: the reports of a trial's tests become the outcome of the trial."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.errors import (
    ConflictingReportsError,
    InvalidMeasurementError,
    MissingMetricError,
    ProcessDiedError,
    RecordedFailure,
    ServerError,
    SLOViolation,
    TooFewGpusError,
    TrialLostError,
    TrialPruned,
    TrialTimeout,
    UserError,
)
from pytest_autotune.gpu.cuda import CudaError
from pytest_autotune.gpu.health import DeviceHealth
from pytest_autotune.plugin.active import ActiveTrial
from pytest_autotune.plugin.cases import case_of
from pytest_autotune.plugin.code import CodeWatcher
from pytest_autotune.plugin.device_guard import LATE
from pytest_autotune.plugin.failing import STATUS, mark_infeasible
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.live import LINE, attach, attach_look, detach
from pytest_autotune.plugin.mistakes import not_run
from pytest_autotune.plugin.run import TrialRunner
from pytest_autotune.report.failure import infeasible_report
from pytest_autotune.scoring.judgement import Ending, Judgement, Outcome
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.scoring.wording import slo_table
from pytest_autotune.study.skips import mark_note
from pytest_autotune.system.masking import Masker
from pytest_autotune.text.printable import printable, printable_lines

if TYPE_CHECKING:
    # It loads HTTP and SSL, which a launch of a kernel does not need.
    from pytest_autotune.serving.server import InferenceServer

_LOG_LINES: Final = 60
#: Errors whose text alone says what happened, so that no traceback is shown.
_PLAIN_ERRORS: Final = (
    ConflictingReportsError,
    CudaError,
    InvalidMeasurementError,
    MissingMetricError,
    ProcessDiedError,
    RecordedFailure,
    ServerError,
    TooFewGpusError,
    TrialTimeout,
    UserError,
)


class TrialJudge:
    """Hooks that turn what happened to tests into what happened to their trial."""

    def __init__(  # noqa: PLR0913, PLR0917 - made by Tuning
        self,
        config: pytest.Config,
        runner: TrialRunner,
        findings: Findings,
        masker: Masker,
        code: CodeWatcher,
        health: DeviceHealth,
    ) -> None:
        self._health = health
        self._config = config
        self._runner = runner
        self._findings = findings
        self._masker = masker
        self._code = code

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_makereport")
    def pytest_mask_report(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep secrets out of a report, whatever plugin put them there.

        Outside all others, which the wrapper that judges trials must not be. A plugin between
        the two may have made further attempts at the test, of which this is the only report.
        """
        report = yield
        active = self._runner.active_for(item)
        if active is not None and call.when == "call" and active.attempts.unjudged:
            active.attempts.judge()
            detach(report)
            if not active.concluded:
                self._judge_report(active, item, report, active.attempts.error)
        _mask_report(report, self._masker)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the trial at the end of its last test, where that test can still fail."""
        active = self._runner.active_for(item)
        if active is None:
            return (yield)
        try:
            result = yield
            if item is active.last:
                _check(active.complete())
        except BaseException as error:
            active.attempts.error = error
            raise
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Conclude the trial where this report decides it."""
        active = self._runner.active_for(item)
        report = yield
        if active is None:
            return report
        if call.when != "teardown":
            active.attempts.judge()
        error = None if call.excinfo is None else call.excinfo.value
        if self._health.error is not None:
            self._blame(active, item, report, error)
            return report
        if active.concluded:
            return report
        if call.when != "teardown":
            self._judge_report(active, item, report, error)
        elif item is active.last:
            # The last test did not run to its end: a mark skips it.
            if active.complete().outcome is Outcome.FAILED and active.skip_reason:
                self._conclude(active, item, report, Ending.SKIPPED, reason=active.skip_reason)
            else:
                self._conclude(active, item, report, Ending.COMPLETE)
        return report

    def _judge_report(
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        error: BaseException | None,
    ) -> None:
        mistake = not_run(item, error)
        if mistake:
            report.outcome, report.longrepr = "failed", mistake
            self._conclude(active, item, report, Ending.FAILED, reason=mistake)
        elif isinstance(error, SLOViolation):
            self._conclude(active, item, report, Ending.CUT_SHORT, table=str(error))
        elif isinstance(error, TrialPruned) or _is_optunas_pruned(error):
            reason = str(error) or "given up early"
            estimate = error.estimate if isinstance(error, TrialPruned) else None
            self._conclude(active, item, report, Ending.PRUNED, reason=reason, estimate=estimate)
            _mark(report, Outcome.PRUNED, reason)
        elif report.failed:
            self._fail(active, item, report, error)
        elif report.skipped:
            reason = self._masker(_skip_reason(report, error))
            if active.attempts.is_skipped_by_mark:
                # The test takes no part in any trial: the others decide.
                active.skip_reason = reason
                note = mark_note(_test_of(item), reason)
                self._findings.add_notices(active.slot.study, [note])
            else:
                self._conclude(active, item, report, Ending.SKIPPED, reason=reason)
        elif report.passed and report.when == "call" and item is active.last:
            self._conclude(active, item, report, Ending.COMPLETE)

    def _blame(
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        error: BaseException | None,
    ) -> None:
        """Conclude the trial that broke the GPU as failed, whatever else became of its test."""
        if active.concluded:
            if active.record.outcome is Outcome.FAILED:
                return
            active.reopen()
        if not report.failed or _is_verdict(error):
            # A skip, an expected failure, or a trial that seemed to be too slow.
            vars(report).pop("wasxfail", None)
            report.outcome, error = "failed", self._health.error
        self._fail(active, item, report, error)

    def _fail(
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        error: BaseException | None,
    ) -> None:
        """Conclude a trial whose test failed, and show what explains it."""
        self._add_server_log(active, report)
        command = self._runner.resources.server_command(active)
        if isinstance(error, _PLAIN_ERRORS):
            report.longrepr = printable_lines(f"trial {active.record.number}: {error}")
            if error is self._health.error:
                report.longrepr += f"\n{LATE}"
            # The reason why there is none may be the failure itself.
            if command and not command.endswith(" ".join(str(error).split())):
                report.longrepr += f"\nserver command: {command}"
        elif command:
            report.sections.append(("inference server command", command))
        broken = self._health.error
        if broken is not None and error is not broken:
            report.sections.append(("the GPU no longer works", str(broken)))
        if isinstance(error, MissingMetricError) and not self._has_died(active):
            # It only has no answer to this question, and may have one to another.
            self._conclude(active, item, report, Ending.COMPLETE)
            return
        reason = self._reason(active, error)
        self._conclude(active, item, report, Ending.FAILED, reason=reason)

    def _conclude(  # noqa: PLR0913 - all that is known of its end
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        ending: Ending,
        *,
        reason: str = "",
        estimate: float | None = None,
        table: str = "",
    ) -> None:
        """Store how the trial ended, tell other plugins, and send a line along with the report."""
        record = active.ended(ending, reason=reason, estimate=estimate, in_last=item is active.last)
        study = active.study
        self._note_reached(active, record)
        if record.outcome is Outcome.INFEASIBLE:
            # Before it is stored, as the report says so even if the storage fails.
            command = self._runner.resources.server_command(active)
            text = infeasible_report(record, table, command)
            if report.skipped:
                pass  # A mark says that the test is expected to fail.
            elif study.plan.xfail:
                _mark(report, Outcome.INFEASIBLE, text)
            else:
                mark_infeasible(report, active.slot.study, record, text)
        try:
            self._code.note(active, item.path, self._server_of(active))
            active.store(record, item)
        except TrialLostError as error:
            self._findings.add_notices(active.slot.study, [str(error)])
            self._runner.forget()
            return
        except UserError as error:
            self._runner.stop_with(str(error))
            return
        if active.look is not None:
            item.user_properties.append(("autotune_look", record.outcome.value))
            attach_look(report, record)
            return
        item.user_properties.append(("autotune_outcome", record.outcome.value))
        item.user_properties += (
            ("autotune_disturbed", reason) for reason in record.measurement.disturbances
        )
        if record.value is not None:
            item.user_properties.append((f"autotune_{record.metric}", record.value))
        if record.judgement.cases is not None:
            # What the value is a ratio to, and of how many cases.
            item.user_properties.append(("autotune_cases", record.judgement.answer))
        if self._config.get_verbosity() > 0:
            best = incumbent(effective(study.records()))
            attach(report, study.plan.label, record, best)
        self._config.hook.pytest_autotune_trial_finished(
            config=self._config, study=study.plan.label, trial=record
        )

    def _note_reached(self, active: ActiveTrial, record: TrialRecord) -> None:
        """Note the parameters that reached a test or a server, unless results are replayed."""
        if active.study.plan.source.measures:
            whole = record.measurement.ending is Ending.COMPLETE and active.look is None
            names = record.params if whole else ()
            self._findings.add_reached(active.slot.study, active.trial.read, complete=names)

    def _reason(self, active: ActiveTrial, error: BaseException | None) -> str:
        """Return in a line why a trial failed; a dead server explains what else went wrong."""
        if isinstance(error, ServerError):
            said = str(error).removeprefix(error.headline).splitlines()
            # The last line of its log is the likeliest cause.
            return self._masker("\n".join([error.headline, *(line.strip() for line in said[-1:])]))
        reason = str(error) if isinstance(error, _PLAIN_ERRORS) else _one_line(error)
        broken = self._health.error
        if broken is not None and error is not broken:
            reason = f"{broken}; {reason}"
        server = self._server_of(active)
        ended = None if server is None else server.exited()
        if server is not None and ended is not None:
            reason = f"server died ({server.description}: {ended}); {reason}"
        return self._masker(reason)

    def _has_died(self, active: ActiveTrial) -> bool:
        """Return whether the trial's server has ended, which explains what else went wrong."""
        server = self._server_of(active)
        return server is not None and server.exited() is not None

    def _add_server_log(self, active: ActiveTrial, report: pytest.TestReport) -> None:
        """Add the end of the server's log to the report of a failure."""
        server = self._server_of(active)
        if server is None or server.log_file is None:
            return
        tail = server.last_words(_LOG_LINES)
        if tail:
            title = f"inference server log ({server.description}, {server.log_file})"
            report.sections.append((title, tail))

    def _server_of(self, active: ActiveTrial) -> InferenceServer | None:
        return self._runner.resources.server_of(active.record.number)


def _check(judgement: Judgement) -> None:
    """Fail the last test of a trial that is no candidate."""
    if judgement.outcome is Outcome.FAILED:
        raise MissingMetricError(judgement.reason)
    if judgement.outcome is Outcome.INFEASIBLE:
        raise SLOViolation(slo_table(judgement.compliance.results))


def _test_of(item: pytest.Item) -> str:
    """Return a test's name without its file, and with its case instead of its trial."""
    case = case_of(item)
    name = item.nodeid.partition("[")[0].partition("::")[2]
    return f"{name}[{case}]" if case else name


def _skip_reason(report: pytest.TestReport, error: BaseException | None) -> str:
    """Return in a line why a test was skipped, or expected to fail."""
    expected = getattr(report, "wasxfail", None)
    if expected is None:
        text = str(error)
    else:
        text = f"expected to fail: {expected.removeprefix('reason: ')}".removesuffix(": ")
    return (text.strip().splitlines() or ["no reason given"])[0]


def _mask_report(report: pytest.TestReport, mask: Masker) -> None:
    """Mask every text of ``report``, in place."""
    report.sections = [(mask(title), mask(text)) for title, text in report.sections]
    report.user_properties = [
        _printable_property(mask(name), mask(value) if isinstance(value, str) else value)
        for name, value in report.user_properties
    ]
    for name in ("wasxfail", LINE):
        text = getattr(report, name, None)
        if isinstance(text, str):
            setattr(report, name, mask(text))
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        path, line, reason = longrepr
        report.longrepr = (path, line, mask(reason))
    elif longrepr is not None:
        text = str(longrepr)
        masked = mask(text)
        # A traceback keeps its structure, and its colours, unless there is something to hide.
        if masked != text or isinstance(longrepr, str):
            report.longrepr = masked


def _printable_property(name: str, value: Any) -> tuple[str, Any]:
    """Return a property of ours as JUnit files can hold it, any other as it is."""
    if not name.startswith("autotune_"):
        return name, value
    return printable(name), printable(value) if isinstance(value, str) else value


def _mark(report: pytest.TestReport, outcome: Outcome, reason: str) -> None:
    """Give a report a status of its own that others take for an expected failure."""
    report.outcome = "skipped"
    report.wasxfail = report.longrepr = printable_lines(reason)
    vars(report)[STATUS] = outcome.value


def _is_verdict(error: BaseException | None) -> bool:
    """Return whether a test ended by what was said of its trial, not by a failure."""
    return isinstance(error, SLOViolation | TrialPruned) or _is_optunas_pruned(error)


def _is_optunas_pruned(error: BaseException | None) -> bool:
    """Recognize ``optuna.TrialPruned`` without importing Optuna for it."""
    optuna = sys.modules.get("optuna")
    return optuna is not None and isinstance(error, optuna.TrialPruned)


def _one_line(error: BaseException | None) -> str:
    if error is None:
        return "failed"
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    name = type(error).__name__
    return f"{name}: {first}"[:500] if first else name
