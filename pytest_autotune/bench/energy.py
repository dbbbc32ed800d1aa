"""The energy of a call, from the counters of the devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pytest_autotune.bench.graph import AnyTimer
from pytest_autotune.bench.host import HostTimer
from pytest_autotune.bench.warming import run_for
from pytest_autotune.bench.watched import Watch, Watched

#: Counters move in steps of up to 100 ms; over this long the error is about 1 % (seconds).
_ENERGY_SECONDS: Final = 3.0
#: What is left of the energy after that of the flushes is worth telling from this share on: below,
#: it is known to no better than some 15 %.
_LEAST_SHARE: Final = 0.1
_POWER: Final = "mean_gpu_power_w"


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """``joules`` per call and mean ``watts`` meanwhile, None where devices do not tell them.

    ``watts`` include the flushes between calls, ``joules`` do not. ``disturbances`` are reasons
    not to believe them.
    """

    joules: float | None = None
    watts: float | None = None
    remarks: tuple[str, ...] = ()
    disturbances: tuple[str, ...] = ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The power: over this long it is known better than while the call was timed."""
        return {} if self.watts is None else {_POWER: self.watts}


def energy_of(timer: AnyTimer, watch: Watch) -> Energy:
    """Measure the energy of a call as it is timed: from the same graph, after the same flush.

    The energy of the flushes is measured by itself and subtracted.
    """
    whole, seen = _per_sample(timer, watch)
    watts = seen.metrics.get(_POWER)
    if whole is None:
        return Energy(watts=watts, disturbances=tuple(_meanwhile(seen)))
    flushing = None if isinstance(timer, HostTimer) else timer.of_nothing()
    if flushing is None:
        return Energy(joules=whole / timer.loops, watts=watts, disturbances=tuple(_meanwhile(seen)))
    flush, also = _per_sample(flushing, watch)
    disturbances = dict.fromkeys((*_meanwhile(seen), *_meanwhile(also)))
    left = whole - (whole if flush is None else flush)
    if left < _LEAST_SHARE * whole:
        remark = (
            "energy_per_call is left out: the flush before each call used "
            f"{min(1 - left / whole, 1):.0%} of the energy; see graph=True and cold_cache=False"
        )
        return Energy(watts=watts, remarks=(remark,), disturbances=tuple(disturbances))
    return Energy(joules=left / timer.loops, watts=watts, disturbances=tuple(disturbances))


def _per_sample(timer: AnyTimer, watch: Watch) -> tuple[float | None, Watched]:
    """Return the joules per sample of a timer that runs for some time, and what was seen."""
    with watch() as seen:
        samples = len(run_for(timer, _ENERGY_SECONDS))
    return None if seen.energy is None else seen.energy / samples, seen


def _meanwhile(seen: Watched) -> Iterator[str]:
    return (f"while energy was measured, {text}" for text in seen.disturbances)
