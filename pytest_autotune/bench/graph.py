"""Timing on a GPU without the host: replays of a graph of many calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pytest_autotune.bench.device import DeviceTimer, TimedDevice
from pytest_autotune.bench.host import HostTimer, quiet_collector
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError

#: One replay of a graph lasts at least this long, so that launching it does not count (seconds).
_GRAPH_SECONDS: Final = 1e-3
_MAX_UNROLLED: Final = 1000
#: A first graph shows how long a call takes. It has so many calls, or fewer where they are long.
_TRIAL_CALLS: Final = 20
_TRIAL_SECONDS: Final = 20e-3
#: It is replayed for so long that idle clocks can rise (seconds).
_REPLAY_SECONDS: Final = 25e-3
_MAX_REPLAYS: Final = 1000
#: Sizes that differ by less than this share are alike.
_ALIKE: Final = 0.2
#: A graph that is shorter than its launch seems longer than it is, and so does not grow at once.
_MAX_CAPTURES: Final = 4


class GraphTimer:
    """Times replays of a graph of many calls, so that launching them costs the host nothing.

    ``loops`` is the number of calls in it. With a cold cache it has one, and its launch counts.
    Raises :class:`BenchmarkError` for calls that cannot be captured.
    """

    def __init__(self, work: Work, device: TimedDevice, *, cold_cache: bool) -> None:
        self.loops = 1
        if cold_cache:
            # A graph for each set of arguments, as each is captured with its own.
            replays = [_captured(each, device, 1) for each in work.apart()]
            self._timer = _replaying(replays, device, cold_cache=True)
        else:
            self.loops, self._timer = _long_enough(work, device)

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""
        return [seconds / self.loops for seconds in self._timer.batch(count)]

    def of_nothing(self) -> DeviceTimer | None:
        """Return the timer of no work after the same flush, None where there is no flush."""
        return self._timer.of_nothing()

    @property
    def flush_bytes(self) -> int:
        """The size of the buffer that a flush overwrites, 0 where there is none."""
        return self._timer.flush_bytes

    def overhead(self) -> float:
        """Return the seconds that timing adds to a call."""
        return self._timer.overhead() / self.loops


#: What takes the samples of a call.
AnyTimer: TypeAlias = HostTimer | DeviceTimer | GraphTimer


def _long_enough(work: Work, device: TimedDevice) -> tuple[int, DeviceTimer]:
    """Return the size of a graph that lasts long enough, and what times its replays.

    The time of short calls by themselves is that of their launches. So a graph is captured and
    timed, and then captured again in the size that follows from its time.
    """
    alone = min(DeviceTimer(work, device, cold_cache=False).batch(3))
    loops = _size(work, min(_TRIAL_CALLS, _TRIAL_SECONDS / max(alone, 1e-9)))
    captures = 0
    while True:
        timer = _replaying([_captured(work, device, loops)], device, cold_cache=False)
        captures += 1
        wanted = _size(work, _GRAPH_SECONDS / max(_seconds(timer) / loops, 1e-9))
        if captures == _MAX_CAPTURES or abs(wanted - loops) <= _ALIKE * loops:
            return loops, timer
        # Its memory goes back before the next one takes some.
        del timer
        loops = wanted


def _size(work: Work, calls: float) -> int:
    """Return about so many calls, with each set of arguments as often as every other."""
    sets = len(work.sets)
    rounds = -(-int(calls + 1e-6) // sets)
    return sets * max(1, min(rounds, _MAX_UNROLLED // sets))


def _seconds(timer: DeviceTimer) -> float:
    """Return the least time of a replay, after some to warm up."""
    first = timer.batch(1)[0]
    if first >= _REPLAY_SECONDS:
        return first
    replays = min(_MAX_REPLAYS, int(_REPLAY_SECONDS / max(first, 1e-9)))
    return min(timer.batch(replays))


def _replaying(
    replays: Sequence[Callable[[], None]], device: TimedDevice, *, cold_cache: bool
) -> DeviceTimer:
    work = Work(lambda replay: replay(), [(replay,) for replay in replays])
    return DeviceTimer(work, device, cold_cache=cold_cache)


def _captured(work: Work, device: TimedDevice, calls: int) -> Callable[[], None]:
    try:
        # What the collector finalizes may be a kernel's module, and to unload one while a graph
        # is captured invalidates the graph.
        with quiet_collector():
            return device.capture(work.bound(calls))
    except RuntimeError as error:  # what PyTorch's and CuPy's CUDA errors are
        raise BenchmarkError(
            f"graph=True: {device.name} cannot capture the calls ({error}); what "
            "waits for the device, or copies to the host, cannot be part of a graph"
            f"{device.left_by_capture()}"
        ) from None
