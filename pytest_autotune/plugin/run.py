"""Running: a slot draws its trial when its first test begins, and gives back its resources."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_autotune.errors import DeviceError, UserError
from pytest_autotune.gpu.health import DeviceHealth
from pytest_autotune.plugin.active import ActiveTrial
from pytest_autotune.plugin.collect import StudyCollector
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.deadline import deadline
from pytest_autotune.plugin.distributed import Reporter
from pytest_autotune.plugin.draw import OpenStudies
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.resources import Resources
from pytest_autotune.plugin.slots import Slot
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.strategies import ExtensionLookup
from pytest_autotune.study.trial import Trial
from pytest_autotune.text.printable import printable_lines


class TrialRunner:
    """Hooks that draw trials into slots and run their tests.

    ``resources`` are for fixtures. ``reporter`` takes over the findings at the end of the run,
    None in an xdist worker, which sends them.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made by Tuning
        self,
        config: pytest.Config,
        context: RunContext,
        collector: StudyCollector,
        findings: Findings,
        resources: Resources,
        extension: ExtensionLookup,
        reporter: Reporter | None,
        health: DeviceHealth,
    ) -> None:
        self.resources = resources
        self._health = health
        self._config = config
        self._context = context
        self._collector = collector
        self._findings = findings
        self._reporter = reporter
        self._open = OpenStudies(config, context, collector, findings, resources, extension)
        #: Node ids of the tests that reported something, by study.
        self._reporting: dict[str, list[str]] = {}
        self._current: Slot | None = None
        self._active: ActiveTrial | None = None
        self._broken = False
        self._has_run = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Draw a trial when a slot begins.

        Outside all others, as the test may get another name, by which they may know it.
        """
        slot = self._collector.slot_of(item)
        if slot is not self._current:
            last, self._current = self._current, slot
            self._leave()
            same = slot is not None and last is not None and slot.study == last.study
            self.resources.end(study_goes_on=same)
            try:
                self._active = self._draw(slot, item)
            except UserError as error:
                self.stop_with(str(error))
        self._has_run = True
        return (yield)

    def _draw(self, slot: Slot | None, item: pytest.Item) -> ActiveTrial | None:
        """Return a trial for ``slot``; raises :class:`UserError` where none can run here."""
        if slot is None or self._broken or self._health.error is not None:
            return None
        # Once a test has run, it is the tests that are asked.
        error = None if self._has_run else self._health.look()
        if error is not None:
            raise DeviceError(
                f"the GPU is broken in this process, and no test did it: {error}; look for what "
                "uses it while modules are imported"
            )
        return self._open.draw(slot, item)

    def is_unneeded(self, item: pytest.Item) -> bool:
        """Return whether ``item`` is of a slot that no trial is left for, as far as known."""
        slot = self._collector.slot_of(item)
        return slot is not None and self._open.is_over(slot)

    @pytest.hookimpl(specname="pytest_runtest_protocol", tryfirst=True)
    def pytest_pass_over(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Pass over, without a trace, the tests of a slot that got no trial."""
        if self._active is not None or self._collector.slot_of(item) is None:
            return None
        _pass_over(item, nextitem)
        return True

    def _leave(self) -> None:
        """Give back a trial whose tests did not all run."""
        active, self._active = self._active, None
        if active is not None:
            try:
                active.give_back()
            except UserError as error:
                self._findings.add_error(str(error))

    def stop_with(self, message: str) -> None:
        """End the run with a usage error.

        A worker leaves that to its controller, and passes over what it was still to run: xdist
        takes a worker that stops with tests left for crashed.
        """
        if not self._context.is_worker:
            self._findings.end_with(message)
            raise pytest.UsageError(printable_lines(message))
        self._leave()
        self._findings.add_error(message)
        self._broken = True

    def forget(self) -> None:
        """Take no more interest in the trial that runs: another process has it."""
        self._active = None

    def active_for(self, item: pytest.Item) -> ActiveTrial | None:
        """Return the trial that ``item`` runs for, None where it runs for none."""
        active = self._active
        slot = self._collector.slot_of(item)
        return active if active is not None and slot is active.slot else None

    def running(self, trial: Trial) -> ActiveTrial:
        """Return the trial that runs, for a fixture of ``trial``."""
        assert self._active is not None, "fixtures run within a trial"
        assert self._active.trial is trial, "slots run one after another"
        return self._active

    def trial_for(self, slot: Slot) -> Trial:
        """Return the trial that was drawn into ``slot``."""
        assert self._active is not None, "a slot without a trial does not run"
        assert self._active.slot is slot, "slots run one after another"
        return self._active.trial

    def record_of(self, nodeid: str) -> TrialRecord | None:
        """Return the finished trial of a pinned study, None where there is none."""
        return self._open.record_of(nodeid)

    def reporting_tests(self, nodeid: str) -> Sequence[str]:
        """Return the node ids of the tests of a study that reported a metric."""
        return self._reporting.get(nodeid, ())

    @pytest.hookimpl(specname="pytest_runtest_setup", tryfirst=True)
    def pytest_skip_setup(self, item: pytest.Item) -> None:
        """Skip a test without a trial, or of one that is already out, before any fixture.

        A second set-up hook, as this one must not wrap: where it ends in a skip, the wrappers
        of other plugins have begun and expect a teardown. (pytest wants the prefix.)
        """
        if self._collector.slot_of(item) is None:
            return
        active = self.active_for(item)
        if active is None:
            pytest.skip("no trial was drawn for this slot")
        active.begin(item)
        record = active.record
        # An earlier attempt at the test left its own.
        item.user_properties[:] = [
            each
            for each in item.user_properties
            if not each[0].startswith("autotune_") or each[0] == "autotune_replayed"
        ]
        item.user_properties += [
            ("autotune_trial", record.number),
            *((f"autotune_param_{name}", value) for name, value in record.params.items()),
        ]
        if active.concluded:
            pytest.skip(f"trial {record.number} is already {record.outcome.value}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep set-up to the trial's time limit."""
        active = self.active_for(item)
        if active is None:
            return (yield)
        if active.refusal is not None and not active.concluded:
            raise active.refusal
        with self._watched(active, item):
            result = yield
        active.attempts.set_up()
        return result

    @pytest.hookimpl(specname="pytest_runtest_setup")
    def pytest_allow_setup(self, item: pytest.Item) -> None:
        """Note that marks let a test run: otherwise it would have been skipped before this."""
        active = self.active_for(item)
        if active is not None:
            active.attempts.allow()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep a test to the trial's time limit."""
        active = self.active_for(item)
        if active is None:
            return (yield)
        with self._watched(active, item):
            return (yield)

    @contextmanager
    def _watched(self, active: ActiveTrial, item: pytest.Item) -> Iterator[None]:
        """Keep to the deadline, and remember the tests that report, themselves or by a fixture."""
        before = active.trial.reports
        try:
            # What is left of a trial that is out only has to be skipped.
            with deadline(None if active.concluded else active.deadline, active.limit):
                yield
        finally:
            found = self._reporting.setdefault(active.slot.study, [])
            if active.trial.reports > before and item.nodeid not in found:
                found.append(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: Any
    ) -> Generator[None, object, object]:
        """Learn how to end a trial's fixtures with the trial.

        pytest would end them in the set-up of the next trial: too late for a failure to be
        counted where it belongs, and for a server to be gone before its GPUs are given back.
        """
        result = yield
        if fixturedef.argname == "trial" and self._active is not None:
            self._active.end_fixtures_by(partial(fixturedef.finish, request=request))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a trial's fixtures after its last test."""
        active = self.active_for(item)
        try:
            return (yield)
        finally:
            if active is not None and item is active.last:
                active.end_fixtures()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Leave an unfinished trial to the next run, and hand over the findings."""
        self._leave()
        self.resources.close(keeps_gpus=self._health.error is not None)
        self._open.close()
        if self._reporter is None:
            self._context.send(self._config, self._findings)
        else:
            self._reporter.learn(study.outline for study in self._collector.studies.values())
            self._reporter.merge(self._findings)


def _pass_over(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Run an unneeded test's hooks for the sake of others, and report nothing.

    Set-up ends in a skip before any fixture; teardown ends what ends with this test.
    """
    stop = (pytest.exit.Exception, KeyboardInterrupt)
    pytest.CallInfo.from_call(
        lambda: item.ihook.pytest_runtest_setup(item=item), when="setup", reraise=stop
    )
    if item.session.shouldfail or item.session.shouldstop:
        nextitem = None
    teardown = pytest.CallInfo.from_call(
        lambda: item.ihook.pytest_runtest_teardown(item=item, nextitem=nextitem),
        when="teardown",
        reraise=stop,
    )
    if teardown.excinfo is not None:
        report = item.ihook.pytest_runtest_makereport(item=item, call=teardown)
        item.ihook.pytest_runtest_logreport(report=report)
    if item.session.testscollected > 1:
        # So that the progress shown ends at 100 %.
        item.session.testscollected -= 1
