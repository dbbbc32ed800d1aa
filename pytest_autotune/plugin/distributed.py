"""pytest-xdist: messages between controller and workers, and the worker of each slot."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from pytest_autotune.errors import LaunchError
from pytest_autotune.gpu.needs import largest_need
from pytest_autotune.gpu.visible import caller_gpus
from pytest_autotune.plugin.announce import announce_replay
from pytest_autotune.plugin.context import WIRE, RunContext, is_distributed, visible_to
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.planning import make_plan, prepare
from pytest_autotune.plugin.rename import name_of
from pytest_autotune.plugin.slots import CollectedStudy, StudyOutline
from pytest_autotune.plugin.successors import Successors
from pytest_autotune.spec.build import build_spec
from pytest_autotune.spec.loading import load_all
from pytest_autotune.study.code import Code
from pytest_autotune.study.names import TrialNames
from pytest_autotune.study.settings import Settings
from pytest_autotune.system.files import replace_file
from pytest_autotune.system.interrupts import defer_in_children, heed
from pytest_autotune.system.sealing import sealed, unsealed
from pytest_autotune.text.places import Origin

if TYPE_CHECKING:
    from execnet import XSpec
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling
    from xdist.workermanage import WorkerController


_COLLECTION: Final = "collection"
#: ``--dist`` modes under which the user leaves it to xdist where a test runs.
_OURS: Final = frozenset({"load", "loadscope", "loadfile", "loadgroup", "worksteal"})


class Reporter(Protocol):
    """Shows and keeps what a run found, as the process that ran it knows it."""

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Take over which studies were collected; the first to tell knows them all."""

    def merge(self, findings: Findings) -> None:
        """Take over the findings of one process."""


class ControllerReporter(Reporter, Protocol):
    """As an xdist controller knows it."""

    def unneeded_tests(self, units: Iterable[str]) -> int:
        """Return the number of collected tests that will not run, given the unit of each test."""


def publish_collection(
    context: RunContext,
    studies: Iterable[CollectedStudy],
    scopes: Mapping[str, str],
    errors: Sequence[str],
) -> None:
    """Write down for the controller, which does not collect, what this worker collected.

    Every worker writes the same; a rename makes sure that nobody reads half of it.
    """
    assert context.scratch is not None
    document = {
        "studies": [
            {
                "nodeid": study.nodeid,
                "name": study.plan.spec.name,
                "raw": study.plan.spec.raw,
                "file": study.plan.spec.origin.file,
                "pointer": study.plan.spec.origin.pointer,
                "folder": study.plan.spec.origin.folder,
                "code": None if study.plan.code is None else study.plan.code.document(),
                "root": None if study.plan.code is None else str(study.plan.code.root),
                "capacity": study.outline.capacity,
                "gpus": study.gpus,
                "tests": study.tests,
                "names": asdict(study.outline.names),
                "chosen": study.chosen,
            }
            for study in studies
        ],
        "scopes": scopes,
        "errors": list(errors),
    }
    # Specs may hold secrets.
    content = sealed(json.dumps(document).encode(), context.key)
    replace_file(context.scratch / _COLLECTION, content)


def read_collection(context: RunContext) -> Mapping[str, Any]:
    """Return the collection of the workers, empty where they are on another machine."""
    assert context.scratch is not None
    try:
        content = unsealed((context.scratch / _COLLECTION).read_bytes(), context.key)
        document: Mapping[str, Any] = json.loads(content)
    except FileNotFoundError:
        document = {"studies": [], "scopes": {}, "errors": []}
    return document


def register_controller(
    config: pytest.Config, settings: Settings, context: RunContext, reporter: ControllerReporter
) -> None:
    """Register the controller's side, where tests are distributed at all."""
    if is_distributed(config):
        config.pluginmanager.register(
            Controller(settings, context, reporter), "autotune-controller"
        )
        config.pluginmanager.register(Successors(config), "autotune-successors")


def auto_workers(config: pytest.Config) -> int | None:
    """Return the number of workers for ``-n auto``: as many as can have their GPUs at a time.

    That is by the largest parallel layout in the repository's spec file. None without GPUs, where
    all that is there is replayed, or where the user has set another number.
    """
    there = len(caller_gpus().devices)
    if not there or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    known = list(load_all(config.rootpath))
    # What is replayed needs no GPU.
    specs = [spec for spec in known if spec.replay is None]
    if known and not specs:
        return None
    return max(1, there // max((largest_need(spec, there) for spec in specs), default=1))


class Controller:
    """Hooks of the process that distributes the tests."""

    def __init__(
        self, settings: Settings, context: RunContext, reporter: ControllerReporter
    ) -> None:
        self._settings = settings
        self._context = context
        self._reporter = reporter
        self._session: pytest.Session | None = None
        self._containers = False
        self._told = False
        #: The number of workers that are still to be started.
        self._unborn = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, object, object]:
        """Remember whose progress is shown; heed Ctrl-C even if workers cannot be started."""
        self._session = session
        try:
            return (yield)
        finally:
            heed()

    def pytest_xdist_setupnodes(self, specs: Sequence[XSpec]) -> None:
        """Show each worker on this machine its GPUs.

        In its environment from the start, as CUDA sees what was visible when it began, and a
        conftest file may be what makes it begin.
        """
        for place, spec in enumerate(specs):
            if spec.popen:
                spec.env.update(visible_to(place, len(specs)))
        self._unborn = len(specs)
        defer_in_children()

    def pytest_xdist_newgateway(self) -> None:
        """Heed Ctrl-C once all workers have been started; they do once they are configured."""
        self._unborn -= 1
        if self._unborn == 0:
            heed()

    def pytest_configure_node(self, node: WorkerController) -> None:
        """Give a worker the context of its run, and the GPUs that come first for it."""
        specs, spec = node.nodemanager.specs, node.gateway.spec
        # By identity, as equal ones are different workers; the successor of one that crashed
        # has its spec.
        place = next(at for at, each in enumerate(specs) if each is spec)
        node.workerinput[WIRE] = self._context.document(
            worker=place, workers=len(specs), local=bool(spec.popen)
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(
        self, config: pytest.Config, log: Producer
    ) -> Scheduling | None:
        """Keep each slot whole on one worker; leave other tests as ``--dist`` says."""
        if config.getoption("dist") not in _OURS:
            return None
        from pytest_autotune.plugin.scheduling import SlotScheduling

        return SlotScheduling(config, log, lambda: read_collection(self._context)["scopes"])

    def pytest_xdist_node_collection_finished(self, ids: Collection[str]) -> None:  # noqa: ARG002
        """End the run with a usage error where a spec is wrong."""
        collection = read_collection(self._context)
        if collection["errors"]:
            raise pytest.UsageError("\n".join(collection["errors"]))
        outlines = [_outline(study, self._settings) for study in collection["studies"]]
        servers = [o.plan.spec.server for o in outlines if o.plan.source.measures]
        self._containers = any(s is not None and s.backend == "docker" for s in servers)
        if self._session is not None and not self._told:
            self._told = True
            for outline in outlines:
                announce_replay(self._session.config, outline.plan)
        self._reporter.learn(outlines)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Once xdist has counted all slots as tests, leave out those that no trial is left for."""
        session, self._session = self._session, None
        if session is not None:
            scopes = read_collection(self._context)["scopes"]
            unneeded = self._reporter.unneeded_tests(scopes.values())
            session.testscollected = max(session.testscollected - unneeded, 1)

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Name a test that crashed after its trial, as it was in the worker."""
        name = name_of(crashitem, report.node.gateway.id, self._context.scratch)
        if name != crashitem:
            report.longrepr = str(report.longrepr).replace(crashitem, name)
            report.nodeid = name

    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Take over what only the worker knew; a crashed one had no time to say."""
        sent = getattr(node, "workeroutput", {}).get(WIRE)
        if sent is not None:
            self._reporter.merge(Findings.of(sent))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Once all workers have ended, remove the containers of those that crashed."""
        if self._containers:
            from pytest_autotune.serving.keeper import reap

            # Without an engine there is nothing left, and the workers have said so.
            with suppress(LaunchError):
                reap(session.config.rootpath)


def _outline(study: Mapping[str, Any], settings: Settings) -> StudyOutline:
    """Rebuild what a worker collected."""
    origin = Origin(file=study["file"], pointer=study["pointer"], folder=study["folder"])
    spec = prepare(build_spec(study["name"], study["raw"], origin), settings)
    code = None
    if study["code"] is not None:
        code = Code.from_document(Path(study["root"]), study["code"])
    return StudyOutline(
        nodeid=study["nodeid"],
        plan=make_plan(study["nodeid"], spec, settings, gpus=study["gpus"], code=code),
        capacity=study["capacity"],
        tests=[(before, after) for before, after in study["tests"]],
        names=TrialNames(**study["names"]),
        chosen=study["chosen"],
    )
