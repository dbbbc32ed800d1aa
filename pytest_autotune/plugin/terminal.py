"""The terminal's view of the studies, and the verdict that decides the exit status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.errors import UserError
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.live import line_of
from pytest_autotune.report.render import render
from pytest_autotune.scoring.magnitudes import magnitude_notes
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.study.catalogue import read_records
from pytest_autotune.study.looks import look_notes
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.standing import Standings
from pytest_autotune.study.storage import masked_url
from pytest_autotune.study.summary import Summary

if TYPE_CHECKING:
    from pytest_autotune.gate.lock.locking import Locking
    from pytest_autotune.plugin.context import RunContext
    from pytest_autotune.plugin.lock import Locker
    from pytest_autotune.plugin.slots import StudyOutline
    from pytest_autotune.study.settings import Settings

#: Layout of the values under ``autotune/`` in pytest's cache.
SCHEMA_VERSION = 1
_INTERRUPTED = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
_STATUS: Mapping[str, tuple[str, str, tuple[str, Mapping[str, bool]]]] = {
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
        self._findings = Findings()
        self._summaries: list[Summary] = []
        self._recorded = ""
        self._standings = Standings()

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Take over which studies were collected; the first to tell knows them all."""
        if not self._studies:
            self._studies = list(studies)

    def unneeded_tests(self, units: Iterable[str]) -> int:
        """Return the number of collected tests that will not run, given the unit of each test."""
        per_unit = Counter(units)
        total = 0
        for study in self._studies:
            sizes = [n for unit, n in per_unit.items() if unit.startswith(f"{study.nodeid}::")]
            try:
                known = [] if study.plan.fresh else self._records(study.plan)
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
        else:
            place = "studies are not kept, as pytest's cache is off"
        if replay is not None:
            place = f"results are replayed from {replay.written}, nothing is measured; {place}"
        return f"autotune: {place}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, tuple[str, Mapping[str, bool]]] | None:
        """Give infeasible and pruned trials a status of their own."""
        return _STATUS.get(getattr(report, "autotune_status", ""))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show a finished trial's line under ``-v``."""
        line = line_of(report, self._standings)
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if line is not None and terminal is not None and self._config.get_verbosity() > 0:
            terminal.write_line(f"  {line}", cyan=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Give the verdict and keep it in the cache."""
        if self._config.option.collectonly:
            return
        for study in self._studies:
            try:
                self._summaries.append(self._summarize(study))
            except UserError as error:
                self._findings.add_error(str(error))
        if session.exitstatus not in _INTERRUPTED and self._lock():
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        self._record()
        if self._findings.errors:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif self._failed and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._keep()

    @property
    def _failed(self) -> bool:
        """The verdict on all studies, and on pinning them where that was asked for."""
        return any(summary.failed for summary in self._summaries) or any(
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
                self._locked = {found.study: found for found in self._locker.lock(self._summaries)}
        except UserError as error:
            self._findings.add_error(str(error))
        except KeyboardInterrupt:
            from pytest_autotune.gate.lock.locking import Locking

            self._locked = {
                summary.label: Locking(study=summary.label, text="not pinned: interrupted")
                for summary in self._summaries
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
            self._recorded = record(self._summaries[0], target)
        except UserError as error:
            self._findings.add_error(str(error))

    def _records(self, plan: Plan) -> Sequence[TrialRecord]:
        return read_records(plan, self._context.state_directory)

    def _summarize(self, study: StudyOutline) -> Summary:
        records = self._records(study.plan)
        notices = [
            *study.plan.spec.notices,
            *self._findings.notices.get(study.nodeid, ()),
            *look_notes(self._findings.looks.get(study.nodeid, ())),
            *magnitude_notes(effective(records)),
        ]
        return Summary(
            plan=study.plan,
            records=records,
            stop=self._findings.stops.get(study.nodeid),
            session=self._context.session,
            capacity=study.capacity,
            tests=study.tests,
            notices=list(dict.fromkeys(notices)),
        )

    def _keep(self) -> None:
        """Write small, readable values for ``pytest --cache-show 'autotune/*'``."""
        # -p no:cacheprovider leaves no attribute.
        cache: pytest.Cache | None = getattr(self._config, "cache", None)
        if cache is None or not self._summaries:
            return
        cache.set("autotune/schema", SCHEMA_VERSION)
        for name in ("incumbent", "verdict", "slots"):
            known = cache.get(f"autotune/{name}", {})
            latest = {summary.label: summary.document()[name] for summary in self._summaries}
            cache.set(f"autotune/{name}", {**known, **latest})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show each study's result."""
        for error in self._findings.errors:
            terminalreporter.write_line(f"autotune: {error}", red=True)
        for summary in self._summaries:
            terminalreporter.write_sep("=", f"autotune: {summary.label}")
            for line in render(summary):
                terminalreporter.write_line(f"{line.head:<8} {line.text}", **COLOURS[line.tone])
            locking = self._locked.get(summary.label)
            if locking is not None:
                for note in locking.notes:
                    terminalreporter.write_line(f"note     {note}", **COLOURS["note"])
                tone = "bad" if locking.failed else "good" if locking.entry else "note"
                terminalreporter.write_line(f"lock     {locking.text}", **COLOURS[tone])
            if self._recorded:
                terminalreporter.write_line(f"recorded {self._recorded}")

    def pytest_unconfigure(self) -> None:
        """Leave no temporary files."""
        self._context.cleanup()
