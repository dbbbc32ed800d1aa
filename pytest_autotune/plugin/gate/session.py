"""Hooks of the gate: an item for each pinned study that compares it, and what its result means."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gate.judge import Case, Judge, deadline_of
from pytest_autotune.gate.launch.harness import Harness
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock
from pytest_autotune.gate.lock.pins import LockPins
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.gate.revision.revision import Repository
from pytest_autotune.plugin.announce import announce
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.distributed import register_controller
from pytest_autotune.plugin.gate.terminal import GateReporter
from pytest_autotune.plugin.session import TuningSession
from pytest_autotune.report.gate import headline
from pytest_autotune.study.settings import Settings

#: All that the gate measures is one unit, so that no two workers disturb each other.
_UNIT: Final = "autotune-gate"
#: A comparison that goes on for so long says so now and then: CI kills what is silent (seconds).
_SILENCE: Final = 60.0


def register(config: pytest.Config, settings: Settings) -> None:
    """Register what a gating run needs in this process: the runner, the reporter, or both."""
    lock = read_lock(config.rootpath / LOCK_NAME)
    if settings.against:
        Repository.find(config.rootpath).resolve(settings.against)
    # Last, as it may make a folder that is to be removed.
    context = RunContext.of(config)
    reporter = None
    if not context.is_worker:
        reporter = GateReporter(config, settings, context, lock)
        config.pluginmanager.register(reporter, "autotune-report")
        register_controller(config, settings, context, reporter)
    pins = LockPins(lock)
    tuning = TuningSession(config, settings, context, reporter, pins)
    config.pluginmanager.register(tuning, "autotune-session")
    gate = GateSession(config, settings, context, tuning, pins)
    config.pluginmanager.register(gate, "autotune-gate")


class Regressed(AutotuneError):
    """A pinned configuration got worse, or its comparison failed."""


class Undecided(AutotuneError):
    """Nothing can be concluded."""


class GateItem(pytest.Item):
    """Compares the pinned configuration of one study, once its tests have passed."""

    study: str
    outcome: GateOutcome | None = None

    def runtest(self) -> None:
        """Compare; raises :class:`Regressed` or :class:`Undecided`."""
        gate: GateSession = self.config.pluginmanager.getplugin("autotune-gate")
        self.outcome = gate.judge(self.study)
        text = "\n".join(filter(None, (headline(self.outcome), self.outcome.details)))
        if self.outcome.fails or (self.outcome.undecided and gate.strict):
            raise Regressed(text)
        if self.outcome.judgement == "skipped":
            pytest.skip(self.outcome.reason)
        if self.outcome.undecided:
            raise Undecided(text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say what was found; the traceback would be ours."""
        if isinstance(excinfo.value, AutotuneError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say where it is from, for the heading of a failure."""
        return self.path, None, f"{self.name} of {self.study}"


class GateSession:
    """Hooks of the process that runs the tests (the only one, or an xdist worker)."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        tuning: TuningSession,
        pins: LockPins,
    ) -> None:
        self.strict = settings.strict
        self._config = config
        self._tuning = tuning
        self._pins = pins
        self._open = ExitStack()
        self._said = time.monotonic()
        self._judge = Judge(
            harness=Harness.of(config),
            against=settings.against,
            state=context.state_directory,
            deadline=deadline_of(context.started, settings.timeout),
            say=self._say,
            resources=self._open,
        )

    def pytest_sessionstart(self) -> None:
        """See to it that nothing is left behind, however the run is told to end."""
        self._open.enter_context(_heeding_termination())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Add the comparison behind the tests of each pinned study that runs.

        Outside all others: --lf would run a comparison without its tests, --ff before them.
        """
        result = yield
        last: dict[str, pytest.Item] = {}
        for item in items:
            for nodeid in self._pins.found:
                if item.nodeid.startswith(nodeid) and _belongs(item, nodeid):
                    last[nodeid] = item
                    self._tuning.units[item.nodeid] = _UNIT
                    _run_once(item)
        for nodeid, item in last.items():
            added = _gate_item(item, nodeid)
            self._tuning.units[added.nodeid] = _UNIT
            items.insert(items.index(item) + 1, added)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """Refuse to be green for having compared nothing; a worker has its controller say so."""
        if self._pins.unpinned and not self._pins.found and not self._tuning.errors:
            there = ", ".join(map(repr, sorted(self._pins.entries))) or "nothing"
            studies = ", ".join(map(repr, dict.fromkeys(self._pins.unpinned)))
            self._tuning.errors.append(
                f"{LOCK_NAME}: pins none of what was collected ({studies}), but {there}; "
                "pytest --autotune --autotune-lock pins the best configuration of a study"
            )

    def judge(self, nodeid: str) -> GateOutcome:
        """Compare the pinned configuration of a study with what it is to be held against."""
        self._said = time.monotonic()
        return self._judge.judge(
            Case(
                plan=self._tuning.collected[nodeid].plan,
                entry=self._pins.found[nodeid],
                record=self._tuning.record_of(nodeid),
                nodeids=self._tuning.reporting.get(nodeid, ()),
            )
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Give an undecided comparison its own status, and send what was found with the report."""
        report = yield
        if not isinstance(item, GateItem) or report.when != "call" or item.outcome is None:
            return report
        outcome = item.outcome
        report.autotune_gate = self._masked(outcome.document())  # type: ignore[attr-defined]
        found = list(_properties(outcome))
        report.user_properties += found
        # A JUnit file has those of the teardown's report.
        item.user_properties += found
        if outcome.fails or (outcome.undecided and self.strict):
            # Marks of the module are about its tests: an xfail does not excuse this.
            report.outcome = "failed"
            vars(report).pop("wasxfail", None)
        elif outcome.undecided:
            report.outcome = "skipped"
            if outcome.judgement == "skipped":
                report.longrepr = (str(item.path), 0, f"Skipped: {outcome.reason}")
            else:
                report.wasxfail = report.longrepr = headline(outcome)
                report.autotune_status = outcome.judgement  # type: ignore[attr-defined]
        return report

    def _masked(self, value: Any) -> Any:
        """Keep secrets out of what is sent, shown and kept."""
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
    """Let SIGTERM, as of a cancelled CI job, end the run as an interrupt does."""

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


def _belongs(item: pytest.Item, nodeid: str) -> bool:
    callspec = getattr(item, "callspec", None)
    slot = None if callspec is None else callspec.params.get("trial")
    return slot is not None and slot.study == nodeid


def _run_once(item: pytest.Item) -> None:
    """Let nothing run it until it is green; what failed once is known to have failed."""
    if item.config.pluginmanager.hasplugin("rerunfailures"):
        item.add_marker(pytest.mark.flaky(reruns=0))


def _gate_item(item: pytest.Item, nodeid: str) -> GateItem:
    """Return the comparison of a study, beside its tests."""
    parents = [node for node in item.listchain() if isinstance(node, pytest.Collector)]
    parent = next((node for node in parents if node.nodeid == nodeid), parents[-1])
    # A marked function is no collector: its comparison stands beside it.
    name = "gate" if parent.nodeid == nodeid else f"{nodeid.rsplit('::', 1)[-1]}-gate"
    added: GateItem = GateItem.from_parent(parent, name=name)
    added.study = nodeid
    # Its limit is --autotune-timeout.
    if item.config.pluginmanager.hasplugin("timeout"):
        added.add_marker(pytest.mark.timeout(0))
    _run_once(added)
    return added


def _properties(outcome: GateOutcome) -> Iterable[tuple[str, object]]:
    """Yield what a JUnit report says of a comparison."""
    yield "autotune_verdict", outcome.judgement
    if outcome.against:
        yield "autotune_against", outcome.against
    for result in outcome.results:
        name = result.metric.name
        yield f"autotune_{name}_before", result.old
        yield f"autotune_{name}_after", result.new
        yield f"autotune_{name}_times_worse", result.ratio
        yield f"autotune_{name}_times_worse_low", result.low
        yield f"autotune_{name}_times_worse_high", result.high
        yield f"autotune_{name}_verdict", result.verdict.value
    if outcome.reason:
        yield "autotune_reason", outcome.reason
    for note in outcome.notes:
        yield "autotune_note", note
