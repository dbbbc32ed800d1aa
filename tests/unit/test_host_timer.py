"""The host's clock: samples long enough for it, and nothing else going on in the process."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_autotune.bench import host
from pytest_autotune.bench.host import HostTimer, affinity, last_cache_bytes, quiet_collector
from pytest_autotune.bench.work import Work


class Clock:
    """Stands in for the module ``time``: goes on only when told to."""

    def __init__(self) -> None:
        self.now = 50.0
        self.reads = 0

    def perf_counter(self) -> float:
        self.reads += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(host, "time", found)
    return found


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


class Kernel:
    """Takes so much of the simulated time, or one after another of several times."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.calls = 0

    def __call__(self) -> int:
        self._clock.now += self._seconds[min(self.calls, len(self._seconds) - 1)]
        self.calls += 1
        return self.calls


def timer_of(
    function: Callable[[], object],
    *,
    wait: Callable[[], None] | None = None,
    cold_cache: bool = False,
) -> HostTimer:
    return HostTimer(Work(function, [()]), wait=wait, cold_cache=cold_cache)


# Calibration


@pytest.mark.parametrize("seconds", [2e-9, 1e-7, 3e-6, 2e-5, 9e-5])
def test_short_functions_are_called_until_a_sample_is_long_enough(
    seconds: float, clock: Clock
) -> None:
    timer = timer_of(Kernel(clock, seconds))
    timer.calibrate()
    assert timer.loops * seconds >= 100e-6 * (1 - 1e-6)
    # But not for much longer, or there would be few samples.
    assert timer.loops * seconds <= 250e-6


@pytest.mark.parametrize("seconds", [100.1e-6, 1e-3, 5.0])
def test_functions_that_are_long_enough_are_called_once(seconds: float, clock: Clock) -> None:
    kernel = Kernel(clock, seconds)
    timer = timer_of(kernel)
    timer.calibrate()
    assert timer.loops == 1
    assert kernel.calls == 3


def test_a_slow_first_call_does_not_settle_how_many_there_are(clock: Clock) -> None:
    timer = timer_of(Kernel(clock, 0.5, 1e-6))
    timer.calibrate()
    assert timer.loops >= 100


def test_a_function_that_takes_no_time_does_not_calibrate_for_ever(clock: Clock) -> None:
    timer = timer_of(Kernel(clock, 0.0))
    timer.calibrate()
    assert timer.loops == 1_000_000


# Samples


def test_a_sample_is_the_time_per_call(clock: Clock) -> None:
    kernel = Kernel(clock, 3e-6)
    timer = timer_of(kernel)
    timer.loops = 50
    assert timer.batch(4) == pytest.approx([3e-6] * 4, rel=1e-6)
    assert kernel.calls == 200


def test_samples_are_in_the_order_of_the_calls(clock: Clock) -> None:
    timer = timer_of(Kernel(clock, 1.0, 2.0, 5.0))
    assert timer.batch(3) == pytest.approx([1.0, 2.0, 5.0])


def test_the_clock_is_read_twice_a_sample(clock: Clock) -> None:
    timer = timer_of(Kernel(clock, 1e-6))
    timer.loops = 100
    timer.batch(7)
    assert clock.reads == 14


def test_inputs_are_rotated_within_and_across_samples() -> None:
    calls: list[int] = []
    timer = HostTimer(Work(calls.append, [(1,), (2,), (3,)]), wait=None, cold_cache=False)
    timer.loops = 2
    timer.batch(3)
    assert calls == [1, 2, 3, 1, 2, 3]


def test_a_real_sleep_takes_at_least_its_time() -> None:
    assert min(timer_of(lambda: time.sleep(0.001)).batch(3)) >= 0.001


# The collector


def test_the_collector_does_not_run_during_samples_and_is_back_afterwards() -> None:
    seen: list[bool] = []
    timer_of(lambda: seen.append(gc.isenabled())).batch(3)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_the_collector_is_back_after_an_error() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timer_of(broken).batch(2)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        timer_of(lambda: None).batch(1)
        assert not gc.isenabled()
        with pytest.raises(ZeroDivisionError), quiet_collector():
            raise ZeroDivisionError
        assert not gc.isenabled()
    finally:
        gc.enable()


# Overhead


@pytest.mark.parametrize("loops", [1, 100])
def test_the_overhead_is_what_an_empty_function_takes(loops: int) -> None:
    calls: list[int] = []
    timer = timer_of(lambda: calls.append(1))
    timer.loops = loops
    # The smallest of five: seven orders of magnitude over what it is.
    assert 0 <= timer.overhead() < 1
    assert not calls
    assert timer.loops == loops


def test_the_overhead_is_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Clock):
        """Takes a microsecond to be read."""

        def perf_counter(self) -> float:
            self.now += 1e-6
            return self.now

    monkeypatch.setattr(host, "time", Slow())
    timer = timer_of(lambda: None)
    assert timer.overhead() == pytest.approx(1e-6)
    timer.loops = 100
    assert timer.overhead() == pytest.approx(1e-8)


# Cold caches


def test_with_a_cold_cache_a_sample_is_one_call(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def evict() -> None:
        log.append("evict")
        clock.now += 10.0

    monkeypatch.setattr(host, "evictor", lambda: evict)

    def kernel() -> None:
        log.append("call")
        clock.now += 1e-6

    timer = timer_of(kernel, cold_cache=True)
    timer.calibrate()
    assert timer.loops == 1
    assert not log
    # And eviction is no part of it.
    assert timer.batch(3) == pytest.approx([1e-6] * 3, rel=1e-3)
    assert log == ["evict", "call"] * 3


def test_with_warm_caches_nothing_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def evictor() -> Callable[[], None]:
        raise AssertionError

    monkeypatch.setattr(host, "evictor", evictor)
    timer_of(lambda: None).batch(1)


def test_eviction_writes_twice_the_largest_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    monkeypatch.setattr(host, "last_cache_bytes", lambda: 3000)
    monkeypatch.setattr(
        ctypes, "memset", lambda buffer, value, size: written.append((len(buffer), size))
    )
    evict = host.evictor()
    evict()
    evict()
    assert written == [(6000, 6000)] * 2


# Waiting for what runs asynchronously


@pytest.mark.parametrize("loops", [1, 4])
def test_waiting_is_once_a_sample_for_the_last_result_and_part_of_the_time(
    loops: int, clock: Clock
) -> None:
    waited: list[object] = []
    kernel = Kernel(clock, 1e-6)
    work = Work(kernel, [()])

    def wait() -> None:
        waited.append(work.last)
        clock.now += 0.004

    timer = HostTimer(work, wait=wait, cold_cache=False)
    timer.loops = loops
    found = timer.batch(3)
    assert waited == [loops, 2 * loops, 3 * loops]
    assert found == pytest.approx([(loops * 1e-6 + 0.004) / loops] * 3, rel=1e-6)


# The machine


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (
            {"index0": "48K\n", "index1": "32K\n", "index2": "2048K\n", "index3": "105M"},
            105 * 2**20,
        ),
        ({"index0": "32K", "index1": "1G"}, 2**30),
        ({"index0": "32768"}, 32768),
        ({"index0": "32K", "index1": "", "index2": "much", "index3": "12Q"}, 32 * 2**10),
        ({"index0": "what"}, 64 * 2**20),
        ({}, 64 * 2**20),
    ],
)
def test_the_largest_cache_is_what_the_system_says(
    sizes: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, text in sizes.items():
        (tmp_path / index).mkdir()
        (tmp_path / index / "size").write_text(text)
    (tmp_path / "index9").mkdir()
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    assert last_cache_bytes() == expected


def test_a_system_that_tells_no_cache_is_taken_to_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CACHES", tmp_path / "none")
    assert last_cache_bytes() == 64 * 2**20


def test_a_size_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index0" / "size").mkdir(parents=True)
    (tmp_path / "index1").mkdir()
    (tmp_path / "index1" / "size").write_text("4M")
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    assert last_cache_bytes() == 4 * 2**20


def test_this_machine_has_a_cache() -> None:
    assert 2**10 <= last_cache_bytes() <= 2**34


@pytest.mark.parametrize(
    ("total", "allowed", "text"),
    [
        (8, {0, 1}, "2 of 8 CPUs"),
        (8, set(range(8)), "8 of 8 CPUs"),
        (None, {0}, "1 of 1 CPUs"),
    ],
)
def test_the_processors_that_may_be_used_are_told(
    total: int | None, allowed: set[int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: total)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    assert affinity() == text


def test_where_there_is_no_affinity_all_processors_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert affinity() == "4 of 4 CPUs"
