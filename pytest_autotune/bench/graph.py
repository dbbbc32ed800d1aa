"""Timing on a GPU without the host: replays of a graph of many calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_autotune.bench.device import DeviceTimer, TimedDevice
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError

#: One replay of a graph lasts at least this long, so that launching it does not count (seconds).
_GRAPH_SECONDS: Final = 1e-3
_MAX_UNROLLED: Final = 1000


class GraphTimer:
    """Times replays of a graph of many calls, so that launching them costs the host nothing.

    ``loops`` is the number of calls in it. With a cold cache it has one, and its launch counts.
    Raises :class:`BenchmarkError` for calls that cannot be captured.
    """

    def __init__(
        self, work: Work, device: TimedDevice, *, cold_cache: bool, estimate: float
    ) -> None:
        sets = len(work.sets)
        if cold_cache:
            # A graph for each set of arguments, as each is captured with its own.
            self.loops = 1
            replays = [_captured(each, device, 1) for each in work.apart()]
        else:
            unrolled = int(_GRAPH_SECONDS / max(estimate, 1e-7))
            # Each set of arguments as often as every other.
            rounds = max(1, min(-(-unrolled // sets), _MAX_UNROLLED // sets))
            self.loops = sets * rounds
            replays = [_captured(work, device, self.loops)]
        self._timer = DeviceTimer(
            Work(lambda replay: replay(), [(replay,) for replay in replays]),
            device,
            cold_cache=cold_cache,
        )

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""
        return [seconds / self.loops for seconds in self._timer.batch(count)]

    def overhead(self) -> float:
        """Return the seconds that timing adds to a call."""
        return self._timer.overhead() / self.loops


def _captured(work: Work, device: TimedDevice, calls: int) -> Callable[[], None]:
    try:
        return device.capture(work.bound(calls))
    except RuntimeError as error:  # what PyTorch's and CuPy's CUDA errors are
        raise BenchmarkError(
            f"graph=True: {device.name} cannot capture the calls ({error}); what waits for the "
            "device, or copies to the host, cannot be part of a graph"
        ) from None
