"""Resources that the tests of a trial use and give back: GPUs, servers, load."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.bench import compilation
from pytest_autotune.gpu.allocation import Allocator, Need
from pytest_autotune.gpu.strangers import describe, strangers
from pytest_autotune.gpu.telemetry import Telemetry
from pytest_autotune.plugin.active import ActiveTrial, Grant
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.space.sampling import example
from pytest_autotune.spec.model import Spec
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.trial import Trial
from pytest_autotune.system.masking import Masker
from pytest_autotune.system.variables import expand_host_variables
from pytest_autotune.text.durations import duration

if TYPE_CHECKING:
    from pytest_autotune.bench.benchmark import GpuBenchmark
    from pytest_autotune.bench.machine import MachineWatch
    from pytest_autotune.bench.watched import Watch
    from pytest_autotune.load.loadtest import LoadTest
    from pytest_autotune.serving.keeper import ServerKeeper
    from pytest_autotune.serving.server import InferenceServer

#: Waiting for GPUs for longer than this is worth a notice (seconds).
_NOTED_WAIT_SECONDS: Final = 1.0


class Resources:
    """The GPUs and servers of one test process, handed from trial to trial.

    ``project`` is the folder of the tests. With ``brief`` a benchmark is one of many launches
    that are compared. ``notice`` takes a study and a sentence for its
    summary, ``on_wait`` what to show whoever waits.
    """

    def __init__(  # noqa: PLR0913 - made by Tuning
        self,
        context: RunContext,
        project: Path,
        masker: Masker,
        *,
        gpu_timeout: float,
        brief: bool,
        notice: Callable[[str, str], None],
        on_wait: Callable[[str], None],
    ) -> None:
        self._context = context
        self._project = project
        self._masker = masker
        self._brief = brief
        self._notice = notice
        self._gpus = Allocator(
            context.gpus, timeout=gpu_timeout, on_wait=on_wait, session=context.session
        )
        self._grant = Grant()
        self._waited: dict[str, float] = {}
        self._servers: ServerKeeper | None = None

    def check(self, study: str, spec: Spec, need: Need, *, server: bool) -> None:
        """Find out before any trial of a study what would fail every one of them.

        Raises :class:`LeaseError`, and, where its tests use a ``server``, :class:`LaunchError`.
        """
        engine = spec.server.preset if server and spec.server is not None else None
        self._gpus.check(need, insists=engine is not None and engine.gpus == "required")
        if not server:
            return
        from pytest_autotune.serving.keeper import check_spec, reap

        check_spec(spec, example(spec.space), self._masker, self._context.policies)
        if spec.server is not None and spec.server.backend == "docker":
            removed = reap(self._project)
            if removed:
                several = "s" * (removed > 1)
                self._notice(study, f"removed {removed} container{several} that a killed run left")

    def begin(self, study: str, trial: Trial, need: Need) -> Grant:
        """Get a trial the GPUs that it needs.

        Raises :class:`LeaseError` where they cannot be had, :class:`.PolicyError` where they may
        not be, and :class:`TooFewGpusError` where only this trial cannot have them.
        """
        compilation.take()  # What another trial left.
        asked = len(need.named) or need.count
        self._context.policies.check_gpus(asked, f"{study}, trial {trial.number}")
        if self._gpus.has_no_share and need.count != 0:
            worker = os.environ.get("PYTEST_XDIST_WORKER", "a worker")
            self._notice(study, f"{worker} has no GPU of its own, and takes turns with the others")
        if self._servers is not None and not self._gpus.fits(need):
            # It still has what must be given back first.
            self._servers.forget()
        kept = bool(self._gpus.devices) and self._gpus.fits(need)
        lease = self._gpus.take(need, f"{study}, trial {trial.number}")
        if kept:
            # Who is there now may be the server that is kept with it.
            return self._grant
        self._grant = Grant()
        if lease is None:
            return self._grant
        self._waited[study] = self._waited.get(study, 0.0) + lease.waited
        found = [
            (device, process)
            for device in lease.devices
            for process in strangers(device, self._root)
        ]
        for device, process in found:
            trial.note(f"{device} is also used by {describe(process)}")
        guests = frozenset(process.pid for _, process in found)
        self._grant = Grant(lease=lease, guests=guests)
        return self._grant

    def end(self, *, study_goes_on: bool) -> None:
        """Take back what a trial had, once its last fixture is gone.

        A server that the next trial of its study may take over is kept, with its GPUs.
        """
        if self._servers is not None and not study_goes_on:
            # It would disturb whatever comes instead.
            self._servers.forget()
        if self._servers is None or not self._servers.keeps_one:
            self._gpus.release()

    def idle(self) -> None:
        """Keep nothing while waiting for somebody who may be waiting for it."""
        self.end(study_goes_on=False)

    def close(self, *, keeps_gpus: bool = False) -> None:
        """End and give back whatever there is, and say how long was waited.

        Leases that it ``keeps_gpus`` of end with this process, which still has memory there.
        """
        if self._servers is not None:
            self._servers.close()
        if not keeps_gpus:
            self._gpus.release()
        for study, waited in self._waited.items():
            if waited > _NOTED_WAIT_SECONDS:
                self._notice(study, f"waited {duration(waited)} for GPUs, all trials together")

    def benchmark(self, active: ActiveTrial) -> GpuBenchmark:
        """Return the benchmark of a trial."""
        from pytest_autotune.bench.benchmark import GpuBenchmark
        from pytest_autotune.bench.machine import MachineWatch

        watch = self._watch(active.grant, contained=False)
        if watch is None:
            watch = partial(MachineWatch, shared=self._shared)
        question = active.study.plan.question
        return GpuBenchmark(
            question.objective,
            question.slo,
            active.rivals,
            watch,
            brief=self._brief,
            disturbed=active.trial.disturbed,
            reports=active.trial.cases,
        )

    def _watch(self, grant: Grant, *, contained: bool) -> Watch | None:
        """Return a watch on the devices of a trial, None where there is nothing to see.

        What runs in a container is no descendant of ours: there only a process that was on a
        device before is known to be somebody else's.
        """
        devices, guests = grant.lease.devices, grant.guests
        if not any(device.uuid for device in devices):
            return None
        return lambda: Telemetry(
            devices, lambda process: not contained or process.pid in guests, self._root
        )

    def _processors(self, **known: Any) -> MachineWatch:
        """Return a watch on other work beside a server, of which ``known`` tells more."""
        from pytest_autotune.bench.machine import SPARE_OF_SERVERS, MachineWatch

        return MachineWatch(shared=self._shared, spare=SPARE_OF_SERVERS, **known)

    @property
    def _shared(self) -> bool:
        """Whether other workers of this run use the processors, too."""
        return self._context.workers > 1

    @property
    def _root(self) -> int:
        """The process that all of this run descend from: idle workers are no strangers."""
        return os.getppid() if self._context.is_worker else os.getpid()

    def start_server(self, active: ActiveTrial) -> InferenceServer:
        """Return a server for a trial, ready for requests."""
        from pytest_autotune.serving.gpus import mig_warning

        if self._servers is None:
            from pytest_autotune.serving.keeper import ServerKeeper

            self._servers = ServerKeeper(
                self._project, self._context.logs, self._masker, self._context.policies
            )
        plan, trial = active.study.plan, active.trial
        warning = mig_warning(plan.spec.server, active.grant.lease.devices)
        if warning:
            self._notice(active.slot.study, warning)
        server = self._servers.acquire(plan.spec, plan.label, trial.number, active.record.params)
        trial.reached(server.launch.reached(active.record.params))
        return server

    def stop_server(self, server: InferenceServer) -> None:
        """Take back the server that :meth:`start_server` gave."""
        assert self._servers is not None, "it came from there"
        self._servers.release(server)

    def server_of(self, trial: int) -> InferenceServer | None:
        """Return the last server that was started for a trial, running or not."""
        return None if self._servers is None else self._servers.of_trial(trial)

    def server_command(self, active: ActiveTrial) -> str:
        """Return the command line of a trial's server, empty where it asked for none."""
        if self._servers is None or not self._servers.serves(active.record.number):
            return ""
        from pytest_autotune.serving.command import server_command

        return server_command(active.study.plan.spec, active.record.params)

    def load_test(self, active: ActiveTrial) -> LoadTest:
        """Return a load test of the trial's spec."""
        from pytest_autotune.load.loadtest import LoadTest

        plan, trial = active.study.plan, active.trial
        benchmark, server = plan.spec.benchmark, plan.spec.server
        if benchmark.api_key is not None:
            where = benchmark.origin.at("benchmark", "api_key")
            self._masker.learn({"api_key": expand_host_variables(benchmark.api_key, where)})
        # Every trial gets the same prompts, unless one server is to answer them all.
        reused = server is not None and (server.reuse or server.backend == "url")
        contained = server is not None and server.backend == "docker"
        return LoadTest(
            trial.spec,
            benchmark,
            plan.spec.slo,
            objective=plan.objective,
            records=active.rivals,
            stream=_stream(plan, trial, reused=reused),
            mask=self._masker,
            watch=self._watch(active.grant, contained=contained),
            # Of many launches each is a sample: none is worth repeating.
            processors=None if self._brief else self._processors,
            disturbed=trial.disturbed,
            policies=self._context.policies,
        )


def _stream(plan: Plan, trial: Trial, *, reused: bool) -> str:
    """Return the name of the random stream for a trial's prompts and arrivals."""
    if trial.seed != plan.seed:
        return f"launch-{trial.seed}"
    return f"trial-{trial.number}" if reused else ""
