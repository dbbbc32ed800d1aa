"""Infeasible trials and the verdict of a study, as pytest's terminal and reports show failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pytest

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.trial_line import shortfall
from pytest_autotune.text.printable import printable, printable_lines

#: Attributes of a report, which xdist takes along.
STATUS: Final = "autotune_status"
_SHORTFALL: Final = "autotune_shortfall"
_OF: Final = "autotune_of"
#: Sections of infeasible trials that are shown for each study: the others say the same.
_SHOWN: Final = 3
#: Plugins that act on failures of tests, which the verdict of a study is not: it cannot be repeated
#: by its node id, and does not end the run.
_ACTING: Final = ("session", "lfplugin", "stepwiseplugin")
#: What ``pytest_report_teststatus`` returns: a category, a letter and a word with its colours.
TestStatus: TypeAlias = tuple[str, str, str | tuple[str, Mapping[str, bool]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The place and the line of a failure, as pytest and other plugins look for them."""

    path: str
    lineno: int = 1
    message: str

    def __str__(self) -> str:
        """Return both."""
        return f"{self.path}: {self.message}"


class Explanation:
    """A failure in words: ``text`` for its section, ``crash`` for the short summary.

    Without one, the short summary has what the status of the test says.
    """

    def __init__(self, text: str, crash: Crash | None = None) -> None:
        self._text = text
        if crash is not None:
            self.reprcrash = crash

    def __str__(self) -> str:
        """Return the text."""
        return self._text

    def toterminal(self, writer: Any) -> None:
        """Write the text to a terminal."""
        writer.line(self._text)


def mark_infeasible(report: pytest.TestReport, study: str, record: TrialRecord, text: str) -> None:
    """Make a report the failure of an infeasible trial of ``study``, explained by ``text``."""
    report.outcome = "failed"
    report.longrepr = printable_lines(text)
    vars(report).update(
        {STATUS: Outcome.INFEASIBLE.value, _SHORTFALL: shortfall(record), _OF: study}
    )


class InfeasibleReports:
    """Failures of infeasible trials: one line each, and sections for the first of a study."""

    def __init__(self) -> None:
        self._sections: Counter[str] = Counter()

    def prepare(self, report: pytest.TestReport) -> None:
        """Prepare a report for the terminal, if it is one of those."""
        study = getattr(report, _OF, None)
        if study is None or not report.failed:
            return
        report.longrepr = Explanation(str(report.longrepr))  # type: ignore[assignment]
        self._sections[study] += 1
        if self._sections[study] > _SHOWN:
            # So pytest marks a failure whose section its debugger has shown.
            report._pdbshown = True  # type: ignore[attr-defined]  # noqa: SLF001


def status_of(
    report: pytest.CollectReport | pytest.TestReport, *, with_reason: bool
) -> TestStatus | None:
    """Return the status of an infeasible trial that fails, None of other reports.

    The reason stands in the status, as that is what begins a line of pytest's short summary.
    """
    reason = getattr(report, _SHORTFALL, None)
    if reason is None or not report.failed:
        return None
    return (
        "failed",
        "F",
        (f"INFEASIBLE {printable(reason) if with_reason else ''}".rstrip(), {"red": True}),
    )


def log_verdict(config: pytest.Config, nodeid: str, summary: Summary) -> None:
    """Report a study that failed as a failure of its own, where nothing of it failed so far.

    Terminal, JUnit and other reports see it like a failed test with the node id of the study.
    """
    headline, *rest = map(printable, verdict(summary))
    caller = config.pluginmanager.subset_hook_caller(
        "pytest_runtest_logreport",
        [p for name in _ACTING if (p := config.pluginmanager.getplugin(name)) is not None],
    )
    for when in ("setup", "call", "teardown"):
        failed = when == "call"
        report = pytest.TestReport(
            nodeid=nodeid,
            location=(nodeid.partition("::")[0], None, nodeid.rpartition("::")[2]),
            keywords={},
            outcome="failed" if failed else "passed",
            longrepr=None,
            when=when,
        )
        if failed:
            text = "\n".join((headline, *rest))
            crash = Crash(path=report.location[0], message=headline)
            report.longrepr = Explanation(text, crash)  # type: ignore[assignment]
            vars(report)[STATUS] = VERDICT
        caller(report=report)


#: The status of a report that is a study's verdict.
VERDICT: Final = "verdict"


def verdict(summary: Summary) -> Iterator[str]:
    """Yield the verdict on a study that failed, its headline first."""
    if summary.repeated is not None:
        yield "every trial failed in the same way"
        yield summary.repeated.reason
        return
    yield "no trial was feasible"
    tightest = summary.tightest()
    if tightest:
        yield tightest
    yield f"trials: {summary.counts()}"
