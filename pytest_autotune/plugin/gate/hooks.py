"""Hooks of the gate: they add an item for each pinned study, and report its comparison."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Final, NoReturn

import pytest

from pytest_autotune.gate.judge import Case, Judge, deadline_of
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file
from pytest_autotune.gate.lock.pins import LockPins
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.gate.revision.repository import Repository
from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.distributed import register_controller
from pytest_autotune.plugin.gate import attempts
from pytest_autotune.plugin.gate.items import GateItem, belongs_to, report_properties
from pytest_autotune.plugin.gate.terminal import GateReporter
from pytest_autotune.plugin.harness import harness_of
from pytest_autotune.plugin.tuning import Tuning
from pytest_autotune.report.gate import headline
from pytest_autotune.study.settings import Settings
from pytest_autotune.text.printable import printable

#: All that the gate measures is one unit, so that no two workers disturb each other.
_UNIT: Final = "autotune-gate"
#: A comparison that goes on for so long says so now and then: CI kills what is silent (seconds).
_SILENCE: Final = 60.0


def register(config: pytest.Config, settings: Settings) -> None:
    """Register the hooks of a gating run in this process: the runner, the reporter, or both."""
    lock = read_lock_file(config.rootpath / LOCK_NAME)
    if settings.against:
        Repository.find(config.rootpath).resolve(settings.against)
    # Last, as it may make a folder that is to be removed.
    context = RunContext.of(config)
    reporter = None
    if not context.is_worker:
        reporter = GateReporter(config, settings, context, lock)
        config.pluginmanager.register(reporter, "autotune-report")
        register_controller(config, settings, context, reporter)
    pins = LockPins(lock, config.rootpath)
    # Before the runner, whose hooks are asked first, then.
    config.pluginmanager.register(attempts, "autotune-attempts")
    tuning = Tuning.register(config, settings, context, reporter, pins)
    gate = GateHooks(config, settings, context, tuning, pins)
    config.pluginmanager.register(gate, "autotune-gate")


class GateHooks:
    """Hooks of the process that runs the tests (the only one, or an xdist worker)."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        tuning: Tuning,
        pins: LockPins,
    ) -> None:
        self._strict = settings.strict
        self._config = config
        self._tuning = tuning
        self._pins = pins
        self._open = ExitStack()
        self._said = time.monotonic()
        self._judge = Judge(
            harness=harness_of(config),
            against=settings.against,
            state=context.state_directory,
            logs=context.logs,
            deadline=deadline_of(context.started, settings.timeout),
            say=self._say,
            resources=self._open,
        )

    def pytest_sessionstart(self) -> None:
        """Clean up at the end, even when the run is terminated."""
        self._open.enter_context(_heeding_termination())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Add a comparison behind the tests of each pinned study.

        This hook wraps all others: --lf would run a comparison without its tests, --ff before them.
        """
        result = yield
        last: dict[str, pytest.Item] = {}
        for item in items:
            for nodeid in self._pins.found:
                if item.nodeid.startswith(nodeid) and belongs_to(item, nodeid):
                    last[nodeid] = item
                    self._tuning.collector.keep_whole(item.nodeid, _UNIT)
                    attempts.run_once(item)
        for nodeid, item in last.items():
            added = GateItem.behind(item, nodeid, strict=self._strict, compare=self._compare)
            self._tuning.collector.keep_whole(added.nodeid, _UNIT)
            items.insert(items.index(item) + 1, added)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """End with an error if nothing that was collected is pinned."""
        if self._pins.unpinned and not self._pins.found and not self._tuning.findings.errors:
            there = ", ".join(map(repr, sorted(self._pins.entries))) or "nothing"
            studies = ", ".join(map(repr, dict.fromkeys(self._pins.unpinned)))
            self._tuning.findings.add_error(
                f"{LOCK_NAME}: pins none of what was collected ({studies}), but {there}; "
                "pytest --autotune --autotune-lock pins the best configuration of a study"
            )

    def _compare(self, nodeid: str) -> GateOutcome:
        """Compare the pinned configuration of a study with the revision or the baseline."""
        self._said = time.monotonic()
        return self._judge.judge(
            Case(
                plan=self._tuning.collector.studies[nodeid].plan,
                entry=self._pins.found[nodeid],
                record=self._tuning.runner.record_of(nodeid),
                nodeids=self._tuning.runner.reporting_tests(nodeid),
            )
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send the outcome with the report, and give an undecided comparison its own status."""
        report = yield
        if not isinstance(item, GateItem) or report.when != "call" or item.outcome is None:
            return report
        outcome = item.outcome
        report.autotune_gate = self._masked(outcome.document())  # type: ignore[attr-defined]
        found = [(printable(name), value) for name, value in report_properties(outcome)]
        report.user_properties += found
        # A JUnit file has those of the teardown's report.
        item.user_properties += found
        if outcome.fails or (outcome.undecided and self._strict):
            # Marks of the module are about its tests: an xfail does not excuse this.
            report.outcome = "failed"
            vars(report).pop("wasxfail", None)
        elif outcome.undecided:
            report.outcome = "skipped"
            if outcome.judgement == "skipped":
                report.longrepr = (str(item.path), 0, f"Skipped: {outcome.reason}")
            else:
                report.wasxfail = report.longrepr = printable(headline(outcome))
                report.autotune_status = outcome.judgement  # type: ignore[attr-defined]
        return report

    def _masked(self, value: Any) -> Any:
        """Return a document with its secrets masked."""
        if isinstance(value, str):
            return self._tuning.masker(value)
        if isinstance(value, dict):
            return {key: self._masked(entry) for key, entry in value.items()}
        return [self._masked(entry) for entry in value] if isinstance(value, list) else value

    def pytest_sessionfinish(self) -> None:
        """Remove the old revision's files."""
        self._open.close()

    def _say(self, label: str, pairs: int) -> None:
        if time.monotonic() - self._said < _SILENCE and self._config.get_verbosity() < 1:
            return
        self._said = time.monotonic()
        capture = self._config.pluginmanager.getplugin("capturemanager")
        several = "s" * (pairs > 1)
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            announce(self._config, f"  {label}: {pairs} pair{several} of launches", cyan=True)


@contextmanager
def _heeding_termination() -> Iterator[None]:
    """Let SIGTERM end the run as an interrupt does. A cancelled CI job sends it."""

    def end(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # Cleaning up is not disturbed again.
        pytest.exit("terminated", returncode=128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
