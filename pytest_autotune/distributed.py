"""pytest-xdist: what controller and workers tell each other, and who runs which slot."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.study import Stop, new_session_id

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling
    from xdist.workermanage import WorkerController

    from pytest_autotune.report.terminal import StudyReporter
    from pytest_autotune.session import CollectedStudy

_INPUT: Final = "autotune"
_OUTPUT: Final = "autotune"
_COLLECTION: Final = "collection.json"
#: ``--dist`` modes under which the user leaves it to xdist where a test runs.
_OURS: Final = frozenset({"load", "loadscope", "loadfile", "loadgroup", "worksteal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What all processes of one pytest run agree on.

    ``state`` holds the journals; ``scratch`` is a folder that lives as long as the run, None
    where neither workers nor a missing cache call for one. ``started`` is in seconds since the
    epoch. ``workers`` is 0 without xdist.
    """

    session: str
    started: float
    state_directory: Path
    scratch: Path | None
    workers: int = 0
    is_worker: bool = False
    persistent: bool = True

    @classmethod
    def of(cls, config: pytest.Config) -> RunContext:
        """Read the context from the controller, or make it."""
        given: Mapping[str, Any] | None = getattr(config, "workerinput", None)
        if given is not None:
            sent = given[_INPUT]
            return cls(
                session=sent["session"],
                started=sent["started"],
                state_directory=Path(sent["state"]),
                scratch=Path(sent["scratch"]),
                workers=given["workercount"],
                is_worker=True,
                persistent=sent["persistent"],
            )
        distributed = is_distributed(config)
        cache = getattr(config, "cache", None)
        needs_scratch = distributed or cache is None
        scratch = Path(tempfile.mkdtemp(prefix="pytest-autotune-")) if needs_scratch else None
        if cache is not None:
            state = Path(cache.mkdir("autotune"))
        else:
            assert scratch is not None
            state = scratch
        return cls(
            session=new_session_id(),
            started=time.time(),
            state_directory=state,
            scratch=scratch,
            persistent=cache is not None,
        )

    def document(self) -> dict[str, Any]:
        """Return what a worker needs, as plain types."""
        return {
            "session": self.session,
            "started": self.started,
            "state": str(self.state_directory),
            "scratch": str(self.scratch),
            "persistent": self.persistent,
        }

    def send(
        self,
        config: pytest.Config,
        stops: Mapping[str, Stop],
        notices: Mapping[str, Sequence[str]],
        errors: Sequence[str],
    ) -> None:
        """Hand what only this worker knows to the controller."""
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output[_OUTPUT] = {
            "stops": {study: stop.value for study, stop in stops.items()},
            "notices": {study: list(texts) for study, texts in notices.items()},
            "errors": list(errors),
        }

    def cleanup(self) -> None:
        """Remove the scratch folder."""
        if self.scratch is not None and not self.is_worker:
            shutil.rmtree(self.scratch, ignore_errors=True)


def is_distributed(config: pytest.Config) -> bool:
    """Tell whether this process will hand its tests to workers (and so is no worker itself)."""
    return config.getoption("dist", "no") != "no" and not config.option.collectonly


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
                "source": study.plan.source,
                "capacity": study.capacity,
                "tests": study.tests,
            }
            for study in studies
        ],
        "scopes": scopes,
        "errors": list(errors),
    }
    target = context.scratch / _COLLECTION
    draft = target.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(document), "utf-8")
    draft.replace(target)


def read_collection(context: RunContext) -> Mapping[str, Any]:
    """Return what the workers collected; empty where they are not on this machine."""
    assert context.scratch is not None
    try:
        document: Mapping[str, Any] = json.loads((context.scratch / _COLLECTION).read_text("utf-8"))
    except FileNotFoundError:
        document = {"studies": [], "scopes": {}, "errors": []}
    return document


def register_controller(
    config: pytest.Config, context: RunContext, reporter: StudyReporter
) -> None:
    """Register the controller's side, where tests are distributed at all."""
    if is_distributed(config):
        config.pluginmanager.register(Controller(context, reporter), "autotune-controller")


class Controller:
    """Hooks of the process that distributes the tests."""

    def __init__(self, context: RunContext, reporter: StudyReporter) -> None:
        self._context = context
        self._reporter = reporter
        self._session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remember whose progress is shown."""
        self._session = session

    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell a worker the run it belongs to."""
        node.workerinput[_INPUT] = self._context.document()

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(
        self, config: pytest.Config, log: Producer
    ) -> Scheduling | None:
        """Keep each slot whole on one worker; leave other tests as ``--dist`` says."""
        if config.getoption("dist") not in _OURS:
            return None
        from pytest_autotune.scheduling import SlotScheduling

        return SlotScheduling(config, log, lambda: read_collection(self._context)["scopes"])

    def pytest_xdist_node_collection_finished(self, ids: Collection[str]) -> None:  # noqa: ARG002
        """End the run with a usage error where a spec is wrong."""
        collection = read_collection(self._context)
        if collection["errors"]:
            raise pytest.UsageError("\n".join(collection["errors"]))
        self._reporter.learn(collection["studies"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Once xdist has counted all slots as tests, leave out those that no trial is left for."""
        session, self._session = self._session, None
        if session is not None:
            scopes = read_collection(self._context)["scopes"]
            unneeded = self._reporter.unneeded_tests(scopes.values())
            session.testscollected = max(session.testscollected - unneeded, 1)

    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Take over what only the worker knew; a crashed one had no time to say."""
        sent = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if sent is not None:
            self._reporter.merge(sent["stops"], sent["notices"], sent["errors"])
