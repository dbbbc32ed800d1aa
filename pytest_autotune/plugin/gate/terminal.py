"""The results of the gate on the terminal, in the history and in pytest's cache."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from typing import Final

import pytest

from pytest_autotune.gate.history import results as history
from pytest_autotune.gate.lock.lockfile import LOCK_NAME
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.gate.revision.repository import Commit, describe
from pytest_autotune.plugin.context import RunContext, state_directory
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.slots import StudyOutline
from pytest_autotune.plugin.terminal import COLOURS
from pytest_autotune.report.gate import gate_lines
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.settings import Settings
from pytest_autotune.text.printable import printable

_STATUS: Final = ("inconclusive", "?", ("INCONCLUSIVE", {"yellow": True}))


def show_history(config: pytest.Config) -> int:
    """Print the history of the gate; return the exit status."""
    from pytest_autotune.gate.history.rendering import render  # loads NumPy

    # Only a configured run has a cache. pytest does the same for --help.
    config._do_configure()  # noqa: SLF001
    try:
        cache: pytest.Cache | None = getattr(config, "cache", None)
        if cache is None:
            lines = ["autotune: nothing is kept, as pytest's cache is off"]
        else:
            lines = render(history.read(state_directory(cache)))
    finally:
        config._ensure_unconfigure()  # noqa: SLF001
    print("\n".join(map(printable, lines)))  # noqa: T201 - this is the command's output
    return 0


def _result(outcome: GateOutcome, commit: Commit | None) -> history.GateResult:
    """Return an outcome as the history keeps it."""
    return history.GateResult(
        time=time.time(),
        study=outcome.study,
        verdict=outcome.judgement,
        mode=outcome.mode,
        commit="" if commit is None else commit.id,
        dirty=commit is not None and commit.dirty,
        against=outcome.against if outcome.mode == "revision" else "",
        parameters=outcome.parameters,
        fingerprint=fingerprint(),
        values={found.metric.name: found.new for found in outcome.results},
        ratios={found.metric.name: found.ratio for found in outcome.results},
        launches=outcome.pairs,
    )


class GateReporter:
    """Hooks of the process with the terminal: the only one, or an xdist controller."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        pinned: Collection[str],
    ) -> None:
        self._config = config
        self._settings = settings
        self._context = context
        #: Labels of the studies that are in the lock file.
        self._pinned = pinned
        #: Labels of the studies that were collected, by node id.
        self._labels: dict[str, str] = {}
        self._findings = Findings()
        self._trouble = ""
        #: By study; the last one counts.
        self._outcomes: dict[str, GateOutcome] = {}

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Remember the collected studies. Every process has collected all of them."""
        if not self._labels:
            self._labels = {study.nodeid: study.plan.label for study in studies}

    def unneeded_tests(self, units: Iterable[str]) -> int:  # noqa: ARG002 - as of a search
        """Return the number of collected tests that will not run: none."""
        return 0

    def merge(self, findings: Findings) -> None:
        """Add the findings of a worker or of this process."""
        self._findings.take_over(findings)

    def pytest_report_header(self) -> str:
        """Return a line that says that the gate is on, and against what it compares."""
        against = self._settings.against
        what = f"revision {against}" if against else "the stored baseline"
        return f"autotune: gate, {LOCK_NAME} against {what}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, tuple[str, Mapping[str, bool]]] | None:
        """Give an inconclusive comparison a status of its own."""
        return _STATUS if getattr(report, "autotune_status", "") == _STATUS[0] else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the outcome of a comparison."""
        document = getattr(report, "autotune_gate", None)
        if document is not None:
            outcome = GateOutcome.from_document(document)
            self._outcomes[outcome.study] = outcome

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Store the outcomes in the history and in the cache."""
        if self._findings.errors:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif self._settings.strict and not self._outcomes and not self._config.option.collectonly:
            # A strict run that compared nothing is no success.
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        cache: pytest.Cache | None = getattr(self._config, "cache", None)
        if cache is None or not self._outcomes:
            return
        commit = describe(self._config.rootpath)
        try:
            for outcome in self._outcomes.values():
                history.append(self._context.state_directory, _result(outcome, commit))
        except OSError as error:
            self._trouble = f"what the gate found cannot be kept: {error}"
            return
        known = cache.get("autotune/gate", {})
        latest = {
            outcome.study: {
                "verdict": outcome.judgement,
                "times_worse": {
                    r.metric.name: round(r.ratio, 4)
                    for r in outcome.results
                    if math.isfinite(r.ratio)
                },
            }
            for outcome in self._outcomes.values()
        }
        cache.set("autotune/gate", {**known, **latest})

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, object, object]:
        """Show each study's result, below everything else."""
        result = yield
        self._show(terminalreporter)
        return result

    def _show(self, terminalreporter: pytest.TerminalReporter) -> None:
        for error in self._findings.errors:
            terminalreporter.write_line(f"autotune: {error}", red=True)
        notices = {
            self._labels.get(nodeid, nodeid): n for nodeid, n in self._findings.notices.items()
        }
        for outcome in self._outcomes.values():
            terminalreporter.write_sep("=", f"autotune gate: {printable(outcome.study)}")
            for line in gate_lines(outcome.with_notes(notices.get(outcome.study, ()))):
                terminalreporter.write_line(f"{line.head:<8} {line.text}", **COLOURS[line.tone])
        missing = sorted(set(self._pinned).difference(self._labels.values()))
        if missing and not self._findings.errors:
            named = ", ".join(map(repr, missing))
            terminalreporter.write_line(
                f"autotune: pinned in {LOCK_NAME}, and not collected in this run: {named}",
                yellow=True,
            )
        if self._trouble:
            terminalreporter.write_line(f"autotune: {printable(self._trouble)}", yellow=True)

    def pytest_unconfigure(self) -> None:
        """Leave no temporary files."""
        self._context.cleanup()
