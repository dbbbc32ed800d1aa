"""The terminal's view of the studies, and the verdict that decides the exit status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.errors import UserError
from pytest_autotune.plugin.failing import (
    STATUS,
    VERDICT,
    InfeasibleReports,
    TestStatus,
    log_verdict,
    status_of,
)
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.live import line_of
from pytest_autotune.report.render import render
from pytest_autotune.scoring.magnitudes import magnitude_notes
from pytest_autotune.scoring.records import effective
from pytest_autotune.study.database_url import masked_url
from pytest_autotune.study.looks import look_notes
from pytest_autotune.study.opening import StudyState, read_study
from pytest_autotune.study.skips import skip_notes
from pytest_autotune.study.standing import Standings
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.unread import no_effect, unread_notes
from pytest_autotune.system.files import unwritable
from pytest_autotune.text.printable import printable

if TYPE_CHECKING:
    from pytest_autotune.gate.lock.locking import Locking
    from pytest_autotune.plugin.context import RunContext
    from pytest_autotune.plugin.lock import Locker
    from pytest_autotune.plugin.slots import StudyOutline
    from pytest_autotune.study.settings import Settings

#: Layout of the values under ``autotune/`` in pytest's cache.
SCHEMA_VERSION = 1
_INTERRUPTED = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
_BROKEN = (*_INTERRUPTED, pytest.ExitCode.USAGE_ERROR)
_STATUS: Mapping[str, TestStatus] = {
    "infeasible": ("infeasible", "i", ("INFEASIBLE", {"yellow": True})),
    "pruned": ("pruned", "p", ("PRUNED", {"yellow": True})),
}
COLOURS: Mapping[str, Mapping[str, bool]] = {
    "plain": {},
    "good": {"green": True},
    "bad": {"red": True},
    "note": {"yellow": True},
}


class StudyReporter:
    """Hooks of the process with the terminal: the only one, or an xdist controller."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        locker: Locker | None = None,
    ) -> None:
        self._locker = locker
        self._locked: dict[str, Locking] = {}
        self._config = config
        self._settings = settings
        self._context = context
        self._studies: list[StudyOutline] = []
        self._collected = False
        self._findings = Findings()
        #: By node id of the study, once the tests have ended.
        self._summaries: dict[str, Summary] = {}
        self._infeasible = InfeasibleReports()
        self._failed_tests: list[str] = []
        self._tests_ended = False
        self._is_giving_verdicts = False
        self._recorded = ""
        self._standings = Standings()

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Take over which studies were collected; the first to tell knows them all."""
        self._collected = True
        if not self._studies:
            self._studies = list(studies)

    def unneeded_tests(self, units: Iterable[str]) -> int:
        """Return the number of collected tests that will not run, given the unit of each test."""
        per_unit = Counter(units)
        total = 0
        for study in self._studies:
            sizes = [n for unit, n in per_unit.items() if unit.startswith(f"{study.nodeid}::")]
            try:
                known = [] if study.plan.fresh else self._read(study).records
            except UserError:
                known = []  # reported at the end; this is about a percentage
            finished = sum(
                record.finished and record.owner.session != self._context.session
                for record in effective(known)
            )
            needed = max(study.capacity - finished, 0) if study.chosen is None else study.chosen
            total += sum(sizes[needed:])
        return total

    def merge(self, findings: Findings) -> None:
        """Take over the findings of one process: a worker, or this one."""
        self._findings.take_over(findings)

    def pytest_report_header(self) -> str:
        """Return a line on where the state of tuning is, and whether results are replayed."""
        replay = self._settings.replay
        if self._settings.storage:
            place = f"studies in {masked_url(self._settings.storage)}"
        elif self._context.persistent:
            state = self._context.state_directory
            if state.is_relative_to(self._config.rootpath):
                state = state.relative_to(self._config.rootpath)
            place = f"studies in {state}"
            if self._config.getoption("cacheclear", default=False):
                place += ", which --cache-clear keeps (--autotune-fresh starts anew)"
        else:
            place = "studies are not kept, as pytest's cache is off"
        if replay is not None:
            place = f"results are replayed from {replay.written}, nothing is measured; {place}"
        return printable(f"autotune: {place}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> TestStatus | None:
        """Give infeasible and pruned trials a status of their own."""
        status = getattr(report, STATUS, "")
        if status == VERDICT and self._is_giving_verdicts:
            # It belongs to no file whose tests are counted.
            return "failed", "", ""
        # While tests run, a line on the trial follows.
        return status_of(report, with_reason=self._tests_ended) or _STATUS.get(status)

    @pytest.hookimpl(specname="pytest_runtest_logreport", tryfirst=True)
    def pytest_prepare_report(self, report: pytest.TestReport) -> None:
        """Shorten the failures of infeasible trials, and remember which tests failed."""
        self._infeasible.prepare(report)
        if report.failed:
            self._failed_tests.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show a finished trial's line under ``-v``."""
        line = line_of(report, self._standings)
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if line is not None and terminal is not None and self._config.get_verbosity() > 0:
            terminal.write_line(f"  {printable(line)}", cyan=True)

    @pytest.hookimpl(specname="pytest_sessionfinish", tryfirst=True)
    def pytest_give_verdict(self, session: pytest.Session) -> None:
        """Report a study that failed, before files of reports are written.

        The hooks of the runner come before this one, as they were registered later.
        """
        self._tests_ended = True
        if session.exitstatus not in _INTERRUPTED:
            self._summarize_all()
        if self._findings.errors:
            return
        self._is_giving_verdicts = True
        for nodeid, summary in self._summaries.items():
            if summary.failed and not self._has_failure(nodeid):
                log_verdict(self._config, nodeid, summary)
        self._is_giving_verdicts = False
        if self._failed and session.exitstatus in _GREEN:
            # Reports of other plugins tell it, too.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _has_failure(self, study: str) -> bool:
        """Return whether a test of a study failed, so that it is red already."""
        return any(test.startswith((f"{study}::", f"{study}[")) for test in self._failed_tests)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Pin what was asked for, and keep the verdict in the cache."""
        if self._config.option.collectonly:
            return
        if not self._summaries:
            # The workers of an interrupted run have ended by now. NumPy cannot be loaded for the
            # summary where its loading, by a test, was what was interrupted.
            with suppress(ImportError):
                self._summarize_all()
        if session.exitstatus not in _INTERRUPTED and self._lock():
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        self._record()
        if self._findings.errors:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif self._failed and session.exitstatus in _GREEN:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._keep()

    @property
    def _failed(self) -> bool:
        """The verdict on all studies, and on pinning them where that was asked for."""
        return any(summary.failed for summary in self._summaries.values()) or any(
            locking.failed for locking in self._locked.values()
        )

    def _lock(self) -> bool:
        """Pin the best configurations, unless something is wrong with the run itself.

        Returns whether that was interrupted: then nothing is pinned.
        """
        if self._locker is None or self._findings.errors:
            return False
        interrupts = self._config.pluginmanager.getplugin("autotune-interrupts")
        try:
            with interrupts.clean_up.suspended():
                found = self._locker.lock(list(self._summaries.values()))
            self._locked = {locking.study: locking for locking in found}
        except UserError as error:
            self._findings.add_error(str(error))
        except KeyboardInterrupt:
            from pytest_autotune.gate.lock.locking import Locking

            self._locked = {
                summary.label: Locking(study=summary.label, text="not pinned: interrupted")
                for summary in self._summaries.values()
            }
            return True
        return False

    def _record(self) -> None:
        """Write the trials where they are to be recorded."""
        target = self._settings.record
        # Several studies were refused at collection.
        if target is None or len(self._summaries) != 1:
            return
        from pytest_autotune.replay.recorder import record

        try:
            self._recorded = record(next(iter(self._summaries.values())), target)
        except UserError as error:
            self._findings.add_error(str(error))

    def _read(self, study: StudyOutline, *, with_groups: bool = False) -> StudyState:
        opened = self._findings.opened.get(study.nodeid)
        place = self._context.state_directory
        return read_study(study.plan, place, opened, with_groups=with_groups)

    def _summarize_all(self) -> None:
        for study in () if self._config.option.collectonly else self._studies:
            try:
                self._summaries[study.nodeid] = self._summarize(study)
            except UserError as error:
                self._findings.add_error(str(error))

    def _summarize(self, study: StudyOutline) -> Summary:
        state = self._read(study, with_groups=True)
        trials = effective(state.records)
        reached = self._findings.reached.get(study.nodeid, {})
        single = study.capacity == 1 < study.plan.budget
        notices = [
            *unread_notes(study.plan.spec, reached),
            *(["1 combination of parameters: nothing is searched"] if single else ()),
            *study.plan.spec.notices,
            *self._findings.notices.get(study.nodeid, ()),
            *skip_notes(trials),
            *look_notes(self._findings.looks.get(study.nodeid, ())),
            *magnitude_notes(trials),
        ]
        earlier = any(record.owner.session != self._context.session for record in trials)
        if earlier and self._config.getoption("cacheclear", default=False):
            notices.append("--cache-clear keeps studies; --autotune-fresh starts anew")
        if not self._context.persistent and not study.plan.storage:
            notices.append("nothing of this study is kept, as pytest's cache is off")
        return Summary(
            plan=study.plan,
            records=state.records,
            stop=self._findings.stops.get(study.nodeid),
            session=self._context.session,
            capacity=study.capacity,
            code=state.code,
            running=state.running,
            search=state.search,
            groups=state.groups,
            tests=study.tests,
            names=study.names,
            notices=list(dict.fromkeys(notices)),
            caution=no_effect(study.plan.spec, reached),
        )

    def _keep(self) -> None:
        """Write small, readable values for ``pytest --cache-show 'autotune/*'``."""
        # -p no:cacheprovider leaves no attribute.
        cache: pytest.Cache | None = getattr(self._config, "cache", None)
        if cache is None or not self._summaries:
            return
        # pytest warns of its own values; a study says more on what cannot be stored.
        if unwritable(self._context.state_directory.parent) is not None:
            return
        cache.set("autotune/schema", SCHEMA_VERSION)
        for name in ("incumbent", "verdict", "slots"):
            known = cache.get(f"autotune/{name}", {})
            summaries = self._summaries.values()
            latest = {summary.label: summary.document()[name] for summary in summaries}
            cache.set(f"autotune/{name}", {**known, **latest})

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: pytest.ExitCode
    ) -> Generator[None, object, object]:
        """Show each study's result, below everything else."""
        result = yield
        if self._collected and not self._studies and exitstatus not in _BROKEN:
            text = "autotune: nothing was tuned: no test that ran is marked autotune"
            terminalreporter.write_line(text, **COLOURS["note"])
        self._show(terminalreporter)
        return result

    def _show(self, terminalreporter: pytest.TerminalReporter) -> None:
        for error in self._findings.errors:
            terminalreporter.write_line(f"autotune: {error}", red=True)
        for summary in self._summaries.values():
            terminalreporter.write_sep("=", f"autotune: {printable(summary.label)}")
            for line in render(summary):
                terminalreporter.write_line(f"{line.head:<8} {line.text}", **COLOURS[line.tone])
            locking = self._locked.get(summary.label)
            if locking is not None:
                for note in locking.notes:
                    terminalreporter.write_line(f"note     {printable(note)}", **COLOURS["note"])
                tone = "bad" if locking.failed else "good" if locking.entry else "note"
                terminalreporter.write_line(f"lock     {printable(locking.text)}", **COLOURS[tone])
            if self._recorded:
                terminalreporter.write_line(f"recorded {printable(self._recorded)}")

    def pytest_unconfigure(self) -> None:
        """Leave no temporary files."""
        self._context.cleanup()
