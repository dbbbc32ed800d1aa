"""Events on a simulated GPU: the kernel is timed, and neither the host nor the flush before it."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import simulated_gpu as simulated
from simulated_gpu import MS, US, Clock, Gpu

from pytest_autotune.bench import host as host_module
from pytest_autotune.bench import measure as measure_module
from pytest_autotune.bench.device import FLUSH_BYTES, DeviceTimer
from pytest_autotune.bench.frameworks import NumbaDevice
from pytest_autotune.bench.graph import GraphTimer
from pytest_autotune.bench.launches import launches_work, sees_work
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.peaks import Peaks
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.text.numbers import quantity

clock, gpu = simulated.clock, simulated.gpu


def timer_of(gpu: Gpu, function: Callable[..., object], *, cold_cache: bool) -> DeviceTimer:
    return DeviceTimer(Work(function, [()]), gpu, cold_cache=cold_cache)


def about(value: float) -> Any:
    # The clock is at 100 s, where a double is good to 1e-14.
    return pytest.approx(value, rel=1e-6, abs=1e-12)


def about_all(value: float, count: int) -> Any:
    return pytest.approx([value] * count, rel=1e-6, abs=1e-12)


def about_each(*values: float) -> Any:
    return pytest.approx(values, rel=1e-6, abs=1e-12)


# Single calls


@pytest.mark.parametrize(
    ("cache", "size"),
    [(None, 256), (0, 256), (50, 256), (64, 256), (96, 384), (126, 504)],
)
def test_a_flush_is_several_times_the_cache_and_never_less_than_usual(
    gpu: Gpu, cache: int | None, size: int
) -> None:
    gpu.cache = None if cache is None else cache * 2**20
    timer_of(gpu, lambda: gpu.kernel(1 * US), cold_cache=True)
    assert gpu.log == [f"flusher of {size * 2**20}"]


def test_what_timing_adds_is_measured_with_the_buffer_that_is_there(gpu: Gpu) -> None:
    # By then there may be no memory left for another one.
    timer = timer_of(gpu, lambda: gpu.kernel(20 * US), cold_cache=True)
    timer.batch(3)
    assert timer.overhead() < 5 * US
    assert timer.flush_seconds() == about(gpu.flush_seconds)
    assert sum(entry.startswith("flusher") for entry in gpu.log) == 1


@pytest.mark.parametrize("seconds", [0.5 * US, 20 * US, 3 * MS])
def test_after_a_flush_exactly_the_kernel_is_timed(gpu: Gpu, seconds: float) -> None:
    # The flush is still running when the host is done with launching.
    samples = timer_of(gpu, lambda: gpu.kernel(seconds), cold_cache=True).batch(20)
    assert samples == about_all(seconds, 20)


def test_each_call_finds_the_caches_flushed(gpu: Gpu) -> None:
    samples = timer_of(gpu, lambda: gpu.kernel(10 * US, cold=30 * US), cold_cache=True).batch(5)
    assert samples == about_all(30 * US, 5)
    assert gpu.log[0] == f"flusher of {FLUSH_BYTES}"
    assert FLUSH_BYTES >= 4 * 50 * 2**20
    assert gpu.log[1:] == ["flush", "record", "kernel", "record"] * 5 + ["synchronize"]


def test_with_warm_caches_nothing_is_flushed(gpu: Gpu) -> None:
    timer = timer_of(gpu, lambda: gpu.kernel(10 * US, cold=30 * US), cold_cache=False)
    assert timer.batch(5)[1:] == about_all(10 * US, 4)
    assert not any(entry.startswith("flush") for entry in gpu.log)


def test_the_host_waits_once_a_batch(gpu: Gpu) -> None:
    timer = timer_of(gpu, lambda: gpu.kernel(10 * US), cold_cache=True)
    for count in (1, 3, 40):
        gpu.log.clear()
        assert len(timer.batch(count)) == count
        assert gpu.log.count("synchronize") == 1
        assert gpu.log[-1] == "synchronize"


def test_samples_are_in_the_order_of_the_calls(gpu: Gpu) -> None:
    times = itertools.count(1)
    samples = timer_of(gpu, lambda: gpu.kernel(next(times) * MS), cold_cache=True).batch(4)
    assert samples == pytest.approx([1 * MS, 2 * MS, 3 * MS, 4 * MS])


def test_calls_take_their_inputs_in_turn(gpu: Gpu) -> None:
    work = Work(gpu.kernel, [(1 * MS,), (2 * MS,), (5 * MS,)])
    timer = DeviceTimer(work, gpu, cold_cache=True)
    found = [*timer.batch(2), *timer.batch(3)]
    assert found == pytest.approx([1 * MS, 2 * MS, 5 * MS, 1 * MS, 2 * MS])


def test_where_the_host_cannot_keep_up_it_is_the_host_that_is_timed(gpu: Gpu) -> None:
    gpu.launch_seconds = 50 * US
    timer = timer_of(gpu, lambda: gpu.kernel(2 * US), cold_cache=False)
    assert min(timer.batch(10)) >= 50 * US
    assert timer.host_times == about_all(50 * US, len(timer.host_times))
    assert timer.host_times


def test_the_time_of_the_host_is_that_of_the_call_alone(gpu: Gpu) -> None:
    timer = timer_of(gpu, lambda: gpu.kernel(2 * MS), cold_cache=True)
    timer.batch(3)
    timer.batch(2)
    assert timer.host_times == about_all(gpu.launch_seconds, len(timer.host_times))
    assert timer.host_times


@pytest.mark.parametrize("cold", [True, False])
def test_the_overhead_is_what_two_events_are_apart(gpu: Gpu, *, cold: bool) -> None:
    gpu.event_seconds = 1.5 * US
    gpu.record_seconds = 0.25 * US
    timer = timer_of(gpu, lambda: gpu.kernel(20 * US), cold_cache=cold)
    assert timer.batch(5)[-1] == about(21.5 * US)
    calls = len(timer.host_times)
    assert timer.overhead() == about(1.5 * US)
    assert len(timer.host_times) == calls


class Module:
    """A kernel's module, in a cycle as decorated functions are: only the collector frees it."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._itself = self

    def __del__(self) -> None:
        # To unload it waits for the device, which also invalidates a graph that is captured.
        self._gpu.clock.now = max(self._gpu.clock.now, self._gpu.free)
        self._gpu.log.append("unloaded")


@pytest.fixture
def hasty_collector() -> Iterator[None]:
    """Collect whenever something is allocated."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*thresholds)


def littering(gpu: Gpu, seconds: float) -> Callable[[], None]:
    """Return a kernel whose calls leave modules behind."""

    def kernel() -> None:
        Module(gpu)
        gpu.kernel(seconds)

    return kernel


@pytest.mark.usefixtures("hasty_collector")
def test_nothing_is_collected_while_calls_are_timed(gpu: Gpu) -> None:
    timer = timer_of(gpu, littering(gpu, 20 * US), cold_cache=True)
    samples = timer.batch(5)
    assert "unloaded" not in gpu.log[: gpu.log.index("synchronize")]
    assert samples == about_all(20 * US, 5)
    assert gc.isenabled()


@pytest.mark.usefixtures("hasty_collector")
def test_nothing_is_collected_while_a_graph_is_captured(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = gpu.capture
    invalid: list[str] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        begun = len(gpu.log)
        replay = captured(work)
        invalid.extend(entry for entry in gpu.log[begun:] if entry == "unloaded")
        return replay

    monkeypatch.setattr(gpu, "capture", capture)
    graph_of(gpu, littering(gpu, 20 * US))
    assert "unloaded" in gpu.log
    assert not invalid
    assert gc.isenabled()


def test_a_sample_is_one_call(gpu: Gpu) -> None:
    assert timer_of(gpu, lambda: gpu.kernel(1 * US), cold_cache=False).loops == 1


# Graphs


def captures(gpu: Gpu) -> list[int]:
    """Return the sizes of the graphs that were captured."""
    return [int(entry.split()[1]) for entry in gpu.log if entry.startswith("captured")]


def graph_of(
    gpu: Gpu, work: Work | Callable[..., object], *, cold_cache: bool = False
) -> GraphTimer:
    made = work if isinstance(work, Work) else Work(work, [()])
    return GraphTimer(made, gpu, cold_cache=cold_cache)


def test_a_graph_leaves_launching_out(gpu: Gpu) -> None:
    gpu.launch_seconds = 50 * US
    gpu.graph_seconds = 100 * US
    timer = graph_of(gpu, lambda: gpu.kernel(2 * US))
    samples = timer.batch(10)
    assert timer.loops == 500
    assert samples[1:] == about_all(2 * US, 9)
    # At first the device has nothing to do, and so waits for the graph.
    assert samples[0] == about(2 * US + 100 * US / 500)


@pytest.mark.parametrize(
    ("seconds", "loops"),
    [(1.0, 1), (1 * MS, 1), (0.4 * MS, 2), (99 * US, 10), (1e-9, 1000), (0.0, 1000)],
)
def test_a_graph_lasts_a_millisecond_or_a_thousand_calls(
    gpu: Gpu, seconds: float, loops: int
) -> None:
    timer = graph_of(gpu, lambda: gpu.kernel(seconds))
    assert timer.loops == loops
    assert captures(gpu)[-1] == loops


@pytest.mark.parametrize("seconds", [1.0, 2 * MS, 0.3 * MS, 10 * US, 1.1 * US, 1e-9])
@pytest.mark.parametrize("sets", [1, 2, 3, 7, 16, 300, 999, 1000, 1001, 2500])
def test_a_graph_has_every_set_of_inputs_equally_often(gpu: Gpu, sets: int, seconds: float) -> None:
    calls: Counter[int] = Counter()

    def kernel(which: int) -> None:
        if gpu.captured == []:
            calls.clear()  # Only the last graph counts.
        if gpu.captured is not None:
            calls[which] += 1
        gpu.kernel(seconds)

    timer = graph_of(gpu, Work(kernel, [(which,) for which in range(sets)]))
    assert set(calls) == set(range(sets))
    assert len(set(calls.values())) == 1
    assert timer.loops == sum(calls.values())
    assert timer.loops <= max(1000, sets)


def test_a_kernel_that_launches_slowly_has_as_large_a_graph_as_any_other(gpu: Gpu) -> None:
    gpu.launch_seconds = 30 * US
    gpu.event_seconds = 2 * US
    timer = graph_of(gpu, lambda: gpu.kernel(2 * US))
    assert captures(gpu) == [20, timer.loops]
    assert 450 < timer.loops <= 500
    # With the events around each replay.
    assert timer.batch(10)[-1] == pytest.approx(2 * US, rel=0.003)


def test_a_long_kernel_is_captured_once_and_replayed_once_to_size_its_graph(gpu: Gpu) -> None:
    timer = graph_of(gpu, lambda: gpu.kernel(1.0))
    assert timer.loops == 1
    assert captures(gpu) == [1]
    assert gpu.log.count("replay") == 1


def test_the_memory_of_a_graph_goes_back_before_another_is_captured(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = gpu.capture
    alive: list[weakref.ref[object]] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        assert not any(graph() for graph in alive)
        replay = captured(work)
        alive.append(weakref.ref(replay))
        return replay

    monkeypatch.setattr(gpu, "capture", capture)
    timer = graph_of(gpu, lambda: gpu.kernel(2 * US))
    assert len(alive) == 2
    assert alive[-1]() is not None
    assert timer.batch(1)


def test_with_a_cold_cache_a_graph_is_one_call_and_each_replay_flushed(gpu: Gpu) -> None:
    work = Work(gpu.kernel, [(1 * US, 3 * US)] * 4)
    timer = graph_of(gpu, work, cold_cache=True)
    assert timer.loops == 1
    assert "captured 1" in gpu.log
    gpu.log.clear()
    assert len(timer.batch(3)) == 3
    assert gpu.log == ["flush", "record", "replay", "record"] * 3 + ["synchronize"]


def test_the_overhead_of_a_graph_is_shared_by_its_calls(gpu: Gpu) -> None:
    gpu.event_seconds = 2 * US
    timer = graph_of(gpu, lambda: gpu.kernel(10 * US))
    # With the events around it, 20 calls took 202 µs.
    assert timer.loops == 99
    assert timer.overhead() == about(2 * US / 99)


def test_a_framework_without_graphs_is_refused(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(clock=clock)

    class Numba(Gpu):
        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            return NumbaDevice(None).capture(work)

    monkeypatch.setattr(measure_module, "device_for", lambda backend, values: Numba(clock=clock))
    monkeypatch.setattr(measure_module, "tells", lambda values: True)
    with pytest.raises(
        BenchmarkError, match="graph=True needs PyTorch, Triton or CuPy: Numba cannot"
    ):
        measure(lambda: gpu.kernel(1 * US), graph=True)


# Measurements


def remarks(found: Timing) -> Sequence[str]:
    return [note for note in found.notes if "host needs" in note]


def test_a_measurement_on_a_gpu(gpu: Gpu) -> None:
    found = measure(lambda: gpu.kernel(40 * US, cold=60 * US), flop=6e6)
    assert found.timer == "events of simulated"
    assert found.median == about(60 * US)
    assert found.interval.low == about(60 * US)
    assert found.interval.high == about(60 * US)
    assert found.converged
    assert found.ending == "interval"
    assert found.calls_per_sample == 1
    assert found.host_time == about(gpu.launch_seconds)
    assert found.metrics["host_time"] == about(gpu.launch_seconds)
    assert found.metrics["tflop_per_s"] == pytest.approx(0.1)
    assert not found.notes


def test_sampling_keeps_its_time_by_what_samples_cost_and_not_by_what_they_say(gpu: Gpu) -> None:
    gpu.flush_seconds = 1 * MS
    times = itertools.cycle([1, 2, 3, 4])
    began = gpu.clock.now
    found = measure(lambda: gpu.kernel(next(times) * US), width=0.001, max_time=2.0)
    assert found.ending == "time"
    assert 2.0 <= found.seconds < 2.2
    assert gpu.clock.now - began < 4


@pytest.mark.parametrize(("cold_cache", "seconds"), [(None, 60), (True, 60), (False, 40)])
def test_caches_are_flushed_unless_they_are_to_be_warm(
    gpu: Gpu, seconds: float, *, cold_cache: bool | None
) -> None:
    found = measure(lambda: gpu.kernel(40 * US, cold=60 * US), cold_cache=cold_cache)
    assert found.median == about(seconds * US)


def test_a_graph_has_warm_caches_unless_they_are_to_be_cold(gpu: Gpu) -> None:
    def run(**options: Any) -> Timing:
        return measure(lambda: gpu.kernel(40 * US, cold=60 * US), graph=True, **options)

    found = run()
    assert found.timer == "events of simulated around a CUDA graph"
    assert found.median == about(40 * US)
    assert found.calls_per_sample == 25
    assert found.host_time is None
    assert run(cold_cache=False).calls_per_sample == 25
    assert run(cold_cache=True).calls_per_sample == 1


def test_the_first_call_is_timed_to_its_end_on_the_device(gpu: Gpu) -> None:
    first = iter([30 * MS])
    found = measure(lambda: gpu.kernel(next(first, 50 * US)))
    assert found.compile_time == pytest.approx(30 * MS + gpu.launch_seconds - 50 * US)


def test_what_the_host_compiles_is_part_of_the_first_call(gpu: Gpu) -> None:
    first = iter([2.0])

    def kernel() -> None:
        gpu.clock.now += next(first, 0.0)
        gpu.kernel(50 * US)

    found = measure(kernel)
    assert found.compile_time == pytest.approx(2.0, rel=1e-3)
    assert found.median == about(50 * US)


@pytest.mark.parametrize("kernels", [1, 10])
def test_who_cannot_be_launched_fast_enough_is_told_so(gpu: Gpu, kernels: int) -> None:
    gpu.launch_seconds = 20 * US

    def run() -> None:
        for _ in range(kernels):
            gpu.kernel(1 * US)

    found = measure(run, cold_cache=False)
    # It says 21 µs of a kernel of 1 µs.
    assert found.median > 19 * kernels * US
    assert found.host_time == about(20 * kernels * US)
    (remark,) = remarks(found)
    assert "graph=True" in remark
    graph = measure(run, graph=True)
    assert graph.median == pytest.approx(kernels * US, rel=0.05)
    assert not remarks(graph)


def test_who_takes_longer_to_launch_than_the_flush_lasts_is_told_so(gpu: Gpu) -> None:
    gpu.launch_seconds = 200 * US
    found = measure(lambda: gpu.kernel(1 * US))
    assert found.median > 50 * US
    (remark,) = remarks(found)
    assert "the host needs 200 µs to launch" in remark


def test_what_is_launched_during_the_flush_needs_no_remark(gpu: Gpu) -> None:
    found = measure(lambda: gpu.kernel(2 * US))
    assert found.host_time is not None
    assert found.host_time > 2 * found.median
    assert found.median == about(2 * US)
    assert not found.remarks


@pytest.mark.parametrize("kernel", [20 * US, 120 * US])
@pytest.mark.parametrize("late", [10 * US, 100 * US, 1 * MS])
def test_a_launch_that_outlasts_the_flush_and_the_kernel_is_told(
    gpu: Gpu, kernel: float, late: float
) -> None:
    gpu.flush_seconds = 300 * US
    gpu.launch_seconds = gpu.flush_seconds + kernel + late
    found = measure(lambda: gpu.kernel(kernel))
    assert found.median > kernel + late
    (remark,) = remarks(found)
    assert f"the host needs {quantity('time', gpu.launch_seconds)} to launch" in remark
    assert "graph=True" in remark


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("kernel", [20 * US, 120 * US, 2 * MS])
def test_a_launch_that_is_done_before_the_device_is_needs_no_remark(
    gpu: Gpu, kernel: float, share: float
) -> None:
    gpu.launch_seconds = share * (gpu.flush_seconds + kernel)
    found = measure(lambda: gpu.kernel(kernel))
    assert found.median == about(kernel)
    assert not found.remarks


def test_what_events_add_to_short_calls_is_told(gpu: Gpu) -> None:
    gpu.event_seconds = 3 * US

    def run(seconds: float, **options: Any) -> Sequence[str]:
        return measure(lambda: gpu.kernel(seconds), **options).remarks

    (remark,) = run(4 * US)
    assert remark == (
        "the events around a call add 3 µs to it, which is 43% of its time; see graph=True"
    )
    (remark,) = run(4 * US, graph=True, cold_cache=True)
    assert "see cold_cache=False" in remark
    assert not run(4 * US, graph=True)
    # 5 % of a call, or less.
    assert len(run(56 * US)) == 1
    assert not run(58 * US)


@pytest.mark.parametrize("cold", [True, False])
def test_a_kernel_that_runs_longer_than_its_launch_needs_no_remark(gpu: Gpu, *, cold: bool) -> None:
    assert not remarks(measure(lambda: gpu.kernel(200 * US), cold_cache=cold))


@pytest.mark.parametrize("cold", [True, False])
def test_being_held_up_by_a_full_queue_is_no_slow_launch(gpu: Gpu, *, cold: bool) -> None:
    gpu.launch_seconds = 0.5 * US

    def many() -> None:
        for _ in range(20):
            gpu.kernel(2 * US)

    found = measure(many, cold_cache=cold)
    assert found.median == pytest.approx(40 * US, rel=0.01)
    assert not remarks(found)
    assert found.host_time == pytest.approx(10 * US, rel=0.05)


def test_the_peak_of_memory_is_that_of_a_call(gpu: Gpu) -> None:
    # What was held before counts, what was freed before does not.
    gpu.allocate(1000)
    gpu.allocate(5000)
    gpu.held -= 5000

    def kernel() -> None:
        gpu.allocate(300)
        gpu.kernel(50 * US)
        gpu.held -= 300

    found = measure(kernel)
    assert found.peak_memory == 1300
    assert found.metrics["peak_memory_mib"] == 1300 / 2**20
    at = gpu.log.index("reset")
    assert gpu.log[at - 1 : at + 4] == ["synchronize", "reset", "kernel", "synchronize", "peak"]


def test_a_framework_that_does_not_tell_memory_reports_none(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "peak_memory", lambda: None)
    found = measure(lambda: gpu.kernel(50 * US))
    assert found.peak_memory is None
    assert "peak_memory_mib" not in found


@dataclass
class Seen:
    clock: Clock
    watts: float
    began: float = 0.0
    ended: float = 0.0
    disturbances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    severe: bool = True

    @property
    def energy(self) -> float | None:
        return self.watts * (self.ended - self.began)


def test_energy_is_that_of_calls_one_after_another(gpu: Gpu) -> None:
    @contextmanager
    def watch() -> Iterator[Seen]:
        seen = Seen(gpu.clock, 400.0, gpu.clock.now)
        yield seen
        seen.ended = gpu.clock.now

    found = measure(lambda: gpu.kernel(100 * US), energy=True, watch=watch)
    # Counters move in steps of a tenth of a second: no less than a second is of use.
    assert found.energy == pytest.approx(400.0 * 100 * US, rel=0.02)
    assert found.metrics["energy_per_call"] == found.energy


def test_warming_up_goes_on_while_times_fall_and_no_longer_than_allowed(gpu: Gpu) -> None:
    falling = itertools.chain([(1000 - k) * US for k in range(0, 900, 30)], itertools.repeat(1e-4))
    found = measure(lambda: gpu.kernel(next(falling)), warmup_time=5.0)
    assert max(found.samples) == about(100 * US)
    slow = itertools.count(0)
    began = gpu.clock.now
    measure(lambda: gpu.kernel(0.5 * 0.99 ** next(slow)), warmup_time=1.0, max_time=1.0)
    assert gpu.clock.now - began < 10


def test_inputs_are_rotated_from_call_to_call(gpu: Gpu) -> None:
    found = measure(gpu.kernel, inputs=[(100 * US,), (300 * US,)], max_time=0.3)
    assert {round(value / US, 3) for value in found.samples} == {100, 300}
    assert found.summary.mean == pytest.approx(200 * US, rel=0.05)


# Who uses the device at all


@pytest.mark.parametrize("kernel", [1 * US, 50 * US, 20 * MS])
@pytest.mark.parametrize("launch", [1 * US, 20 * US, 500 * US])
def test_a_function_that_launches_kernels_is_known_by_them(
    gpu: Gpu, kernel: float, launch: float
) -> None:
    gpu.launch_seconds = launch
    gpu.event_seconds = 1 * US
    assert launches_work(Work(lambda: gpu.kernel(kernel), [()]), gpu)


@pytest.mark.parametrize("busy", [0.0, 1 * US, 80 * US, 1.5 * MS, 30 * MS])
def test_a_function_that_keeps_the_host_busy_is_not_taken_for_a_kernel(
    gpu: Gpu, clock: Clock, busy: float
) -> None:
    gpu.event_seconds = 1 * US
    assert not launches_work(Work(lambda: clock.sleep(busy), [()]), gpu)


@pytest.mark.parametrize("flush", [1 * US, 4 * US, 90 * US])
@pytest.mark.parametrize("busy", [10 * US, 40 * US, 400 * US, 1.6 * MS])
def test_a_host_function_is_never_taken_for_a_kernel(
    gpu: Gpu, clock: Clock, busy: float, flush: float
) -> None:
    # The first flush is launched late, as its kernel is loaded first.
    gpu.load_seconds = 30 * MS
    gpu.flush_seconds = flush
    gpu.event_seconds = 1 * US
    assert not launches_work(Work(lambda: clock.sleep(busy), [()]), gpu)


def test_work_of_before_is_not_taken_for_that_of_a_host_function(gpu: Gpu, clock: Clock) -> None:
    gpu.kernel(50 * MS)
    assert launches_work(Work(lambda: clock.sleep(40 * US), [()]), gpu) is False


def test_a_flush_that_is_loaded_late_hides_no_kernel(gpu: Gpu) -> None:
    gpu.load_seconds = 30 * MS
    assert launches_work(Work(lambda: gpu.kernel(1 * US), [()]), gpu)


@pytest.mark.parametrize("flush", [2 * US, 10 * US])
def test_what_cannot_be_told_is_not_said(gpu: Gpu, clock: Clock, flush: float) -> None:
    # So many short flushes do not fit into the queue.
    gpu.flush_seconds = flush

    def work() -> None:
        clock.sleep(1 * MS)
        gpu.kernel(1 * US)

    assert launches_work(Work(work, [()]), gpu) is None
    assert gpu.log.count("flush") < gpu.depth


def test_calls_of_many_kernels_are_known_although_they_fill_the_queue(gpu: Gpu) -> None:
    def work() -> None:
        for _ in range(200):
            gpu.kernel(2 * US)

    assert launches_work(Work(work, [()]), gpu)


@pytest.mark.parametrize("busy", [40 * US, 300 * US])
def test_a_host_function_is_timed_by_the_host_although_the_first_flush_is_late(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch, busy: float
) -> None:
    monkeypatch.setattr(measure_module, "tells", lambda values: False)
    monkeypatch.setattr(host_module, "time", clock)
    gpu.load_seconds = 30 * MS
    found = measure(lambda: clock.sleep(busy))
    assert "host" in found.timer
    assert found.median == about(busy)


def test_where_nothing_tells_a_host_function_is_timed_by_the_host(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "tells", lambda values: False)
    monkeypatch.setattr(host_module, "time", clock)
    found = measure(lambda: clock.sleep(300 * US))
    assert "host" in found.timer
    assert found.median == about(300 * US)
    kernel = measure(lambda: gpu.kernel(40 * US))
    assert kernel.timer == "events of simulated"
    assert kernel.median == about(40 * US)


def test_who_blocks_for_long_is_timed_by_the_host_to_the_end_of_what_it_launched(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "tells", lambda values: False)
    monkeypatch.setattr(host_module, "time", clock)

    def work() -> None:
        clock.sleep(5 * MS)
        gpu.kernel(20 * MS)

    found = measure(work)
    assert "host" in found.timer
    assert found.median == pytest.approx(25 * MS, rel=0.01)


def test_what_goes_to_another_stream_is_timed_by_the_host_to_its_end(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "time", clock)
    found = measure(lambda: gpu.aside(3 * MS))
    assert "host" in found.timer
    # With its launch, and to its end.
    assert found.median == about(3 * MS + gpu.launch_seconds)


@pytest.mark.parametrize("here", [0.0, 20 * US, 1 * MS])
def test_work_on_two_streams_is_timed_until_both_are_done(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch, here: float
) -> None:
    monkeypatch.setattr(host_module, "time", clock)

    def work() -> None:
        gpu.kernel(here)
        gpu.aside(5 * MS)

    found = measure(work)
    assert "host" in found.timer
    assert found.median == about(5 * MS + 2 * gpu.launch_seconds)


@pytest.mark.parametrize("launch", [1 * US, 20 * US, 500 * US])
@pytest.mark.parametrize("seconds", [0.5 * US, 50 * US, 3 * MS, 100 * MS])
def test_what_passes_between_events_is_seen(gpu: Gpu, seconds: float, launch: float) -> None:
    gpu.launch_seconds = launch
    assert sees_work(Work(lambda: gpu.kernel(seconds), [()]), gpu)


@pytest.mark.parametrize("seconds", [1 * MS, 100 * MS])
def test_what_passes_on_another_stream_is_not_seen(gpu: Gpu, seconds: float) -> None:
    assert not sees_work(Work(lambda: gpu.aside(seconds), [()]), gpu)


def test_work_that_was_launched_before_is_not_taken_for_the_call_s(gpu: Gpu) -> None:
    gpu.aside(50 * MS)
    assert sees_work(Work(lambda: gpu.kernel(1 * US), [()]), gpu)


@pytest.mark.parametrize(("busy", "answer"), [(1.5 * MS, True), (2.5 * MS, None)])
def test_who_keeps_the_host_busy_for_long_cannot_be_told(
    gpu: Gpu, clock: Clock, busy: float, *, answer: bool | None
) -> None:
    def work() -> None:
        clock.sleep(busy)
        gpu.kernel(50 * US)

    assert launches_work(Work(work, [()]), gpu) is answer
    idle = launches_work(Work(lambda: clock.sleep(busy), [()]), gpu)
    assert idle is (None if answer is None else False)


def test_arrays_on_the_host_do_not_hide_that_a_device_is_used(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "device_for", lambda backend, values: None)
    monkeypatch.setattr(measure_module, "device_in_use", lambda: gpu)
    monkeypatch.setattr(host_module, "time", clock)
    found = measure(lambda: gpu.kernel(40 * US))
    assert found.timer == "events of simulated"
    assert found.median == about(40 * US)
    assert "host" in measure(lambda: clock.sleep(300 * US)).timer


def test_a_backend_that_was_named_is_not_looked_for(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(measure_module, "device_for", lambda backend, values: None)
    monkeypatch.setattr(measure_module, "device_in_use", lambda: asked.append("asked"))
    monkeypatch.setattr(host_module, "time", clock)
    assert "host" in measure(lambda: gpu.kernel(40 * US), backend="host").timer
    assert not asked


def test_a_capture_that_fails_is_one_message(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu, "capture", capture)
    with pytest.raises(BenchmarkError) as raised:
        measure(lambda: gpu.kernel(1 * US), graph=True)
    assert str(raised.value) == (
        "graph=True: simulated cannot capture the calls (operation not permitted when stream is "
        "capturing); what waits for the device, or copies to the host, cannot be part of a graph"
    )
    # Nothing of how the framework came to it.
    assert raised.value.__suppress_context__


def test_another_error_while_capturing_comes_through(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        raise ZeroDivisionError

    monkeypatch.setattr(gpu, "capture", capture)
    with pytest.raises(ZeroDivisionError):
        measure(lambda: gpu.kernel(1 * US), graph=True)


def test_cold_graphs_take_all_inputs_in_turn(gpu: Gpu) -> None:
    def run(seconds: float) -> None:
        gpu.kernel(seconds)

    found = measure(run, inputs=[(10 * US,), (30 * US,)], graph=True, cold_cache=True)
    assert found.calls_per_sample == 1
    # In turn, and each as often as the other.
    assert found.samples[:4] in (
        about_each(10 * US, 30 * US, 10 * US, 30 * US),
        about_each(30 * US, 10 * US, 30 * US, 10 * US),
    )
    assert gpu.log.count("captured 1") == 2


def test_the_peak_of_memory_is_read_before_timing_takes_any(gpu: Gpu) -> None:
    measure(lambda: gpu.kernel(10 * US))
    # It holds nothing yet that only timing needs.
    read = gpu.log.index("peak")
    assert gpu.log.index("reset") < read < gpu.log.index(f"flusher of {FLUSH_BYTES}")


def test_the_peaks_of_the_machine_are_measured_before_timers_are_made(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(device: object, arguments: object) -> Peaks:
        assert device is gpu
        gpu.log.append("peaks")
        return Peaks(flop_rate=2e12)

    monkeypatch.setattr(measure_module, "measured_peaks", measured)
    found = measure(lambda: gpu.kernel(10 * US), peak="measured", flop=1e7)
    assert found.metrics["flop_peak_share"] == pytest.approx(0.5)
    at = gpu.log.index("peaks")
    assert gpu.log.index("peak") < at < gpu.log.index(f"flusher of {FLUSH_BYTES}")


@pytest.mark.parametrize(
    ("seconds", "known"),
    [
        (20 * US, True),
        (100 * US, True),
        (300 * US, True),
        (3 * MS, True),
        # Where no array tells of a device, less than waiting costs is not seen.
        (300 * US, False),
        (3 * MS, False),
    ],
)
def test_kernels_on_another_stream_are_never_taken_for_nothing(
    gpu: Gpu, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, *, known: bool
) -> None:
    monkeypatch.setattr(measure_module, "tells", lambda values: known)
    monkeypatch.setattr(host_module, "time", clock)
    aside = [0.0]

    def work() -> None:
        clock.now += 2 * US
        aside[0] = max(clock.now, aside[0]) + seconds

    def synchronize() -> None:
        clock.now = max(clock.now, gpu.free, aside[0])

    monkeypatch.setattr(gpu, "synchronize", synchronize)
    assert measure(work).median >= 0.9 * seconds
