"""The context that all processes of one pytest run share."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.gpu.visible import Device, VisibleGpus, adopt, caller_gpus, share
from pytest_autotune.plugin import policy_files
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.policy.policies import NO_POLICIES, Policies
from pytest_autotune.study.environment import cpu_limit
from pytest_autotune.system.files import unwritable
from pytest_autotune.system.scratch import Scratch, sweep
from pytest_autotune.system.sealing import new_key

if TYPE_CHECKING:
    import pytest

#: Key of the messages between the controller and a worker.
WIRE: Final = "autotune"
#: Key of a worker's request for a successor: which test broke its GPU, and how.
BROKEN: Final = "autotune-broken"
_GPUS: Final = "gpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The context that all processes of one pytest run share.

    ``state`` holds the journals; ``scratch`` is a folder that lives as long as the run, None
    where neither workers nor a cache that is missing or read-only call for one. ``started`` is on
    this process's monotonic clock. ``workers`` is 0 without xdist. ``gpus`` are a worker's own
    part of the GPUs, None where they are not shared out. ``key`` opens what lies in the scratch
    folder. ``owned`` is that folder in the process that made it. ``policies`` say what specs may
    ask for.
    """

    session: str
    started: float
    state_directory: Path
    scratch: Path | None
    workers: int = 0
    is_worker: bool = False
    persistent: bool = True
    gpus: tuple[Device, ...] | None = None
    key: bytes = field(default=b"", repr=False)
    owned: Scratch | None = field(default=None, repr=False)
    policies: Policies = NO_POLICIES

    @classmethod
    def of(cls, config: pytest.Config, folder: Path | None = None) -> RunContext:
        """Read the context from the controller, or make it; ``folder`` is for a scratch folder."""
        cpu_limit()  # Before a test may bind this process to a CPU.
        given: Mapping[str, Any] | None = getattr(config, "workerinput", None)
        if given is not None:
            sent = given[WIRE]
            return cls(
                session=sent["session"],
                # Each machine has a monotonic clock of its own.
                started=time.monotonic() - sent["elapsed"],
                state_directory=Path(sent["state"]),
                scratch=Path(sent["scratch"]),
                workers=given["workercount"],
                is_worker=True,
                persistent=sent["persistent"],
                gpus=_own_gpus(sent.get(_GPUS)),
                key=bytes.fromhex(sent["key"]),
                policies=policy_files.policies_of(config, sent["policy"]),
            )
        policies = policy_files.policies_of(config, policy_files.GIVEN)
        adopt(None)
        cache = getattr(config, "cache", None)
        state = None if cache is None else state_directory(cache)
        sweep()
        needs_scratch = is_distributed(config) or state is None or unwritable(state) is not None
        owned = Scratch("pytest-autotune-", folder) if needs_scratch else None
        scratch = None if owned is None else owned.path
        if state is None:
            assert scratch is not None
            state = scratch
        return cls(
            session=_new_session_id(),
            started=time.monotonic(),
            state_directory=state,
            scratch=scratch,
            persistent=cache is not None,
            key=new_key(),
            owned=owned,
            policies=policies,
        )

    @property
    def logs(self) -> Path:
        """The folder of logs, which ends with the run where the cache cannot be written."""
        if self.scratch is not None and unwritable(self.state_directory) is not None:
            return self.scratch / "logs"
        return self.state_directory / "logs"

    def document(self, *, worker: int, workers: int, local: bool) -> dict[str, Any]:
        """Return the context for the ``worker``-th of ``workers``, as plain types.

        One on this machine gets a part of the GPUs that this run may use.
        """
        pool = caller_gpus()
        own = share(pool.devices, workers, worker)
        gpus = {"pool": asdict(pool), "share": [device.key for device in own]}
        return {
            "session": self.session,
            "elapsed": time.monotonic() - self.started,
            "state": str(self.state_directory),
            "scratch": str(self.scratch),
            "persistent": self.persistent,
            # It never lies in a file, as the folder of a killed run is left.
            "key": self.key.hex(),
            "policy": policy_files.GIVEN,
            **({_GPUS: gpus} if local else {}),
        }

    def send(self, config: pytest.Config, findings: Findings) -> None:
        """Hand the findings of this worker to the controller."""
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output[WIRE] = findings.document()

    def cleanup(self) -> None:
        """Remove the scratch folder."""
        if self.owned is not None:
            self.owned.remove()


def _new_session_id() -> str:
    """Return a unique id for a pytest run."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def visible_to(worker: int, workers: int) -> dict[str, str]:
    """Return the variables that show the ``worker``-th of ``workers`` its GPUs.

    One beyond the GPUs there are sees one of them all the same, so that all workers collect the
    same tests; it uses it when nobody else does. Empty without GPUs.
    """
    pool = caller_gpus()
    if not pool.devices:
        return {}
    own = share(pool.devices, workers, worker)
    return pool.environment(own or (pool.devices[worker % len(pool.devices)],))


def _own_gpus(sent: Mapping[str, Any] | None) -> tuple[Device, ...] | None:
    """Take over the pool of the run, and learn which part of it comes first here."""
    if sent is None:
        return None
    pool = VisibleGpus.from_document(sent["pool"])
    adopt(pool)
    return tuple(device for device in pool.devices if device.key in sent["share"])


def state_directory(cache: pytest.Cache) -> Path:
    """Return the folder of the studies: in pytest's cache, where ``--cache-clear`` keeps it.

    It is not there where it cannot be made: what needs it says so.
    """
    state = Path(cache._cachedir) / "autotune"  # noqa: SLF001 - pytest has no public name for it
    if state.exists():
        return state
    # pytest before 8.3 fails once where a second run makes the cache folder at the same moment.
    for _ in range(2):
        with suppress(OSError):
            made = Path(cache.mkdir("autotune"))
            # Where earlier versions kept them.
            made.rename(state)
            break
    with suppress(OSError):
        state.mkdir(exist_ok=True)
    return state


def is_distributed(config: pytest.Config) -> bool:
    """Return whether this process hands its tests to workers, and so is no worker itself."""
    return config.getoption("dist", "no") != "no" and not config.option.collectonly
