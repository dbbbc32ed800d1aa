"""A measurement from its first call to what is reported of it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from builders import make_plan, make_record, make_slo, make_spec

from pytest_autotune.bench import energy, memory, peaks
from pytest_autotune.bench import measure as module
from pytest_autotune.bench import warming as warming_module
from pytest_autotune.bench.benchmark import GpuBenchmark
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.sampler import Race, Sampling, SamplingEnd, sample
from pytest_autotune.bench.statistics import Interval
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.warming import warm_up
from pytest_autotune.bench.watched import Watched
from pytest_autotune.errors import BenchmarkError, SLOViolation, TrialPruned
from pytest_autotune.scoring.judgement import Ending, Outcome, judge
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.study.trial import Trial

#: Little of everything, for what is measured in earnest.
QUICK: Mapping[str, Any] = {"max_time": 0.02, "warmup_time": 0.0}


def nap() -> None:
    time.sleep(0.002)


def nothing(*arguments: object) -> None:
    pass


# In earnest


def test_a_sleep_takes_at_least_its_time() -> None:
    found = measure(nap, max_time=0.1)
    assert min(found.samples) >= 0.002
    assert 0.002 <= found.median <= found.metrics["max_e2e_latency"]
    assert found.interval.low <= found.median <= found.interval.high
    assert found.calls_per_sample == 1
    assert found.metrics["num_samples"] == len(found.samples) >= 3
    assert found.timer.startswith("the host's clock (")
    assert found.host_time is None
    assert found.overhead >= 0


def test_short_functions_are_called_many_times_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the first call is, where something else held it up.
    monkeypatch.setattr(module, "ROUND_SECONDS", 1e9)
    assert measure(nothing, **QUICK).calls_per_sample > 1


def test_a_slow_first_call_does_not_keep_a_short_function_from_being_looped() -> None:
    compiled: list[bool] = []

    def kernel() -> None:
        if not compiled:
            compiled.append(True)
            time.sleep(0.05)

    found = measure(kernel, **QUICK)
    # Or each sample would be little more than reading the clock.
    assert found.calls_per_sample > 1


def test_with_a_cold_cache_a_sample_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    evicted: list[int] = []
    monkeypatch.setattr(
        "pytest_autotune.bench.host.evictor", lambda: lambda: evicted.append(len(evicted))
    )
    assert measure(nothing, cold_cache=True, **QUICK).calls_per_sample == 1
    assert evicted
    evicted.clear()
    measure(nothing, **QUICK)
    assert not evicted


def test_arguments_and_inputs_reach_the_function() -> None:
    seen: set[tuple[object, ...]] = set()
    measure(lambda *arguments: seen.add(arguments), 1, "a", **QUICK)
    assert seen == {(1, "a")}
    seen.clear()
    measure(lambda *arguments: seen.add(arguments), inputs=[(1,), (2,), (3,)], **QUICK)
    assert seen == {(1,), (2,), (3,)}


def test_what_the_first_call_took_longer_is_compilation() -> None:
    pauses = iter([0.1])
    found = measure(lambda: time.sleep(next(pauses, 0.0001)), max_time=0.05, warmup_time=0.05)
    assert found.compile_time >= 0.1 - found.median
    assert found.metrics["compile_time"] == found.compile_time


def test_a_first_call_that_was_no_slower_compiled_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first_call", lambda *_: module._Ran(seconds=1e-9, on_host=True))
    assert measure(nap, **QUICK).compile_time == 0.0


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is looked at however slow the first call is."""
    monkeypatch.setattr(memory, "_TRACED_SECONDS", 1e9)


@pytest.mark.usefixtures("traced")
def test_the_peak_of_memory_is_what_a_call_allocates_and_frees() -> None:
    found = measure(lambda: np.ones(2**20).sum(), **QUICK)
    assert found.peak_memory is not None
    assert 8 * 2**20 <= found.peak_memory < 9 * 2**20
    assert found.metrics["peak_memory_mib"] == found.peak_memory / 2**20
    assert not tracemalloc.is_tracing()


@pytest.mark.usefixtures("traced")
def test_memory_is_not_traced_while_it_is_timed() -> None:
    seen: list[bool] = []
    measure(lambda: seen.append(tracemalloc.is_tracing()), **QUICK)
    assert seen.count(True) == 1
    assert not any(seen[-3:])


@pytest.mark.usefixtures("traced")
def test_tracing_ends_with_an_error_too() -> None:
    def broken() -> None:
        if tracemalloc.is_tracing():
            raise MemoryError

    with pytest.raises(MemoryError):
        measure(broken, **QUICK)
    assert not tracemalloc.is_tracing()


def test_somebody_else_s_tracing_is_left_alone() -> None:
    tracemalloc.start()
    try:
        assert measure(nothing, **QUICK).peak_memory is None
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_the_memory_of_slow_functions_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_TRACED_SECONDS", 0.001)
    assert measure(nap, **QUICK).peak_memory is None


def test_an_error_of_the_function_comes_through() -> None:
    def broken() -> None:
        raise ValueError("no such kernel")

    with pytest.raises(ValueError, match="no such kernel"):
        measure(broken)


def test_a_race_that_is_lost_ends_it() -> None:
    found = measure(nap, max_time=600.0, width=1e-12, race=Race(limit=1e-4))
    assert found.ending == "race"
    assert found.seconds >= 0.5


# Bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width=0.0: give a share of the median between 0 and 1, such as 0.02"),
        ({"width": 1.0}, "width=1.0"),
        ({"width": -0.1}, "width=-0.1"),
        ({"width": float("nan")}, "width=nan"),
        ({"confidence": 1.0}, "confidence=1.0: give a probability from 0.5 to below 1"),
        ({"confidence": 95}, "confidence=95"),
        ({"confidence": 0.4}, "confidence=0.4"),
        ({"max_time": 0.0}, "max_time=0.0: give a positive number of seconds"),
        ({"max_time": -1}, "max_time=-1"),
        ({"flop": 0}, "flop=0: give the work of one call, a positive number"),
        ({"flop": -1e9}, "flop=-1000000000.0"),
        ({"flop": float("nan")}, "flop=nan"),
        ({"bytes_moved": 0}, "bytes_moved=0: give the work of one call"),
        ({"peak": "guessed"}, "peak='guessed': give 'measured', or a mapping with tflop_per_s and"),
        ({"peak": {}}, "peak={}"),
        ({"peak": 989}, "peak=989"),
        ({"peak": {"tflops": 1}}, "peak={'tflops': 1}"),
        ({"peak": {"gb_per_s": 0}}, "peak['gb_per_s']=0 is not a positive number"),
        ({"peak": {"tflop_per_s": "989"}}, "peak['tflop_per_s']='989' is not a positive number"),
        ({"peak": {"tflop_per_s": float("nan")}}, "peak['tflop_per_s']=nan is not a positive"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
        ({"graph": True}, "graph=True: the function used no GPU that could capture a CUDA graph"),
        ({"inputs": []}, "inputs= is empty"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError) as raised:
        measure(nothing, **options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "options", [{"width": 2.0}, {"flop": -1}, {"max_time": 0}, {"peak": "x"}, {"inputs": [3]}]
)
def test_mistakes_are_told_before_anything_is_called(options: dict[str, Any]) -> None:
    def unwanted() -> None:
        raise AssertionError

    with pytest.raises(BenchmarkError):
        measure(unwanted, **options)


def test_what_is_no_function_is_refused() -> None:
    wrong: Any = 3
    with pytest.raises(BenchmarkError, match="3 is not callable"):
        measure(wrong)


# Rates and peaks


def test_work_gives_rates_and_shares_of_what_the_machine_can_do() -> None:
    found = measure(
        nap, flop=4e9, bytes_moved=6e6, peak={"tflop_per_s": 10, "gb_per_s": 12}, **QUICK
    )
    metrics = found.metrics
    assert metrics["tflop_per_s"] == pytest.approx(4e9 / found.median / 1e12)
    assert metrics["gb_per_s"] == pytest.approx(6e6 / found.median / 1e9)
    assert metrics["flop_peak_share"] == pytest.approx(metrics["tflop_per_s"] / 10)
    assert metrics["bandwidth_peak_share"] == pytest.approx(metrics["gb_per_s"] / 12)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, set()),
        ({"flop": 1e6}, {"tflop_per_s"}),
        ({"bytes_moved": 1e6}, {"gb_per_s"}),
        ({"peak": {"gb_per_s": 1}}, set()),
        ({"flop": 1e6, "peak": {"gb_per_s": 1}}, {"tflop_per_s"}),
        ({"flop": 1, "peak": {"tflop_per_s": 1}}, {"tflop_per_s", "flop_peak_share"}),
        ({"bytes_moved": 1, "peak": {"gb_per_s": 1}}, {"gb_per_s", "bandwidth_peak_share"}),
    ],
)
def test_what_is_not_known_is_not_reported(options: dict[str, Any], names: set[str]) -> None:
    rates = {"tflop_per_s", "flop_peak_share", "gb_per_s", "bandwidth_peak_share"}
    found = measure(nothing, **QUICK, **options)
    assert rates & set(found) == names
    assert not {"host_time", "energy_per_call"} & set(found)


def test_the_peak_of_the_host_can_be_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_HOST_SIDE", 64)
    monkeypatch.setattr(peaks, "_HOST_BYTES", 2**20)
    monkeypatch.setattr(peaks, "_REPEATS", 3)
    peaks._host_peaks.cache_clear()
    try:
        found = measure(nothing, flop=1.0, bytes_moved=1.0, peak="measured", **QUICK)
        again = measure(nothing, flop=1.0, peak="measured", **QUICK)
    finally:
        peaks._host_peaks.cache_clear()
    assert found.peak_flop_rate is not None
    assert found.peak_flop_rate > 0
    assert found.peak_bandwidth is not None
    assert found.peak_bandwidth > 0
    assert (again.peak_flop_rate, again.peak_bandwidth) == (
        found.peak_flop_rate,
        found.peak_bandwidth,
    )


def test_the_peak_of_the_host_is_work_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_HOST_SIDE", 10)
    monkeypatch.setattr(peaks, "_HOST_BYTES", 4000)
    monkeypatch.setattr(peaks, "_fastest", lambda run: 1e-3)
    peaks._host_peaks.cache_clear()
    try:
        found = peaks.measured_peaks(None)
    finally:
        peaks._host_peaks.cache_clear()
    assert found.flop_rate == pytest.approx(2e6)
    assert found.bandwidth == pytest.approx(4e6)


class Steps:
    """The module ``time``, and a function that takes so long from call to call."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds)
        self.now = 10.0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self) -> None:
        self.calls += 1
        self.now += next(self._seconds)


def test_the_peak_is_the_least_time_once_it_falls_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of the first calls are disturbed.
    steps = Steps(*[0.02] * 15, 0.01, *[0.015] * 9, 0.0099, *[0.02] * 100)
    monkeypatch.setattr(peaks, "time", steps)
    assert peaks._fastest(steps) == pytest.approx(0.0099)
    # A fall by one per cent is none, but what is least is least.
    assert steps.calls == 16 + 20


def test_looking_for_the_peak_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(*(0.5 * 0.97**k for k in range(1000)))
    monkeypatch.setattr(peaks, "time", steps)
    assert peaks._fastest(steps) == pytest.approx(0.5 * 0.97 ** (steps.calls - 1))
    assert 3 <= steps.now - 10 < 3.6


def test_the_peak_of_other_frameworks_must_be_stated() -> None:
    device: Any = type("Device", (), {"name": "cupy"})()
    with pytest.raises(BenchmarkError, match="needs PyTorch or the host, not cupy; state the peak"):
        peaks.measured_peaks(device)


# Watching


@dataclass
class Seen:
    disturbances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    energy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    severe: bool = True


class Watching:
    """Says in turn what was seen, nothing special in the end."""

    def __init__(self, *seen: Seen) -> None:
        self._seen = iter(seen)
        self.log: list[str] = []

    def __call__(self) -> AbstractContextManager[Watched]:
        return self._watching()

    @contextmanager
    def _watching(self) -> Iterator[Watched]:
        self.log.append("begin")
        # Complete only at the end.
        seen = Seen(disturbances=("not yet over",), energy=-1.0)
        yield seen
        known = next(self._seen, Seen())
        seen.disturbances, seen.remarks = known.disturbances, known.remarks
        seen.energy, seen.metrics, seen.severe = known.energy, known.metrics, known.severe
        self.log.append("end")


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_SECONDS", 0.001)


HOT = Seen(disturbances=("clocks were throttled", "others used the GPU"))


@pytest.mark.usefixtures("rests")
def test_what_was_not_disturbed_is_measured_once() -> None:
    watch = Watching(Seen(metrics={"max_gpu_temp_c": 60.0}, remarks=("it is a shared GPU",)))
    found = measure(nothing, watch=watch, **QUICK)
    assert watch.log == ["begin", "end"]
    assert found.reliable
    assert not found.repeated
    assert found.metrics["max_gpu_temp_c"] == 60.0
    assert "e2e_latency: it is a shared GPU" in found.notes
    assert not any("again" in note or "unreliable" in note for note in found.notes)


@pytest.mark.usefixtures("rests")
def test_what_was_disturbed_once_is_measured_again() -> None:
    watch = Watching(HOT, Seen(metrics={"max_gpu_temp_c": 61.0}))
    found = measure(nothing, watch=watch, **QUICK)
    assert watch.log == ["begin", "end"] * 2
    assert found.reliable
    assert found.repeated
    assert "e2e_latency was measured again, as the first time was disturbed" in found.notes
    assert found.metrics["max_gpu_temp_c"] == 61.0


@pytest.mark.usefixtures("rests")
def test_what_was_disturbed_twice_is_unreliable_and_not_measured_a_third_time() -> None:
    watch = Watching(HOT, HOT, HOT)
    found = measure(nothing, watch=watch, metric="matmul_time", **QUICK)
    assert watch.log == ["begin", "end"] * 2
    assert not found.reliable
    assert (
        "matmul_time is unreliable, measured twice: clocks were throttled; others used the GPU"
        in found.notes
    )
    assert not any("measured again" in note for note in found.notes)


def test_there_is_a_rest_before_it_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Time:
        perf_counter = staticmethod(time.perf_counter)

        @staticmethod
        def sleep(seconds: float) -> None:
            log.append(f"rest {seconds:g}")

    monkeypatch.setattr(module, "time", Time)
    watch = Watching(HOT)
    watch.log = log
    measure(nothing, watch=watch, **QUICK)
    assert log == ["begin", "end", "rest 1", "begin", "end"]


@pytest.mark.usefixtures("rests")
@pytest.mark.parametrize(
    ("fastest", "ending", "severe", "again"),
    [
        (0.0014, "race", False, True),
        (0.0016, "race", False, False),
        (0.0016, "time", False, True),
        # Heat can slow down by any factor.
        (0.0016, "race", True, True),
    ],
)
def test_a_race_that_no_disturbance_can_have_lost_is_not_run_again(
    fastest: float,
    ending: SamplingEnd,
    monkeypatch: pytest.MonkeyPatch,
    *,
    severe: bool,
    again: bool,
) -> None:
    lost = Sampling(
        samples=(0.01, fastest, 0.01),
        interval=Interval(low=fastest, high=0.01, confidence=0.75),
        ending=ending,
        seconds=0.5,
    )
    monkeypatch.setattr(module, "sample", lambda *arguments, **options: lost)
    seen = replace(HOT, severe=severe)
    found = measure(nothing, watch=Watching(seen, seen), race=Race(limit=0.001), warmup_time=0.0)
    assert found.repeated is again
    assert found.ending == ending
    # What cannot have been decisive makes nothing unreliable.
    assert found.reliable is not again


@pytest.mark.usefixtures("rests")
def test_a_lost_race_that_was_disturbed_twice_is_unreliable_and_not_pruned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Sampling(
        samples=(0.01,) * 23,
        interval=Interval(low=0.01, high=0.01, confidence=0.95),
        ending="race",
        seconds=0.5,
    )
    monkeypatch.setattr(module, "sample", lambda *arguments, **options: lost)
    incumbent = make_record(0, metric="mean_e2e_latency", value=0.001, score=0.001)
    bench = GpuBenchmark(Objective.parse("minimize_latency"), make_slo(), lambda: [incumbent])
    watch = Watching(HOT, HOT)
    found = bench(nothing, watch=watch, warmup_time=0.0)
    assert watch.log == ["begin", "end"] * 2
    assert found.ending == "race"
    assert not found.reliable
    # Once is not enough for that, nor is what cannot have been decisive.
    for seen in ([HOT, Seen()], [replace(HOT, severe=False)]):
        with pytest.raises(TrialPruned, match="lost the race"):
            bench(nothing, watch=Watching(*seen), warmup_time=0.0)


@pytest.mark.usefixtures("rests")
def test_the_samples_are_those_of_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[tuple[float, ...]] = []
    real = sample

    def noted(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        sampled.append(found.samples)
        return found

    monkeypatch.setattr(module, "sample", noted)
    found = measure(nap, watch=Watching(HOT), **QUICK)
    assert len(sampled) == 2
    assert found.samples == sampled[1]


@pytest.mark.usefixtures("rests")
def test_energy_is_shared_by_the_calls_that_it_was_used_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(energy, "_ENERGY_SECONDS", 0.05)
    watch = Watching(Seen(), Seen(energy=10.0))
    calls: list[int] = []

    def kernel() -> None:
        calls.append(len(watch.log))
        time.sleep(0.001)

    found = measure(kernel, watch=watch, energy=True, **QUICK)
    assert watch.log == ["begin", "end"] * 2
    # With three entries in the log the second watch was on.
    assert calls.count(3) >= 1
    assert found.energy == pytest.approx(10.0 / calls.count(3))
    assert found.metrics["energy_per_call"] == found.energy


def test_energy_that_no_device_tells_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_ENERGY_SECONDS", 0.001)
    found = measure(nothing, watch=Watching(Seen(), Seen(energy=None)), energy=True, **QUICK)
    assert found.energy is None
    assert "energy_per_call" not in found
    assert measure(nothing, energy=True, **QUICK).energy is None


def test_energy_is_measured_only_where_it_is_asked_for() -> None:
    watch = Watching(Seen(energy=5.0))
    assert measure(nothing, watch=watch, **QUICK).energy is None
    assert watch.log == ["begin", "end"]


# Warming up


class Falling:
    """A timer whose batches say what they are told to, on a clock of their own."""

    def __init__(self, clock: Any, *medians: float) -> None:
        self._clock = clock
        self._medians = iter(medians)
        self.counts: list[int] = []

    def batch(self, count: int) -> list[float]:
        self.counts.append(count)
        value = next(self._medians)
        self._clock.now += value * count
        return [value] * count


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(warming_module, "time", found)
    return found


def test_warming_up_ends_once_times_no_longer_fall(clock: Clock) -> None:
    timer: Any = Falling(clock, 0.5, 0.4, 0.3, 0.299, 0.1)
    assert warm_up(timer, 100.0, gpu=True) == 0.299
    assert len(timer.counts) == 4


def test_warming_up_ends_when_the_time_is_up(clock: Clock) -> None:
    timer: Any = Falling(clock, *(1.0 / 2**k for k in range(30)))
    assert warm_up(timer, 4.0, gpu=True) == 0.5
    assert len(timer.counts) == 2


def test_rounds_of_short_calls_become_longer(clock: Clock) -> None:
    timer: Any = Falling(clock, *(1e-6 * 0.9**k for k in range(9)), 1e-6)
    warm_up(timer, 10.0, gpu=True)
    assert timer.counts[:4] == [3, 30, 300, 3000]
    # But not for ever: a round is to last 25 ms.
    assert 25_000 < timer.counts[5] < 50_000
    assert max(timer.counts) < 100_000


class Ramping:
    """A timer of calls that take as long as ``seconds`` says for the time since the start."""

    def __init__(self, clock: Any, seconds: Callable[[float], float]) -> None:
        self._clock = clock
        self._seconds = seconds

    def batch(self, count: int) -> list[float]:
        samples = []
        for _ in range(count):
            samples.append(self._seconds(self._clock.now))
            self._clock.now += samples[-1]
        return samples


@pytest.mark.parametrize("call", [1e-5, 1e-3, 5e-3])
@pytest.mark.parametrize("ramp", [0.01, 0.03, 0.09])
def test_clocks_that_rise_late_are_waited_for(clock: Clock, ramp: float, call: float) -> None:
    timer = Ramping(clock, lambda now: call if now > ramp else 2 * call)
    assert warm_up(timer, 0.5, gpu=True) == call
    assert clock.now < 0.25


def test_idle_clocks_are_given_a_tenth_of_a_second(clock: Clock) -> None:
    warm_up(Ramping(clock, lambda now: 1e-3), 0.5, gpu=True)
    assert 0.1 <= clock.now < 0.15


def test_on_the_host_one_round_that_is_no_faster_is_enough(clock: Clock) -> None:
    warm_up(Ramping(clock, lambda now: 1e-3), 0.5, gpu=False)
    assert clock.now < 0.04


@pytest.mark.parametrize(("on_host", "gpu"), [(True, False), (False, True), (None, True)])
def test_only_what_nothing_but_the_host_runs_is_warmed_up_briefly(
    monkeypatch: pytest.MonkeyPatch, *, on_host: bool | None, gpu: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(module, "_first_call", lambda *_: module._Ran(on_host=on_host))
    monkeypatch.setattr(module, "warm_up", lambda *_, gpu: calls.append(f"gpu={gpu}"))
    monkeypatch.setattr(module, "preheat", lambda *_: calls.append("preheated"))
    measure(nap, max_time=0.02)
    assert calls == [f"gpu={gpu}", *(["preheated"] if gpu else [])]


def test_times_that_fall_a_little_in_each_round_are_falling(clock: Clock) -> None:
    # By 1.5 % in 25 ms, until 300 ms.
    timer = Ramping(clock, lambda now: 1e-3 * 0.985 ** (min(now, 0.3) / 0.025))
    assert warm_up(timer, 5.0, gpu=True) == pytest.approx(1e-3 * 0.985**12, rel=1e-3)
    assert clock.now < 0.5


def test_without_time_to_warm_up_there_is_one_round(clock: Clock) -> None:
    timer = Falling(clock, 1e-3, 1e-4)
    assert warm_up(timer, 0.0, gpu=True) == 1e-3
    assert timer.counts == [3]


# What is reported


def finished(**changes: Any) -> Timing:
    samples = tuple(1e-3 * (1 + k / 1000) for k in range(10))
    found = Timing(
        metric="e2e_latency",
        samples=samples,
        interval=Interval(low=1e-3, high=1.01e-3, confidence=0.95),
        ending="interval",
        seconds=0.25,
        timer="the host's clock (2 of 2 CPUs)",
    )
    return replace(found, **changes)


def test_metrics_have_the_names_that_slos_use() -> None:
    found = finished(compile_time=0.5, peak_memory=3 * 2**20, host_time=1e-5, energy=0.2)
    assert set(found) == {
        "mean_e2e_latency", "std_e2e_latency", "min_e2e_latency", "max_e2e_latency",
        "p25_e2e_latency", "p50_e2e_latency", "p75_e2e_latency", "p90_e2e_latency",
        "p99_e2e_latency", "num_samples", "interval_width", "compile_time", "host_time",
        "peak_memory_mib", "energy_per_call", "notes",
    }  # fmt: skip
    assert found["p50_e2e_latency"] == found.median == pytest.approx(1.0045e-3)
    assert found["min_e2e_latency"] == 1e-3
    assert found["interval_width"] == pytest.approx(0.00995, rel=1e-3)
    assert found["peak_memory_mib"] == 3
    assert len(found) == len(dict(found)) == 16
    with pytest.raises(KeyError):
        found["p42_e2e_latency"]


def test_another_metric_has_its_own_name() -> None:
    found = finished(metric="backward_time")
    assert "p99_backward_time" in found
    assert not any("e2e_latency" in name for name in found)


@pytest.mark.parametrize("flop", [1e9, None])
def test_a_median_of_zero_has_no_rate(flop: float | None) -> None:
    found = finished(
        samples=(0.0, 0.0, 0.0),
        interval=Interval(low=0.0, high=0.0, confidence=0.75),
        flop=flop,
        bytes_moved=1e9,
    )
    assert "tflop_per_s" not in found
    assert "gb_per_s" not in found


def make_trial(**keys: Any) -> Trial:
    spec = make_spec(
        parameters={"a": [1, 2]}, optimization={"objective": "minimize_latency"}, **keys
    )
    return Trial(make_record(0, {"a": 1}, Outcome.RUNNING, None), make_plan(spec))


def test_a_trial_takes_it_as_it_is() -> None:
    found = finished(remarks=("it was noisy",), flop=1e9)
    trial = make_trial()
    trial.report(found)
    assert trial.metrics == dict(found.metrics)
    assert trial.notes == ("e2e_latency: it was noisy",)
    judgement = judge(trial.measurement(Ending.COMPLETE), trial._plan.question)
    assert judgement.metric == "mean_e2e_latency"


def test_a_trial_takes_what_was_measured_in_earnest_and_holds_it_against_its_slo() -> None:
    trial = make_trial(slo=[{"metric": "e2e_latency", "statistic": "p50", "max": 0.001}])
    with pytest.raises(SLOViolation, match="e2e_latency p50"):
        trial.report(measure(nap, **QUICK))


@pytest.mark.parametrize("width", [0.02, 0.009])
def test_a_measurement_that_did_not_get_sharp_says_so(width: float) -> None:
    found = finished(width=width)
    if width == 0.02:
        assert found.converged
        assert not found.notes
    else:
        assert not found.converged
        (note,) = found.notes
        assert note == (
            "e2e_latency: its median is known to ±0.50 % (95%) only, by 10 samples in 250 ms, "
            "not to ±0.45 % (95%)"
        )
        assert found["notes"] == list(found.notes)


def test_three_samples_that_are_alike_are_not_yet_sharp() -> None:
    found = measure(nap, width=0.9, max_time=0.001, warmup_time=0.0)
    assert len(found.samples) == 3
    # Narrow or not: the interval has one chance in four to miss, and not the one in twenty that
    # was asked for.
    assert found.interval.confidence == 0.75
    assert not found.converged


def test_notes_come_in_the_order_of_their_weight() -> None:
    found = finished(
        width=0.001, repeated=True, disturbances=("hot", "shared"), remarks=("first", "second")
    )
    unreliable, blunt, *remarks = found.notes
    assert unreliable == "e2e_latency is unreliable, measured twice: hot; shared"
    assert "only" in blunt
    assert remarks == ["e2e_latency: first", "e2e_latency: second"]
    once = finished(disturbances=("hot",))
    assert once.notes == ("e2e_latency is unreliable: hot",)


def test_it_is_said_in_a_line_and_a_line_for_each_note() -> None:
    assert str(finished()) == (
        "e2e_latency: median 1.004 ms ± 0.50 % (95%), 10 samples in 250 ms, "
        "by the host's clock (2 of 2 CPUs)"
    )
    several = finished(calls_per_sample=50, remarks=("a note",), width=0.009)
    first, *notes = str(several).splitlines()
    assert "10 samples of 50 calls in 250 ms" in first
    assert [line.strip() for line in notes] == list(several.notes)
    assert all(line.startswith("  ") for line in notes)


def test_a_function_that_makes_its_inputs_is_asked_before_it_is_timed() -> None:
    made: list[int] = []

    def make() -> tuple[int, ...]:
        made.append(1)
        return (len(made),)

    measure(nothing, inputs=make, **QUICK)
    assert len(made) == 1
