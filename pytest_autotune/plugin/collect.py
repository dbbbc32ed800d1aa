"""Collecting: a marker becomes a study, and the study's tests get a slot for each trial."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_autotune.errors import SpecError, UserError
from pytest_autotune.gpu.allocation import NONE, Need
from pytest_autotune.gpu.needs import layout_gpus, marked_gpus, needed_gpus
from pytest_autotune.plugin.announce import announce_replay
from pytest_autotune.plugin.code import CodeWatcher
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.distributed import publish_collection
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.marker import ignored_specs, spec_of
from pytest_autotune.plugin.planning import make_plan, prepare
from pytest_autotune.plugin.selection import Selection, slot_param
from pytest_autotune.plugin.slots import (
    SPARE_PER_WORKER,
    CollectedStudy,
    Slot,
    make_slots,
)
from pytest_autotune.plugin.unused_markers import check_place, idle_markers
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import ExtensionLookup, make_strategy
from pytest_autotune.study.database_url import url_secrets
from pytest_autotune.study.machine import is_measured
from pytest_autotune.study.pinned import PINNED, Pins
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.source import MEASURED
from pytest_autotune.system.masking import Masker

if TYPE_CHECKING:
    from _pytest.nodes import Node  # the type of a marker's node has no public name


#: The slot of a test that is selected. pytest may hash a test by its name, which can change.
_SLOT: Final = pytest.StashKey[Slot]()


class StudyCollector:
    """Hooks that make studies of marked tests.

    With ``pins`` nothing is searched: each study has one slot, for its pinned configuration.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made by Tuning
        self,
        config: pytest.Config,
        settings: Settings,
        context: RunContext,
        findings: Findings,
        masker: Masker,
        extension: ExtensionLookup,
        code: CodeWatcher,
        pins: Pins | None = None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._context = context
        self._findings = findings
        self._masker = masker
        self._extension = extension
        self._code = code
        self._pins = pins
        self._studies: dict[str, CollectedStudy] = {}
        self._tests: dict[Slot, list[pytest.Item]] = {}
        self._selection = Selection()
        self._left_out: dict[Slot, Sequence[str]] = {}
        #: Units that xdist must keep whole besides the slots, by node id.
        self._units: dict[str, str] = {}
        #: Node ids of marked nodes of which a test takes the trial.
        self._made: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give every test of a study one call per slot."""
        if "trial" not in metafunc.fixturenames:
            return
        found = next(metafunc.definition.iter_markers_with_node("autotune"), None)
        if found is None:
            return
        node, mark = found
        self._made.add(node.nodeid)
        try:
            study = self._collect(node, mark)
        except UserError as error:
            self._findings.add_error(str(error))
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
        known = self._studies.get(node.nodeid)
        if known is not None:
            return known
        scopes = {pytest.Module: "module", pytest.Class: "class", pytest.Function: "function"}
        scope = next((name for kind, name in scopes.items() if isinstance(node, kind)), None)
        if scope is None:
            raise SpecError(
                f"{node.nodeid}: the autotune marker goes on a module, a class or a function"
            )
        check_place(node)
        spec = prepare(spec_of(node, mark), self._settings)
        marked = None
        if is_measured(spec, self._settings) and "gpus" in mark.kwargs:
            where = f"{node.nodeid}: autotune marker"
            marked = marked_gpus(mark.kwargs["gpus"], spec, where)
        gpus = marked or layout_gpus(spec)
        code = None
        if self._pins is None:
            code = self._code.begin(node.path, spec.sources)
        plan = make_plan(node.nodeid, spec, self._settings, gpus=gpus, code=code)
        self._learn_secrets(spec, plan)
        study = CollectedStudy(
            nodeid=node.nodeid,
            scope=scope,
            plan=plan,
            slots=(),
            marked_gpus=marked,
            gpus=gpus,
        )
        study = self._searched(study) if self._pins is None else self._pinned(study, self._pins)
        self._studies[node.nodeid] = study
        self._findings.add_notices(node.nodeid, ignored_specs(node, mark))
        return study

    def _learn_secrets(self, spec: Spec, plan: Plan) -> None:
        for secret in url_secrets(plan.storage) if plan.storage else ():
            self._masker.learn_value(secret)
        self._masker.learn_document(spec.raw)
        self._masker.learn(os.environ, spec.raw.get("server", {}).get("secrets", ()))

    def _searched(self, study: CollectedStudy) -> CollectedStudy:
        """Return a study with a slot for each trial that it may have."""
        plan = replace(study.plan, pinned=self._hints(study.nodeid, study.plan))
        given = self._settings.strategy is not None
        where = "" if given else plan.spec.origin.at("optimization", "strategy")
        strategy = make_strategy(plan.strategy, plan.context, self._extension, where=where)
        spares = SPARE_PER_WORKER * self._context.workers
        slots = make_slots(study.nodeid, plan, strategy, spares)
        return replace(study, plan=plan, slots=slots)

    def _pinned(self, study: CollectedStudy, pins: Pins) -> CollectedStudy:
        """Return a study with one slot for the configuration that is pinned, if one is."""
        if not study.plan.source.measures:
            raise SpecError(
                f"{study.nodeid}: results that are replayed can neither be pinned nor compared"
            )
        pin = pins.find(study.nodeid, study.plan)
        if pin is None:
            return study
        self._findings.add_notices(study.nodeid, pin.notes)
        slot = Slot(study=study.nodeid, id=PINNED, ordinal=0)
        return replace(study, plan=pin.plan, slots=(slot,), pin=pin)

    def _hints(self, nodeid: str, plan: Plan) -> Sequence[Point]:
        """Return the pinned configuration of a study that is searched anew, if there is one."""
        if not plan.begins_warm:
            return ()
        from pytest_autotune.gate.lock.entry import LockError
        from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file

        path = self._config.rootpath / LOCK_NAME
        if not path.exists():
            return ()
        try:
            entry = read_lock_file(path).get(plan.label)
        except LockError as error:
            self._findings.add_notices(nodeid, [f"no warm start: {error}"])
            return ()
        return () if entry is None else (entry.parameters,)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class
    ) -> Generator[None, object, object]:
        """Learn of all tests that a study has, whatever the run selects of them."""
        made = yield
        self._selection.note(collector, made)
        return made

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Keep each slot's tests together and in the order they are written.

        Outside all others, as --lf and --ff do their work after everybody else's.
        """
        written = {item.nodeid: position for position, item in enumerate(items)}
        self._refuse_idle_markers(items)
        result = yield
        self._compare(items)
        items[:] = [self._replayed(item) for item in items]
        self._group(items, written)
        return result

    def _refuse_idle_markers(self, items: Sequence[pytest.Item]) -> None:
        """Note an error for each marker that makes no study."""
        if not list(idle_markers(items, self._made)):
            return
        # The tests that take the trial may be in classes that pytest has not looked into.
        for item in items:
            for node, _ in item.iter_markers_with_node("autotune"):
                self._selection.complete(node.nodeid)
        for message in idle_markers(items, self._made):
            self._findings.add_error(message)

    def _compare(self, items: Iterable[pytest.Item]) -> None:
        """Find out what the run leaves out of studies."""
        chosen: dict[str, dict[Slot, list[pytest.Item]]] = {}
        for item in items:
            slot = slot_param(item)
            if slot is not None:
                chosen.setdefault(slot.study, {}).setdefault(slot, []).append(item)
        for nodeid, slots in chosen.items():
            study = self._studies[nodeid]
            if self._pins is not None and self._pins.brief:
                continue  # A launch, of those tests that it is told.
            self._selection.complete(nodeid)
            found = {slot: self._selection.left_out(slot, tests) for slot, tests in slots.items()}
            if self._pins is not None:
                self._findings.add_notices(nodeid, map(_unchecked, filter(None, found.values())))
                continue
            self._left_out |= {slot: names for slot, names in found.items() if names}
            own = {slot for slot in study.slots if slot.ordinal is not None}
            if own - slots.keys() or any(found.values()):
                self._studies[nodeid] = replace(study, chosen=len(own & slots.keys()))

    def _replayed(self, item: pytest.Item) -> pytest.Item:
        """Return the test that runs in place of ``item``: itself, unless results are replayed."""
        slot = slot_param(item)
        source = MEASURED if slot is None else self._studies[slot.study].plan.source
        if source.measures:
            return item
        from pytest_autotune.plugin.replay import replayed_test

        return replayed_test(item, source.file)

    def _group(self, items: list[pytest.Item], written: Mapping[str, int]) -> None:
        groups: dict[str, dict[Slot, list[pytest.Item]]] = {}
        for item in items:
            slot = slot_param(item)
            if slot is not None:
                item.stash[_SLOT] = slot
                groups.setdefault(slot.study, {}).setdefault(slot, []).append(item)
        for nodeid, slots in groups.items():
            # By number, as that is the order in which the search proposes.
            places = {slot: place for place, slot in enumerate(self._studies[nodeid].slots)}
            groups[nodeid] = dict(sorted(slots.items(), key=lambda pair: places[pair[0]]))
            for slot_items in slots.values():
                # A check of the result comes before what it saves the time of, even if it is
                # the latter that failed last time.
                slot_items.sort(key=lambda item: written.get(item.nodeid, -1))
        ordered: list[pytest.Item] = []
        placed: set[str] = set()
        for item in items:
            own = self.slot_of(item)
            if own is None:
                ordered.append(item)
            elif own.study not in placed:
                placed.add(own.study)
                for slot_items in groups[own.study].values():
                    ordered += slot_items
        items[:] = ordered
        # Studies in the order they run in, and only those that do.
        self._studies = {
            nodeid: self._with_tests(self._studies[nodeid], slots)
            for nodeid, slots in groups.items()
        }

    def _with_tests(
        self, study: CollectedStudy, slots: Mapping[Slot, list[pytest.Item]]
    ) -> CollectedStudy:
        """Return a study that knows its tests."""
        self._tests |= slots
        slot, items = next(iter(slots.items()))
        # Whoever repeats the best trial wants it whole, whatever this run selects.
        whole = self._selection.tests(slot) if study.narrowed else [item.nodeid for item in items]
        return replace(study, tests=tuple(_around(nodeid, slot.id) for nodeid in whole))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Report spec errors as a usage error, and tell an xdist controller what was found."""
        for error in self._unrecordable():
            self._findings.add_error(error)
        errors = self._findings.errors
        if self._context.is_worker:
            scopes = {
                item.nodeid: f"{slot.study}::{slot.id}"
                for item in session.items
                if (slot := self.slot_of(item)) is not None
            }
            scopes |= self._units
            publish_collection(self._context, self._studies.values(), scopes, errors)
        elif errors:
            # Said once, as what ends the run; there is nothing to sum up.
            self._findings.clear_errors()
            self._studies.clear()
            raise pytest.UsageError("\n".join(errors))
        for study in self._studies.values():
            announce_replay(self._config, study.plan)

    def _unrecordable(self) -> Iterator[str]:
        """Yield the reason why the run's trials cannot be recorded, if there is one."""
        target = self._settings.record
        if target is not None and len(self._studies) > 1:
            names = ", ".join(study.plan.label for study in self._studies.values())
            yield (
                f"{target.where}: {target.written}: a recording is of one study, and this run has "
                f"{len(self._studies)}: {names}; run one of them, by the path of its tests"
            )

    def keep_whole(self, nodeid: str, unit: str) -> None:
        """Let xdist run a test on the worker that runs the rest of ``unit``."""
        self._units[nodeid] = unit

    @property
    def studies(self) -> Mapping[str, CollectedStudy]:
        """The studies that run, in their order, by node id."""
        return self._studies

    def slot_of(self, item: pytest.Item) -> Slot | None:
        """Return the slot of a test, None where it is not a study's."""
        return item.stash.get(_SLOT, None)

    def tests_of(self, slot: Slot) -> Sequence[pytest.Item]:
        """Return the tests of a slot, in the order they run."""
        return self._tests[slot]

    def left_out(self, slot: Slot) -> Sequence[str]:
        """Return the names of the tests of a slot that the run leaves out."""
        return self._left_out.get(slot, ())

    def whole_slots(self, study: str) -> Sequence[Slot]:
        """Return the selected slots of a study of which no test was left out."""
        return [s for s in self._tests if s.study == study and s not in self._left_out]

    def gpu_need(self, slot: Slot, spec: Spec, params: Point) -> Need:
        """Return the GPUs that a trial of ``params`` needs in ``slot``."""
        study = self._studies[slot.study]
        if not study.plan.source.measures:
            return NONE
        tests = self._tests[slot]
        fixtures = {name for item in tests for name in getattr(item, "fixturenames", ())}
        return needed_gpus(spec, params, study.marked_gpus, fixtures)


def _unchecked(tests: Sequence[str]) -> str:
    return f"the run left out {', '.join(tests)}: the pinned configuration was not checked whole"


def _around(nodeid: str, slot: str) -> tuple[str, str]:
    """Cut a node id in two around its slot, which is the first of its parameters."""
    name, bracket, parameters = nodeid.partition("[")
    before, _, after = parameters.partition(slot)
    return f"{name}{bracket}{before}", after
