"""The result of a measurement, in the form that ``trial.report`` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_autotune.bench.sampler import SamplingEnd
from pytest_autotune.bench.statistics import Interval, SampleSummary, summarize
from pytest_autotune.text.numbers import quantity


@dataclass(frozen=True, kw_only=True)
class Timing(Mapping[str, Any]):
    """The time of one callable. Times are in seconds per call.

    ``samples`` are in the order they were taken; each is the mean of ``calls_per_sample`` calls.
    ``interval`` is that of the median. ``timer`` describes the clock, and ``ending`` is the reason
    why sampling stopped. ``overhead`` is the time that timing adds to each call; it is not
    subtracted. ``host_time`` is the host's time to launch a call, None if the host waits for it
    anyway. ``compile_time`` is the extra time of the first call, and of ``gpu_benchmark`` that of
    a check before it, too. ``peak_memory`` is in bytes, ``energy`` in joules per call; ``flop``
    and ``bytes_moved`` are per call, ``peak_flop_rate`` and ``peak_bandwidth`` per second.
    ``disturbances`` are reasons not to believe it; ``telemetry`` are metrics of the devices.
    """

    metric: str
    samples: tuple[float, ...]
    interval: Interval
    ending: SamplingEnd
    seconds: float
    timer: str
    calls_per_sample: int = 1
    overhead: float = 0.0
    host_time: float | None = None
    compile_time: float = 0.0
    peak_memory: int | None = None
    energy: float | None = None
    flop: float | None = None
    bytes_moved: float | None = None
    peak_flop_rate: float | None = None
    peak_bandwidth: float | None = None
    width: float = 0.02
    confidence: float = 0.95
    repeated: bool = False
    disturbances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    telemetry: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def summary(self) -> SampleSummary:
        """Mean, deviation, extremes and percentiles of the samples."""
        return summarize(self.samples)

    @property
    def median(self) -> float:
        """The median, which is the figure to compare."""
        return self.summary.median

    @property
    def converged(self) -> bool:
        """Return whether the interval became as narrow, and as sure, as was asked for."""
        return self.interval.is_sharp(self.width, self.confidence)

    @property
    def reliable(self) -> bool:
        """Return whether nothing is known to have disturbed it."""
        return not self.disturbances

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """Flat metrics, named as SLOs name them."""
        summary, name = self.summary, self.metric
        found: dict[str, float | None] = {
            f"mean_{name}": summary.mean,
            f"std_{name}": summary.std,
            f"min_{name}": summary.min,
            f"max_{name}": summary.max,
            **{f"p{percent}_{name}": value for percent, value in summary.percentiles},
            "num_samples": float(len(self.samples)),
            "interval_width": self.interval.relative_width,
            "compile_time": self.compile_time,
            "host_time": self.host_time,
            "peak_memory_mib": None if self.peak_memory is None else self.peak_memory / 2**20,
            "energy_per_call": self.energy,
            **self.telemetry,
        }
        if self.flop is not None and self.median > 0:
            rate = self.flop / self.median
            found["tflop_per_s"] = rate / 1e12
            if self.peak_flop_rate:
                found["flop_peak_share"] = rate / self.peak_flop_rate
        if self.bytes_moved is not None and self.median > 0:
            bandwidth = self.bytes_moved / self.median
            found["gb_per_s"] = bandwidth / 1e9
            if self.peak_bandwidth:
                found["bandwidth_peak_share"] = bandwidth / self.peak_bandwidth
        return {key: value for key, value in found.items() if value is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how it was measured."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        name = self.metric
        if self.disturbances:
            again = ", measured twice" if self.repeated else ""
            yield f"{name} is unreliable{again}: {'; '.join(self.disturbances)}"
        elif self.repeated:
            yield f"{name} was measured again, as the first time was disturbed"
        if not self.converged:
            yield (
                f"{name}: its median is known to ±{50 * self.interval.relative_width:.2f} % "
                f"({self.interval.confidence:.0%}) only, by {len(self.samples)} samples in "
                f"{quantity('time', self.seconds)}, not to ±{50 * self.width:.2f} % "
                f"({self.confidence:.0%})"
            )
        yield from (f"{name}: {remark}" for remark in self.remarks)

    def __getitem__(self, key: str) -> Any:
        """Return a metric, or the notes."""
        return self._report[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the report's keys."""
        return iter(self._report)

    def __len__(self) -> int:
        """Return the number of the report's keys."""
        return len(self._report)

    @cached_property
    def _report(self) -> Mapping[str, Any]:
        disturbances = {"disturbances": list(self.disturbances)} if self.disturbances else {}
        return {**self.metrics, "notes": list(self.notes), **disturbances}

    def __str__(self) -> str:
        """Show it in a line, and the notes below."""
        percent = 50 * self.interval.relative_width
        several = f" of {self.calls_per_sample} calls" if self.calls_per_sample > 1 else ""
        line = (
            f"{self.metric}: median {quantity('time', self.median)} ± {percent:.2f} % "
            f"({self.interval.confidence:.0%}), {len(self.samples)} samples{several} in "
            f"{quantity('time', self.seconds)}, by {self.timer}"
        )
        return "\n".join((line, *(f"  {note}" for note in self.notes)))
