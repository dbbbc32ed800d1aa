"""A tuning session in one pytest process: collect slots, draw trials into them, tell outcomes."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.errors import (
    InvalidMeasurementError,
    MissingMetricError,
    RecordedFailure,
    ServerError,
    SLOViolation,
    SpecError,
    TooFewGpusError,
    TrialLostError,
    TrialPruned,
    TrialTimeout,
    UserError,
)
from pytest_autotune.gpu.allocation import NONE, Need
from pytest_autotune.gpu.leases import Lease
from pytest_autotune.gpu.needs import layout_gpus, marked_gpus, needed_gpus
from pytest_autotune.plugin.announce import announce, announce_replay
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.deadline import deadline
from pytest_autotune.plugin.distributed import Reporter, publish_collection, register_controller
from pytest_autotune.plugin.masked import mask_report
from pytest_autotune.plugin.resources import Grant, Resources
from pytest_autotune.plugin.slots import (
    SPARE_PER_WORKER,
    CollectedStudy,
    Slot,
    make_slots,
    spares_named,
)
from pytest_autotune.plugin.terminal import StudyReporter
from pytest_autotune.report.text import slo_table
from pytest_autotune.scoring.records import Outcome, TrialRecord, effective, incumbent
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.sampling import example
from pytest_autotune.spec.loading import load_all, load_file, load_inline, load_named
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import Strategy, StrategyContext, make_strategy
from pytest_autotune.study.machine import fit_to_machine, is_measured, on_this_machine
from pytest_autotune.study.pinned import PINNED, PinnedStudy, Pins
from pytest_autotune.study.storage import check_database
from pytest_autotune.study.study import Plan, Stop, Study, Wait
from pytest_autotune.study.summary import broken_bounds, trial_line
from pytest_autotune.study.trial import Trial
from pytest_autotune.system.masking import Masker, secrets_in
from pytest_autotune.text.durations import duration

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name

    from pytest_autotune.bench.benchmark import GpuBenchmark
    from pytest_autotune.load.loadtest import LoadTest
    from pytest_autotune.plugin.gate.lock import Locker
    from pytest_autotune.serving.server import InferenceServer
    from pytest_autotune.study.settings import Settings

_POLL_SECONDS: Final = 0.1
_LOG_LINES: Final = 60
#: Errors whose text alone says what happened, so that no traceback is shown.
_PLAIN_ERRORS: Final = (
    InvalidMeasurementError,
    MissingMetricError,
    RecordedFailure,
    ServerError,
    TooFewGpusError,
    TrialTimeout,
    UserError,
)


def register(config: pytest.Config, settings: Settings) -> None:
    """Register what a tuning run needs in this process: the runner, the reporter, or both."""
    context = RunContext.of(config)
    reporter = None
    if not context.is_worker:
        try:
            locker = _check(config, settings, context)
        except UserError:
            context.cleanup()
            raise
        reporter = StudyReporter(config, settings, context, locker)
        config.pluginmanager.register(reporter, "autotune-report")
        register_controller(config, settings, context, reporter)
    session = TuningSession(config, settings, context, reporter)
    config.pluginmanager.register(session, "autotune-session")


def _check(config: pytest.Config, settings: Settings, context: RunContext) -> Locker | None:
    """Find what is wrong before anything runs; return what pins the results, if asked to."""
    for spec in load_all(config.rootpath):
        if is_measured(spec, settings):
            on_this_machine(spec)
    if config.option.collectonly:
        return None
    if settings.storage:
        check_database(settings.storage)
    if settings.record is not None:
        from pytest_autotune.replay.recorder import check_target

        check_target(settings.record)
    if not settings.lock:
        return None
    from pytest_autotune.plugin.gate.lock import Locker

    return Locker(config, settings, context)


@dataclass(kw_only=True)
class ActiveTrial:
    """The trial whose tests are running.

    ``deadline`` is on the monotonic clock. ``complete`` once all tests have ended, so that what
    was not reported is missing. ``grant`` are its GPUs; ``refusal`` is why it cannot have them.
    ``finish`` ends its fixture, and with it all that use it.
    """

    slot: Slot
    study: Study | PinnedStudy
    trial: Trial
    record: TrialRecord
    last: pytest.Item
    deadline: float | None
    grant: Grant = field(default_factory=Grant)
    finish: Callable[[], None] = lambda: None
    refusal: TooFewGpusError | None = None
    complete: bool = False

    @property
    def concluded(self) -> bool:
        """Whether its outcome is stored."""
        return self.record.finished


class TuningSession:
    """Hooks of the process that runs the tests (the only one, or an xdist worker)."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        reporter: Reporter | None,
        pins: Pins | None = None,
    ) -> None:
        """Prepare a session; with ``pins`` nothing is searched, and what is pinned runs once."""
        self._reporter = reporter
        self._pins = pins
        self.config = config
        self.settings = settings
        self.context = context
        self.masker = Masker()
        self.masker.learn(os.environ)
        self.collected: dict[str, CollectedStudy] = {}
        self.errors: list[str] = []
        self.stops: dict[str, Stop] = {}
        self.notices: dict[str, list[str]] = {}
        #: Node ids of the tests that reported something, by study.
        self.reporting: dict[str, list[str]] = {}
        self._studies: dict[str, Study | PinnedStudy] = {}
        self._slots: dict[pytest.Item, Slot] = {}
        self._slot_items: dict[Slot, list[pytest.Item]] = {}
        #: Units that xdist must keep whole besides the slots, by node id.
        self.units: dict[str, str] = {}
        self._current: Slot | None = None
        self._active: ActiveTrial | None = None
        self._broken = False
        self._checked: set[str] = set()
        self._resources = Resources(
            context,
            config.rootpath,
            self.masker,
            gpu_timeout=settings.gpu_timeout,
            notice=self._notice,
            on_wait=self._say_waiting,
        )

    # Collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give every test of a study one call per slot."""
        if "trial" not in metafunc.fixturenames:
            return
        found = next(metafunc.definition.iter_markers_with_node("autotune"), None)
        if found is None:
            return
        node, mark = found
        try:
            study = self._collect(node, mark)
        except UserError as error:
            self.errors.append(str(error))
            metafunc.parametrize("trial", [None], ids=["error"], indirect=True)
            return
        if not study.slots:
            assert self._pins is not None, "a study that is searched has slots"
            skip = pytest.mark.skip(reason=self._pins.missing)
            metafunc.parametrize(
                "trial", [pytest.param(None, marks=skip)], ids=["not-pinned"], indirect=True,
                scope=study.scope,
            )  # fmt: skip
            return
        metafunc.parametrize(
            "trial",
            study.slots,
            ids=[slot.id for slot in study.slots],
            indirect=True,
            scope=study.scope,
        )

    def _collect(self, node: Node, mark: pytest.Mark) -> CollectedStudy:
        known = self.collected.get(node.nodeid)
        if known is not None:
            return known
        scopes = {pytest.Module: "module", pytest.Class: "class", pytest.Function: "function"}
        scope = next((name for kind, name in scopes.items() if isinstance(node, kind)), None)
        if scope is None:
            msg = f"{node.nodeid}: the autotune marker goes on a module, a class or a function"
            raise SpecError(msg)
        source = hashlib.sha256(node.path.read_bytes()).hexdigest()[:16]
        spec = self._load(node, mark)
        marked = gpus = None
        if is_measured(spec, self.settings):
            spec = on_this_machine(spec)
            if "gpus" in mark.kwargs:
                where = f"{node.nodeid}: autotune marker"
                marked = marked_gpus(mark.kwargs["gpus"], spec, where)
            gpus = marked or layout_gpus(spec)
            spec = fit_to_machine(spec, gpus)
        sections = {name: spec.raw.get(name, {}) for name in ("server", "benchmark")}
        for secret in secrets_in(sections):
            self.masker.learn_value(secret)
        listed = sections["server"].get("secrets", ())
        self.masker.learn(os.environ, listed)
        plan, slots = self._slots_of(
            node.nodeid, Plan.make(node.nodeid, spec, self.settings, source)
        )
        study = CollectedStudy(
            nodeid=node.nodeid,
            scope=scope,
            plan=plan,
            slots=slots,
            marked_gpus=marked,
            gpus=gpus,
        )
        self.collected[node.nodeid] = study
        return study

    def _slots_of(self, nodeid: str, plan: Plan) -> tuple[Plan, list[Slot]]:
        """Return the plan to go by, and the places for its trials."""
        if self._pins is None:
            plan = replace(plan, pinned=self._pinned(nodeid, plan))
            strategy = make_strategy(plan.strategy, plan.context, self._extension)
            return plan, make_slots(nodeid, plan, strategy, self._spares())
        if plan.replay is not None:
            msg = f"{nodeid}: results that are replayed can neither be pinned nor compared"
            raise SpecError(msg)
        pin = self._pins.find(nodeid, plan)
        if pin is None:
            return plan, []
        self._studies[nodeid] = PinnedStudy(pin, self.context.session)
        self.notices.setdefault(nodeid, []).extend(pin.notes)
        return pin.plan, [Slot(study=nodeid, id=PINNED, ordinal=0)]

    def _pinned(self, nodeid: str, plan: Plan) -> Sequence[Point]:
        """Return what the lock file pins for a study that is searched anew, if anything."""
        if not plan.begins_warm:
            return ()
        from pytest_autotune.gate.lock.entry import LockError
        from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file

        path = self.config.rootpath / LOCK_NAME
        if not path.exists():
            return ()
        try:
            entry = read_lock_file(path).entries.get(plan.label)
        except LockError as error:
            self._notice(nodeid, f"no warm start: {error}")
            return ()
        return () if entry is None else (entry.parameters,)

    def _load(self, node: Node, mark: pytest.Mark) -> Spec:
        where = f"{node.nodeid}: autotune marker"
        own = {"spec", "gpus"}
        inline = {key: value for key, value in mark.kwargs.items() if key not in own}
        path = mark.kwargs.get("spec")
        if len(mark.args) + (path is not None) + bool(inline) > 1:
            msg = f"{where}: give a spec's name, or spec='FILE', or a spec's keys; not several"
            raise SpecError(msg)
        if path is not None:
            return load_file(self._resolve(node, path, where), str(path))
        if inline:
            return load_inline(node.name, inline, where, node.path.parent)
        name = mark.args[0] if mark.args else None
        if name is not None and not isinstance(name, str):
            msg = f"{where}: {name!r} is not the name of a spec"
            raise SpecError(msg)
        return load_named(self.config.rootpath, name)

    def _resolve(self, node: Node, path: object, where: str) -> Path:
        """Find a task file from the test's folder or from the rootdir."""
        if not isinstance(path, str | Path):
            msg = f"{where}: spec={path!r} is not the path of a file"
            raise SpecError(msg)
        beside, below = node.path.parent / path, self.config.rootpath / path
        return beside if beside.exists() else below

    def _spares(self) -> int:
        """Return how many spare slots to collect: for the workers, or because one is asked for."""
        wanted = [arg for arg in self.config.args if "[" in arg]
        cache = getattr(self.config, "cache", None)
        if cache is not None and self.config.getoption("lf", default=False):
            wanted += cache.get("cache/lastfailed", {})
        return max(SPARE_PER_WORKER * self.context.workers, spares_named(wanted))

    def _extension(self, name: str, context: StrategyContext) -> Strategy | None:
        strategy: Strategy | None = self.config.hook.pytest_autotune_make_strategy(
            config=self.config, name=name, context=context
        )
        return strategy

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Keep each slot's tests together and in the order they are written.

        Outside all others, as --lf and --ff do their work after everybody else's.
        """
        written = {item: position for position, item in enumerate(items)}
        result = yield
        self._group(items, written)
        return result

    def _group(self, items: list[pytest.Item], written: Mapping[pytest.Item, int]) -> None:
        groups: dict[str, dict[Slot, list[pytest.Item]]] = {}
        for item in items:
            slot = _slot_of(item)
            if slot is not None:
                self._slots[item] = slot
                groups.setdefault(slot.study, {}).setdefault(slot, []).append(item)
        for slots in groups.values():
            for slot_items in slots.values():
                # A check of the result comes before what it saves the time of, even if it is
                # the latter that failed last time.
                slot_items.sort(key=lambda item: written.get(item, -1))
        ordered: list[pytest.Item] = []
        placed: set[str] = set()
        for item in items:
            own = self._slots.get(item)
            if own is None:
                ordered.append(item)
            elif own.study not in placed:
                placed.add(own.study)
                for slot_items in groups[own.study].values():
                    ordered += slot_items
        items[:] = ordered
        for nodeid, slots in groups.items():
            self._slot_items |= slots
            slot, found = next(iter(slots.items()))
            self.collected[nodeid].tests = [_around(item.nodeid, slot.id) for item in found]
        # Studies in the order they run in, and only those that do.
        self.collected = {nodeid: self.collected[nodeid] for nodeid in groups}
        self._replay()

    def _replay(self) -> None:
        """Let nothing of the tests run whose results are replayed."""
        replays = {
            nodeid: study.plan.replay
            for nodeid, study in self.collected.items()
            if study.plan.replay is not None
        }
        if not replays:
            return
        from pytest_autotune.plugin.replay import Replayer, strip

        self.config.pluginmanager.register(Replayer(self), "autotune-replay")
        for slot, items in self._slot_items.items():
            if slot.study in replays:
                for item in items:
                    strip(item, replays[slot.study].file)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """Report spec errors as a usage error, and tell an xdist controller what was found."""
        errors = list(dict.fromkeys([*self.errors, *self._unrecordable()]))
        if self.context.is_worker:
            scopes = {item.nodeid: f"{slot.study}::{slot.id}" for item, slot in self._slots.items()}
            scopes |= self.units
            publish_collection(self.context, self.collected.values(), scopes, errors)
        elif errors:
            # Said once, as what ends the run; there is nothing to sum up.
            self.errors.clear()
            self.collected.clear()
            raise pytest.UsageError("\n".join(errors))
        for study in self.collected.values():
            announce_replay(self.config, study.plan)

    def _unrecordable(self) -> Iterator[str]:
        """Say why the run's trials cannot be recorded."""
        target = self.settings.record
        if target is not None and len(self.collected) > 1:
            names = ", ".join(study.plan.label for study in self.collected.values())
            yield (
                f"{target.where}: {target.written}: a recording is of one study, and this run has "
                f"{len(self.collected)}: {names}; run one of them, by the path of its tests"
            )

    # Running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Draw a trial when a slot begins; pass over, without a trace, slots that got none."""
        slot = self._slots.get(item)
        if slot is not self._current:
            last, self._current = self._current, slot
            self._leave()
            same = slot is not None and last is not None and slot.study == last.study
            self._resources.end(study_goes_on=same)
            try:
                self._active = None if slot is None or self._broken else self._draw(slot, item)
            except UserError as error:
                self._stop_with(str(error))
        if slot is None or self._active is not None:
            return None
        self._pass_over(item, nextitem)
        return True

    def _draw(self, slot: Slot, item: pytest.Item) -> ActiveTrial | None:
        items = self._slot_items[slot]
        if item is not items[0]:
            # The slot's first tests ran in a worker that crashed. A trial that skips its
            # first tests would be no trial, so the crashed one goes to another slot.
            return None
        study = self._study(slot.study)
        if slot.study not in self._checked:
            spec = study.plan.spec
            need = self._gpu_need(slot, study, example(spec.space))
            served = "inference_server" in getattr(item, "fixturenames", ())
            self._resources.check(slot.study, spec, need, server=served)
            self._checked.add(slot.study)
        request = slot.request(rerun=self._asks_for_rerun())
        claim = study.claim(request)
        while isinstance(claim, Wait):
            self._resources.idle()
            time.sleep(_POLL_SECONDS)
            claim = study.claim(request)
        if isinstance(claim, Stop):
            if claim is not Stop.DONE_BEFORE:
                self.stops[slot.study] = claim
            return None
        seed = study.pin.seed if isinstance(study, PinnedStudy) else None
        active = ActiveTrial(
            slot=slot,
            study=study,
            trial=Trial(claim, study.plan, seed),
            record=claim,
            last=items[-1],
            deadline=None,
        )
        self._grant(active)
        limit = study.plan.spec.optimization.timeout_per_iteration
        if limit is not None and study.plan.replay is None:
            # Counted from here, as waiting for a GPU says nothing of the candidate.
            active.deadline = time.monotonic() + limit
        return active

    def _leave(self) -> None:
        """Give back a trial whose tests did not all run."""
        active, self._active = self._active, None
        if active is not None and not active.concluded:
            try:
                active.study.give_back(active.record)
            except UserError as error:
                self.errors.append(str(error))

    def _study(self, nodeid: str) -> Study | PinnedStudy:
        study = self._studies.get(nodeid)
        if study is None:
            study = Study.open(
                self.collected[nodeid].plan,
                self.context.state_directory,
                session=self.context.session,
                started=self.context.started,
                extension=self._extension,
            )
            self._studies[nodeid] = study
            self.notices.setdefault(nodeid, []).extend(study.notices)
        return study

    def _asks_for_rerun(self) -> bool:
        """Tell whether the user wants particular trials again: --lf, or their node ids."""
        named = any("::" in arg and "[" in arg for arg in self.config.args)
        return named or bool(self.config.getoption("lf", default=False))

    def _stop_with(self, message: str) -> None:
        """End the run with a usage error.

        A worker leaves that to its controller, and passes over what it was still to run: xdist
        takes a worker that stops with tests left for crashed.
        """
        if not self.context.is_worker:
            raise pytest.UsageError(message)
        self.errors.append(message)
        self._broken = True

    def _pass_over(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Run an unneeded test's hooks for the sake of others, and report nothing.

        Set-up ends in a skip before any fixture; teardown ends what ends with this test.
        """
        stop = (pytest.exit.Exception, KeyboardInterrupt)
        pytest.CallInfo.from_call(
            lambda: item.ihook.pytest_runtest_setup(item=item), when="setup", reraise=stop
        )
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

    def trial_for(self, slot: Slot) -> Trial:
        """Return the trial that was drawn into ``slot``."""
        assert self._active is not None, "a slot without a trial does not run"
        assert self._active.slot is slot, "slots run one after another"
        return self._active.trial

    # What the fixtures hand out

    def _gpu_need(self, slot: Slot, study: Study | PinnedStudy, params: Mapping[str, Any]) -> Need:
        if study.plan.replay is not None:
            return NONE
        items = self._slot_items[slot]
        fixtures = {name for item in items for name in getattr(item, "fixturenames", ())}
        marked = self.collected[slot.study].marked_gpus
        return needed_gpus(study.plan.spec, params, marked, fixtures)

    def _grant(self, active: ActiveTrial) -> None:
        """Get a trial its GPUs; one that cannot have them will fail in set-up."""
        try:
            need = self._gpu_need(active.slot, active.study, active.record.params)
            active.grant = self._resources.begin(active.slot.study, active.trial, need)
        except TooFewGpusError as error:
            active.refusal = error
        except UserError:
            active.study.give_back(active.record)
            raise

    def _notice(self, nodeid: str, text: str) -> None:
        found = self.notices.setdefault(nodeid, [])
        if text not in found:
            found.append(text)

    def _say_waiting(self, text: str) -> None:
        """Tell who watches why nothing happens."""
        announce(self.config, f"autotune: {text}", yellow=True)

    def _running(self, trial: Trial) -> ActiveTrial:
        active = self._active
        assert active is not None, "fixtures run within a trial"
        assert active.trial is trial, "slots run one after another"
        return active

    def keep_whole(self, nodeid: str, unit: str) -> None:
        """Let xdist run a test on the worker that runs the rest of ``unit``."""
        self.units[nodeid] = unit

    def add_error(self, text: str) -> None:
        """End the run with a usage error that says ``text``."""
        self.errors.append(text)

    def plan_of(self, nodeid: str) -> Plan:
        """Return the plan of a collected study."""
        return self.collected[nodeid].plan

    def reporting_tests(self, nodeid: str) -> Sequence[str]:
        """Return the node ids of the tests of a study that reported a metric."""
        return self.reporting.get(nodeid, ())

    def record_of(self, nodeid: str) -> TrialRecord | None:
        """Return how the pinned trial of a study ended, None where it has not."""
        records = self._studies[nodeid].records() if nodeid in self._studies else []
        return next((record for record in records if record.finished), None)

    def lease_of(self, trial: Trial) -> Lease:
        """Return the GPUs of ``trial``, none where it needs none."""
        return self._running(trial).grant.lease

    def benchmark_for(self, trial: Trial) -> GpuBenchmark:
        """Return what times callables for ``trial``."""
        active = self._running(trial)
        brief = self._pins is not None and self._pins.brief
        study = active.study
        return self._resources.benchmark(study.plan, study.records, active.grant, brief=brief)

    def start_server(self, trial: Trial) -> InferenceServer:
        """Return a server for ``trial``, ready for requests."""
        return self._resources.start_server(self._running(trial).study.plan, trial)

    def stop_server(self, server: InferenceServer) -> None:
        """Take back what :meth:`start_server` gave."""
        self._resources.stop_server(server)

    def load_test_for(self, trial: Trial) -> LoadTest:
        """Return a load test of the trial's spec."""
        active = self._running(trial)
        study = active.study
        return self._resources.load_test(study.plan, trial, active.grant, study.records)

    def _add_server_log(self, active: ActiveTrial, report: pytest.TestReport) -> None:
        """Show how the server's log ends with what failed."""
        server = self._resources.server_of(active.record.number)
        if server is None or server.log_file is None:
            return
        tail = server.logs(tail=_LOG_LINES)
        if tail:
            title = f"inference server log ({server.description}, {server.log_file})"
            report.sections.append((title, tail))

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_makereport")
    def pytest_mask_report(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep secrets out of whatever any plugin put into a report.

        Outside all others, which the wrapper that judges trials must not be.
        """
        report = yield
        mask_report(report, self.masker)
        return report

    def active_for(self, item: pytest.Item) -> ActiveTrial | None:
        """Return the trial that ``item`` runs for, None where it runs for none."""
        active = self._active
        return active if active is not None and self._slots.get(item) is active.slot else None

    @pytest.hookimpl(specname="pytest_runtest_setup", tryfirst=True)
    def pytest_skip_setup(self, item: pytest.Item) -> None:
        """Skip what has no trial, or one that is already out, before any fixture.

        A second set-up hook, as this one must not wrap: where it ends in a skip, the wrappers
        of other plugins have begun and expect a teardown. (pytest wants the prefix.)
        """
        if item not in self._slots:
            return
        active = self.active_for(item)
        if active is None:
            pytest.skip("no trial was drawn for this slot")
        item.user_properties += [
            ("autotune_trial", active.record.number),
            *((f"autotune_param_{name}", value) for name, value in active.record.params.items()),
        ]
        if active.concluded:
            pytest.skip(f"trial {active.record.number} is already {active.record.outcome.value}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep set-up to the trial's time limit."""
        active = self.active_for(item)
        if active is None:
            return (yield)
        if active.refusal is not None and not active.concluded:
            raise active.refusal
        with self._noting_reports(active, item), deadline(active.deadline, self._limit(active)):
            return (yield)

    @contextmanager
    def _noting_reports(self, active: ActiveTrial, item: pytest.Item) -> Iterator[None]:
        """Remember which tests of a study report, themselves or by a fixture."""
        before = active.trial.reports
        try:
            yield
        finally:
            found = self.reporting.setdefault(active.slot.study, [])
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
            self._active.finish = partial(fixturedef.finish, request=request)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a trial's fixtures after its last test."""
        active = self.active_for(item)
        try:
            return (yield)
        finally:
            if active is not None and item is active.last:
                active.finish()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the trial at the end of its last test, where that test can still fail."""
        active = self.active_for(item)
        if active is None:
            return (yield)
        with self._noting_reports(active, item), deadline(active.deadline, self._limit(active)):
            result = yield
        if item is active.last:
            active.complete = True
            evaluation = active.trial.evaluate()
            if not evaluation.compliance.feasible:
                raise SLOViolation(slo_table(evaluation.compliance))
        return result

    def _limit(self, active: ActiveTrial) -> str:
        limit = duration(active.study.plan.spec.optimization.timeout_per_iteration or 0.0)
        return f"trial {active.record.number} ran longer than {limit} (timeout_per_iteration)"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what happened to a test into what happened to its trial."""
        active = self.active_for(item)
        report = yield
        if active is None or active.concluded:
            return report
        error = None if call.excinfo is None else call.excinfo.value
        if call.when != "teardown":
            self._judge_report(active, item, report, error)
        elif item is active.last:
            self._judge_rest(active, item, report)
        return report

    def _judge_report(
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        error: BaseException | None,
    ) -> None:
        if isinstance(error, SLOViolation):
            self._infeasible(active, item, report, str(error))
        elif isinstance(error, TrialPruned) or _is_optunas_pruned(error):
            reason = str(error) or "given up early"
            estimate = error.estimate if isinstance(error, TrialPruned) else None
            self._conclude(active, item, report, Outcome.PRUNED, reason=reason, estimate=estimate)
            _mark(report, Outcome.PRUNED, reason)
        elif report.failed:
            self._add_server_log(active, report)
            if isinstance(error, _PLAIN_ERRORS):
                report.longrepr = f"trial {active.record.number}: {error}"
            reason = self._reason(active, error)
            self._conclude(active, item, report, Outcome.FAILED, reason=reason)
        elif report.passed and report.when == "call" and item is active.last:
            self._conclude(active, item, report, Outcome.FEASIBLE)

    def _reason(self, active: ActiveTrial, error: BaseException | None) -> str:
        """Return in a line why a trial failed; a dead server explains what else went wrong."""
        if isinstance(error, ServerError):
            return self.masker(error.headline)
        reason = str(error) if isinstance(error, _PLAIN_ERRORS) else _one_line(error)
        server = self._resources.server_of(active.record.number)
        ended = None if server is None else server.exited()
        if server is not None and ended is not None:
            reason = f"server died ({server.description}: {ended}); {reason}"
        return self.masker(reason)

    def _judge_rest(
        self, active: ActiveTrial, item: pytest.Item, report: pytest.TestReport
    ) -> None:
        """Conclude a trial whose last test did not run to its end (skipped, say)."""
        active.complete = True
        try:
            evaluation = active.trial.evaluate()
        except MissingMetricError as error:
            self._conclude(active, item, report, Outcome.FAILED, reason=str(error))
            return
        if evaluation.compliance.feasible:
            self._conclude(active, item, report, Outcome.FEASIBLE)
        else:
            table = slo_table(evaluation.compliance)
            self._infeasible(active, item, report, table)

    def _infeasible(
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        table: str,
    ) -> None:
        self._conclude(active, item, report, Outcome.INFEASIBLE)
        number = active.record.number
        text = f"trial {number} is {broken_bounds(active.record)}\n{table}"
        if active.study.plan.xfail:
            _mark(report, Outcome.INFEASIBLE, text)
        else:
            report.outcome = "failed"
            report.longrepr = text

    def _conclude(  # noqa: PLR0913 - all that is known of its end
        self,
        active: ActiveTrial,
        item: pytest.Item,
        report: pytest.TestReport,
        outcome: Outcome,
        *,
        reason: str = "",
        estimate: float | None = None,
    ) -> None:
        """Store how the trial ended, tell other plugins, and send a line along with the report."""
        evaluation = None
        if outcome in {Outcome.FEASIBLE, Outcome.INFEASIBLE}:
            evaluation = active.trial.evaluate(complete=active.complete)
        study = active.study
        try:
            active.record = study.finish(
                active.record, outcome,
                evaluation=evaluation, levels=active.trial.levels, notes=active.trial.notes,
                reason=reason, estimate=estimate,
            )  # fmt: skip
        except TrialLostError as error:
            self.notices.setdefault(active.slot.study, []).append(str(error))
            self._active = None
            return
        except UserError as error:
            self._stop_with(str(error))
            self._active = None
            return
        record = active.record
        item.user_properties.append(("autotune_outcome", outcome.value))
        if record.value is not None:
            item.user_properties.append((f"autotune_{record.metric}", record.value))
        if self.config.get_verbosity() > 0:
            best = incumbent(effective(study.records()))
            report.autotune_line = trial_line(record, best)  # type: ignore[attr-defined]
        self.config.hook.pytest_autotune_trial_finished(
            config=self.config, study=study.plan.label, trial=record
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Leave an unfinished trial to the next run, and hand over what only this process knows."""
        self._leave()
        self._resources.close()
        for study in self._studies.values():
            study.close()
        if self._reporter is None:
            self.context.send(self.config, self.stops, self.notices, self.errors)
        else:
            self._reporter.learn(study.outline for study in self.collected.values())
            self._reporter.merge(self.stops, self.notices, self.errors)


def _slot_of(item: pytest.Item) -> Slot | None:
    callspec = getattr(item, "callspec", None)
    params: Mapping[str, object] = {} if callspec is None else callspec.params
    slot = params.get("trial")
    return slot if isinstance(slot, Slot) else None


def _around(nodeid: str, slot: str) -> tuple[str, str]:
    """Cut a node id in two around its slot, which is the first of its parameters."""
    name, bracket, parameters = nodeid.partition("[")
    before, _, after = parameters.partition(slot)
    return f"{name}{bracket}{before}", after


def _mark(report: pytest.TestReport, outcome: Outcome, reason: str) -> None:
    """Give a report a status of its own that others take for an expected failure."""
    report.outcome = "skipped"
    report.wasxfail = reason
    report.longrepr = reason
    report.autotune_status = outcome.value  # type: ignore[attr-defined]


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
