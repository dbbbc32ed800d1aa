"""The energy of a call on a simulated GPU: of that call, as it is timed, and of no flush."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import simulated_gpu as simulated
from simulated_gpu import MS, US, Clock, Gpu, scattered

from pytest_autotune.bench.device import DeviceTimer
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.preheating import preheat
from pytest_autotune.bench.sampler import Race
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.work import Work

clock, gpu = simulated.clock, simulated.gpu

IDLE, BUSY = 80.0, 700.0


@dataclass
class Seen:
    began: float
    ended: float = 0.0
    energy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    severe: bool = True


class Meter:
    """A watch that knows when the device was busy, and what it drew then."""

    def __init__(self, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Seen] = []
        self.disturbances: dict[int, tuple[str, ...]] = {}
        self._gpu = gpu
        self._busy = 0.0
        push = gpu.push

        def counted(host: float, seconds: float) -> float:
            self._busy += seconds
            return push(host, seconds)

        monkeypatch.setattr(gpu, "push", counted)

    @contextmanager
    def __call__(self) -> Iterator[Seen]:
        found = Seen(self._gpu.clock.now)
        before = self._busy
        yield found
        found.ended = self._gpu.clock.now
        busy, length = self._busy - before, found.ended - found.began
        found.energy = BUSY * busy + IDLE * (length - busy)
        found.metrics = {"mean_gpu_power_w": found.energy / max(length, 1e-9)}
        found.disturbances = self.disturbances.get(len(self.seen), ())
        self.seen.append(found)


@pytest.fixture
def meter(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(gpu, monkeypatch)


def test_energy_of_a_graph_is_that_of_its_replays(gpu: Gpu, meter: Meter) -> None:
    # Launched one by one, a call would have the device wait for 48 of 50 us.
    gpu.launch_seconds = 50 * US
    found = measure(lambda: gpu.kernel(2 * US), graph=True, energy=True, watch=meter)
    assert found.energy == pytest.approx(BUSY * 2 * US, rel=0.02)


def test_energy_of_launched_calls_contains_the_waiting(gpu: Gpu, meter: Meter) -> None:
    gpu.launch_seconds = 48 * US
    gpu.record_seconds = 1 * US
    found = measure(
        lambda: gpu.kernel(2 * US), cold_cache=False, energy=True, watch=meter, max_time=0.2
    )
    assert found.energy == pytest.approx(BUSY * 2 * US + IDLE * 48 * US, rel=0.03)


def test_energy_is_that_of_a_call_with_cold_caches_and_not_of_the_flush(
    gpu: Gpu, meter: Meter
) -> None:
    found = measure(lambda: gpu.kernel(50 * US, cold=150 * US), energy=True, watch=meter)
    assert found.median == pytest.approx(150 * US)
    assert found.energy == pytest.approx(BUSY * 150 * US, rel=0.02)
    # Three seconds of calls, and as many of flushes alone.
    timed, whole, flushes = meter.seen
    assert whole.ended - whole.began >= 3
    assert flushes.ended - flushes.began >= 3
    assert timed.ended - timed.began < 3


def test_energy_with_warm_caches_needs_no_other_measurement(gpu: Gpu, meter: Meter) -> None:
    found = measure(
        lambda: gpu.kernel(50 * US, cold=150 * US), cold_cache=False, energy=True, watch=meter
    )
    assert found.energy == pytest.approx(BUSY * 50 * US, rel=0.02)
    assert len(meter.seen) == 2


def test_energy_that_the_flush_hides_is_left_out_and_said(gpu: Gpu, meter: Meter) -> None:
    found = measure(lambda: gpu.kernel(5 * US), energy=True, watch=meter)
    assert "energy_per_call" not in found
    (note,) = [note for note in found.notes if "energy" in note]
    assert note == (
        "e2e_latency: energy_per_call is left out: the flush before each call used 95% of the "
        "energy; see graph=True and cold_cache=False"
    )
    graph = measure(lambda: gpu.kernel(5 * US), energy=True, graph=True, watch=meter)
    assert graph.energy == pytest.approx(BUSY * 5 * US, rel=0.02)


def test_a_candidate_that_has_lost_its_race_costs_no_energy(gpu: Gpu, meter: Meter) -> None:
    def run(limit: float) -> Timing:
        race = Race(limit=limit)
        kernel = scattered(gpu, 1 * MS)
        return measure(kernel, race=race, energy=True, watch=meter, width=1e-4)

    lost = run(0.5 * MS)
    assert lost.ending == "race"
    assert lost.energy is None
    assert len(meter.seen) == 1
    # One that was disturbed may have lost for that, and is reported with all that was asked for.
    meter.disturbances = dict.fromkeys(range(1, 3), ("GPU 0 was throttled (power brake)",))
    assert run(0.5 * MS).energy is not None
    assert run(2 * MS).energy is not None


def test_power_is_that_of_the_longer_measurement(gpu: Gpu, meter: Meter) -> None:
    found = measure(lambda: gpu.kernel(1 * MS), energy=True, watch=meter)
    _, whole, _ = meter.seen
    assert found.metrics["mean_gpu_power_w"] == whole.metrics["mean_gpu_power_w"]
    assert found.metrics["mean_gpu_power_w"] == pytest.approx(BUSY, rel=0.02)


@pytest.mark.parametrize("when", [1, 2])
def test_a_disturbance_of_energy_makes_the_result_unreliable(
    gpu: Gpu, meter: Meter, when: int
) -> None:
    meter.disturbances = {when: ("GPU 0 was used by others, too: pid 4242",)}
    found = measure(lambda: gpu.kernel(1 * MS), energy=True, watch=meter)
    assert found.disturbances == (
        "while energy was measured, GPU 0 was used by others, too: pid 4242",
    )
    assert not found.reliable


def test_without_a_counter_there_is_power_but_no_energy(
    gpu: Gpu, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def watch() -> Iterator[Any]:
        with meter() as seen:
            yield seen
        seen.energy = None

    found = measure(lambda: gpu.kernel(1 * MS), energy=True, watch=watch)
    assert found.energy is None
    assert found.metrics["mean_gpu_power_w"] > IDLE
    assert len(meter.seen) == 2


# Warming up and preheating


@pytest.mark.parametrize("graph", [False, True])
def test_nothing_is_timed_on_clocks_that_have_not_risen(gpu: Gpu, *, graph: bool) -> None:
    # For 90 ms they are half of what they will be, and times do not fall.
    began, push = gpu.clock.now, gpu.push

    def pushed(host: float, seconds: float) -> float:
        return push(host, seconds * (2 if gpu.clock.now < began + 0.09 else 1))

    gpu.push = pushed  # type: ignore[method-assign]
    found = measure(lambda: gpu.kernel(50 * US), graph=graph, max_time=0.2)
    assert max(found.samples) == pytest.approx(50 * US, rel=0.02)


def capped(gpu: Gpu, seconds: float, after: float, slower: float) -> Any:
    """Return a kernel that a power cap slows down once the device was busy for so long."""
    busy = 0.0

    def kernel() -> None:
        nonlocal busy
        takes = seconds * (slower if busy >= after else 1.0)
        busy += takes
        gpu.kernel(takes)

    return kernel


@pytest.mark.parametrize("after", [0.0, 0.2, 0.45])
@pytest.mark.parametrize("graph", [False, True])
def test_long_calls_are_timed_on_clocks_that_they_can_hold(
    gpu: Gpu, after: float, *, graph: bool
) -> None:
    # The simulated graph repeats the times of its capture, so there the cap is of the replay.
    kernel = capped(gpu, 1.6 * MS, after, 1.1)
    if graph:
        push, slow = gpu.push, 0.0

        def pushed(host: float, seconds: float) -> float:
            nonlocal slow
            slow += seconds
            return push(host, seconds * (1.1 if slow >= after else 1.0))

        gpu.push = pushed  # type: ignore[method-assign]
        kernel = lambda: gpu.kernel(1.6 * MS)  # noqa: E731
    found = measure(kernel, graph=graph, cold_cache=False, max_time=0.2)
    assert found.median == pytest.approx(1.76 * MS, rel=0.01)


def test_without_warming_up_nothing_is_preheated(gpu: Gpu) -> None:
    found = measure(capped(gpu, 1.6 * MS, 0.45, 1.1), cold_cache=False, warmup_time=0.0)
    assert min(found.samples) == pytest.approx(1.6 * MS, rel=0.01)


def test_preheating_ends_for_times_that_go_on_rising(gpu: Gpu) -> None:
    began, calls = gpu.clock.now, 0

    def kernel() -> None:
        nonlocal calls
        calls += 1
        gpu.kernel(1 * MS * 1.001**calls)

    measure(kernel, max_time=0.1)
    assert gpu.clock.now - began < 4


@pytest.mark.parametrize(
    ("seconds", "rise", "most"),
    [(1 * MS, 1.0, 0.7), (0.3, 1.0, 0.7), (0.6, 1.0, 1.3), (0.3, 1.02, 3.0), (0.7, 1.02, 0.0)],
)
def test_preheating_takes_a_call_as_few_times_as_it_can(
    gpu: Gpu, seconds: float, rise: float, most: float
) -> None:
    # Warming up has run calls of 0.7 s for two seconds already.
    calls = 0

    def kernel() -> None:
        nonlocal calls
        calls += 1
        gpu.kernel(seconds * rise**calls)

    timer = DeviceTimer(Work(kernel, [()]), gpu, cold_cache=False)
    began = gpu.clock.now
    preheat(timer, seconds)
    assert gpu.clock.now - began <= most


def test_calls_that_are_short_beside_the_flush_are_not_preheated(gpu: Gpu) -> None:
    began = gpu.clock.now
    measure(lambda: gpu.kernel(20 * US), max_time=0.1)
    assert gpu.clock.now - began < 0.4


# Memory


def test_the_flush_is_not_counted_as_memory_of_the_call(gpu: Gpu, clock: Clock) -> None:
    @contextmanager
    def watch() -> Iterator[Seen]:
        seen = Seen(clock.now)
        yield seen
        held = sum(int(entry.split()[-1]) for entry in gpu.log if entry.startswith("flusher"))
        seen.metrics = {"max_gpu_memory_mib": 1000.0 + held / 2**20, "max_gpu_temperature_c": 60.0}

    gpu.cache = 100 * 2**20
    for graph, cold in ((False, None), (False, False), (True, None), (True, True)):
        gpu.log.clear()
        found = measure(
            lambda: gpu.kernel(100 * US), watch=watch, max_time=0.1, graph=graph, cold_cache=cold
        )
        assert found.metrics["max_gpu_memory_mib"] == 1000
        assert found.metrics["max_gpu_temperature_c"] == 60
