"""Measure one callable: first call, warm-up, samples, and once more if something disturbed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final, Literal

from pytest_autotune.bench.clocks import handicap
from pytest_autotune.bench.device import DeviceTimer, TimedDevice
from pytest_autotune.bench.energy import Energy, energy_of
from pytest_autotune.bench.foreign_memory import give_back_caches, own_metrics
from pytest_autotune.bench.frameworks import (
    Framework,
    device_for,
    device_in_use,
    jax_devices,
    tells,
    wait_for,
    wait_for_devices,
)
from pytest_autotune.bench.graph import AnyTimer, GraphTimer
from pytest_autotune.bench.host import HostTimer, affinity
from pytest_autotune.bench.launches import launches_work, sees_work
from pytest_autotune.bench.memory import (
    DRIVER_REMARK,
    JAX_REMARK,
    device_peak,
    host_peak,
    jax_peak,
)
from pytest_autotune.bench.peaks import Peaks, measured_peaks, stated_peaks
from pytest_autotune.bench.preheating import preheat
from pytest_autotune.bench.remarks import timing_remarks
from pytest_autotune.bench.sampler import Goal, Race, Sampling, sample
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.warming import ROUND_SECONDS, warm_up
from pytest_autotune.bench.watched import Watch, Watched
from pytest_autotune.bench.work import Arguments, Work
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.gpu import cuda

#: If even the fastest of all samples is this many times the limit, it was not others' fault.
_HOPELESS: Final = 1.5
#: Before something is measured again that was disturbed.
_REST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A sampling, and the observation of the devices meanwhile.

    ``excused`` is true if there was a disturbance that cannot have been decisive.
    """

    sampling: Sampling
    seen: Watched | None
    repeated: bool = False
    excused: bool = False

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe it."""
        return () if self.seen is None or self.excused else self.seen.disturbances


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """The first call: its time in seconds, where its work was done, and how to wait for that.

    ``device`` times calls, and ``owner`` knows their memory; without a device the host times them.
    ``on_host`` is true where nothing shows that a device takes part, and None where that cannot be
    told. ``by_driver`` is true where CUDA's driver waits, as no known framework could.
    """

    seconds: float = 0.0
    device: TimedDevice | None = None
    owner: TimedDevice | None = None
    wait: Callable[[], None] | None = None
    jax: tuple[Any, ...] = ()
    on_host: bool | None = False
    by_driver: bool = False


def measure(  # noqa: PLR0913 - each has a default that suits
    function: Callable[..., object],
    *arguments: object,
    inputs: Callable[[], Arguments] | Sequence[Arguments] | None = None,
    metric: str = "e2e_latency",
    backend: Framework = "auto",
    graph: bool = False,
    cold_cache: bool | None = None,
    width: float = 0.02,
    confidence: float = 0.95,
    max_time: float = 2.0,
    warmup_time: float = 0.5,
    flop: float | None = None,
    bytes_moved: float | None = None,
    peak: Literal["measured"] | Mapping[str, float] | None = None,
    energy: bool = False,
    race: Race | None = None,
    watch: Watch | None = None,
) -> Timing:
    """Time ``function(*arguments)`` until the interval of its median is narrow, or time is up.

    ``inputs`` are several tuples of arguments to take in turn, or a function that makes one, so
    that no cache answers. ``backend`` names the clock: the host's, or events of the GPU framework
    that is found in use. On a GPU the caches are flushed before each call unless ``cold_cache`` is
    False. With ``graph``, calls are replayed as a CUDA graph, which leaves the host out; caches are
    then warm unless ``cold_cache`` is True. On the host, too, caches are warm unless it is True.

    ``width`` is the wanted width of the interval at ``confidence``, as a share of the median.
    ``max_time`` (seconds) ends sampling in any case, ``warmup_time`` warming up. Less than a
    tenth of a second of it leaves the clocks of an idle GPU low. Long calls on a GPU then run until
    its power cap has lowered the clocks, for about two seconds at most; not with ``warmup_time=0``.

    ``flop`` and ``bytes_moved`` are the work of a call. ``peak`` is the machine's own peak,
    ``{"tflop_per_s": 989, "gb_per_s": 3350}`` or ``"measured"``. With ``energy`` the energy of a
    call and the mean power are measured for three seconds, and the energy of flushes for as long.

    Raises :class:`BenchmarkError` for a function that cannot be measured so.
    """
    goal = _goal(width, confidence, max_time)
    for name, value in (("flop", flop), ("bytes_moved", bytes_moved)):
        if value is not None and not value > 0:
            raise BenchmarkError(f"{name}={value!r}: give the work of one call, a positive number")
    peaks = Peaks() if peak is None or peak == "measured" else stated_peaks(peak)
    work = Work.of(function, arguments, inputs)
    ran = _first_call(work, backend)
    # Before timing takes memory of its own.
    memory, without = _peak_memory(work, ran)
    if peak == "measured":
        peaks = measured_peaks(_peak_device(ran), (value for each in work.sets for value in each))
    if not ran.on_host:
        give_back_caches()
    timer, description = _timer(work, ran, graph=graph, cold_cache=cold_cache)
    typical = warm_up(timer, warmup_time, gpu=not ran.on_host)
    if warmup_time > 0 and not ran.on_host:
        preheat(timer, typical)
    if isinstance(timer, DeviceTimer):
        timer.forget_host()
    taken = _sample(timer, goal, race, watch)
    sampling, seen = taken.sampling, taken.seen
    host_times = list(timer.host_times) if isinstance(timer, DeviceTimer) else []
    lost = sampling.ending == "race" and not taken.disturbances
    used = energy_of(timer, watch) if energy and watch is not None and not lost else Energy()
    found = Timing(
        metric=metric,
        samples=sampling.samples,
        interval=sampling.interval,
        ending=sampling.ending,
        seconds=sampling.seconds,
        timer=description,
        calls_per_sample=timer.loops,
        overhead=timer.overhead(),
        host_time=median(host_times) if host_times else None,
        peak_memory=memory,
        energy=used.joules,
        flop=flop,
        bytes_moved=bytes_moved,
        peak_flop_rate=peaks.flop_rate,
        peak_bandwidth=peaks.bandwidth,
        width=width,
        confidence=confidence,
        repeated=taken.repeated,
        disturbances=(*taken.disturbances, *used.disturbances),
        remarks=(
            *without,
            *((peaks.remark,) if peaks.remark and (flop or bytes_moved) else ()),
            *(() if seen is None else seen.remarks),
            *used.remarks,
        ),
        telemetry={} if seen is None else {**own_metrics(seen.metrics, timer), **used.metrics},
    )
    return replace(
        found,
        compile_time=max(ran.seconds - found.median, 0.0),
        remarks=(*found.remarks, *timing_remarks(found, timer)),
    )


def _first_call(work: Work, backend: Framework) -> _Ran:
    """Make the first call, and find out where its work is done."""
    begin = time.perf_counter()
    result = work.first()
    values = (*(value for each in work.sets for value in each), result)
    device = device_for(backend, values)
    known = device is not None or backend == "jax"
    wait = (
        _by_host(values, lambda: result, known=known).wait if device is None else device.synchronize
    )
    if wait is not None:
        wait()
    taken = time.perf_counter() - begin
    if device is not None and (backend != "auto" or tells(values)):
        timed = device if sees_work(work, device) else None
        return _Ran(seconds=taken, device=timed, owner=device, wait=device.synchronize)
    if backend == "auto":
        # A framework that has a device in use need not be what this function uses, nor need
        # arrays on the host mean that it is not.
        device = device or device_in_use()
        launches = False if device is None else launches_work(work, device)
        if device is not None and launches is not False:
            timed = device if launches else None
            return _Ran(
                seconds=taken,
                device=timed,
                owner=timed,
                wait=device.synchronize,
                on_host=False if launches else None,
            )
        known = device is not None
    return replace(_by_host(values, lambda: work.last, known=known), seconds=taken)


def _by_host(values: Sequence[object], last: Callable[[], object], *, known: bool) -> _Ran:
    """Return how the host waits for calls that take and return such values.

    ``last`` returns the result of the last call. With ``known``, no other framework takes part.
    """
    by_arrays, jax = wait_for_devices(values), jax_devices(values)
    by_driver = None if known or by_arrays or jax else cuda.waiter()
    waits = [each for each in (by_arrays or wait_for(last), by_driver) if each is not None]

    def wait() -> None:
        for each in waits:
            each()

    return _Ran(
        wait=wait if waits else None,
        jax=jax,
        on_host=not (by_arrays or jax or by_driver),
        by_driver=by_driver is not None,
    )


def _goal(width: float, confidence: float, max_time: float) -> Goal:
    msg = ""
    if not 0 < width < 1:
        msg = f"width={width!r}: give a share of the median between 0 and 1, such as 0.02"
    elif not 0.5 <= confidence < 1:  # noqa: PLR2004 - of a coin
        msg = f"confidence={confidence!r}: give a probability from 0.5 to below 1, such as 0.95"
    elif not max_time > 0:
        msg = f"max_time={max_time!r}: give a positive number of seconds"
    if msg:
        raise BenchmarkError(msg)
    return Goal(width=width, confidence=confidence, max_time=max_time)


def _timer(work: Work, ran: _Ran, *, graph: bool, cold_cache: bool | None) -> tuple[AnyTimer, str]:
    """Return the timer of a callable, chosen after its first call, and its description."""
    device = ran.device
    if device is None:
        if graph:
            raise BenchmarkError(
                "graph=True: the function used no GPU that could capture a CUDA graph; if it did, "
                "name the framework, such as backend='torch'"
            )
        host = HostTimer(work, wait=ran.wait, cold_cache=bool(cold_cache))
        # The first call may have been long for compiling only.
        if host.batch(1)[0] < ROUND_SECONDS:
            # The driver is asked for each device, which takes its time.
            host.calibrate(*((host.lasting(),) if ran.by_driver else ()))
        waiting = ", waiting for all that CUDA does in this process" if ran.by_driver else ""
        return host, f"the host's clock ({affinity()}{waiting})"
    if graph:
        replay = GraphTimer(work, device, cold_cache=bool(cold_cache))
        return replay, f"events of {device.name} around a CUDA graph"
    timer = DeviceTimer(work, device, cold_cache=cold_cache is not False)
    return timer, f"events of {device.name}"


def _sample(timer: AnyTimer, goal: Goal, race: Race | None, watch: Watch | None) -> _Taken:
    """Sample, and once more if something disturbed it."""
    if watch is None:
        return _Taken(sampling=sample(timer, goal, race), seen=None)
    with watch() as seen:
        sampling = sample(timer, goal, race, handicap=partial(handicap, race, seen))
    if not seen.disturbances:
        return _Taken(sampling=sampling, seen=seen)
    if not seen.severe and _is_hopeless(sampling, race):
        return _Taken(sampling=sampling, seen=seen, excused=True)
    # By then the cause of the heat, or somebody's short job, may be over.
    time.sleep(_REST_SECONDS)
    with watch() as seen:
        sampling = sample(timer, goal, race, handicap=partial(handicap, race, seen))
    return _Taken(sampling=sampling, seen=seen, repeated=True)


def _is_hopeless(sampling: Sampling, race: Race | None) -> bool:
    """Return whether a race is lost by more than a disturbance could explain."""
    if race is None or sampling.ending != "race":
        return False
    return min(sampling.samples) > _HOPELESS * race.limit


def _peak_device(ran: _Ran) -> TimedDevice | None:
    """Return the device whose peak rates are to be measured, None for the host."""
    if ran.owner is None and not ran.on_host:
        raise BenchmarkError(
            "peak='measured' needs PyTorch or the host: the host times this function, whose work "
            "may be a GPU's; state the peak"
        )
    return ran.owner


def _peak_memory(work: Work, ran: _Ran) -> tuple[int | None, tuple[str, ...]]:
    """Return bytes, None where they are not known, and a remark on that."""
    if ran.owner is not None:
        return device_peak(work, ran.owner), ()
    if ran.on_host is not False:
        return host_peak(work, ran.seconds), ()
    if ran.by_driver:
        return None, (DRIVER_REMARK,)
    found = jax_peak(ran.jax)
    return found, (JAX_REMARK,) if ran.jax and found is None else ()
