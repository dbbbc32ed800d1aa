"""The ``gpu_benchmark`` of a test: a measurement that ends once its trial has lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pytest_autotune.bench import compilation
from pytest_autotune.bench.bar import MetricBar, metric_bar
from pytest_autotune.bench.clocks import spared
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.sampler import Race
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.watched import Watch
from pytest_autotune.errors import TrialPruned
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.study.case_reports import CaseReports
from pytest_autotune.text.numbers import quantity

#: Statistics that are no less than the median: if the median is too slow, so are they.
_NOT_BELOW_MEDIAN: Final = ("p50", "p75", "p90", "p99", "max")
#: Metrics that take a longer measurement than the time of a call does.
_ENERGY: Final = frozenset({"energy_per_call", "mean_gpu_power_w"})
#: Sampling time of one of many launches that are compared, in seconds. More samples in a launch do
#: not reduce the noise between launches.
LAUNCH_SECONDS: Final = 0.15


class GpuBenchmark:
    """Times a callable on the GPU, or the CPU where that is what it runs on. Call it."""

    def __init__(  # noqa: PLR0913 - made by the fixture
        self,
        objective: Objective,
        slo: SLO,
        records: Callable[[], Sequence[TrialRecord]],
        watch: Watch | None = None,
        *,
        brief: bool = False,
        disturbed: Callable[[Iterable[str]], object] = tuple,
        reports: CaseReports | None = None,
    ) -> None:
        """Prepare a benchmark; a ``brief`` one is one of many launches that are compared.

        ``disturbed`` is told what disturbed it, whatever is done with the result. ``reports``
        are those of the trial so far, by case.
        """
        self._disturbed = disturbed
        self._objective = objective
        self._records = records
        self._watch = watch
        self._brief = brief
        self._reports = reports
        named = (*objective.metrics, *(name for b in slo.bounds for name in b.metrics))
        self._energy = not _ENERGY.isdisjoint(named)

    def __call__(
        self,
        function: Callable[..., object],
        *arguments: object,
        race: bool | Race = True,
        **options: Any,
    ) -> Timing:
        """Time ``function(*arguments)``; the result goes to ``trial.report``.

        ``options`` are those of :func:`pytest_autotune.bench.measure.measure`. If it measures the
        study's objective, a candidate that is certainly slower than the incumbent is not measured
        to the end and raises :class:`TrialPruned`. ``race=False`` measures it to the end.

        Raises :class:`BenchmarkError` for a function that cannot be timed so.
        """
        if isinstance(race, Race):
            options["race"] = race
        elif race:
            options["race"] = self._race(options)
        options.setdefault("energy", self._energy)
        # Of many launches each is a sample: none is worth repeating.
        options.setdefault("watch", None if self._brief and not options["energy"] else self._watch)
        if self._brief:
            options["max_time"] = min(options.get("max_time", math.inf), LAUNCH_SECONDS)
        found = measure(function, *arguments, **options)
        found = replace(found, compile_time=found.compile_time + compilation.take())
        remark = spared(options.get("race"), found.median, found.telemetry)
        if remark:
            found = replace(found, remarks=(*found.remarks, remark))
        self._disturbed(found.disturbances)
        print(found)  # noqa: T201 - pytest captures it with the test's output
        # A measurement that was disturbed twice may have lost for that, and is reported.
        if found.ending == "race" and found.reliable:
            known = race is True
            estimate = self._estimate(found.median, options) if known else None
            raise TrialPruned(self._lost(found, options["race"]), estimate)
        return found

    def _bar(self) -> MetricBar | None:
        reports = self._reports
        case, cases = ("", ()) if reports is None else (reports.present.name, reports.cases)
        return metric_bar(self._records(), self._objective, case, cases)

    def _race(self, options: Mapping[str, Any]) -> Race | None:
        """Return the race against the incumbent, None if there is nothing to beat."""
        bar = self._bar()
        limit = None if bar is None else self._limit(bar, options)
        return None if bar is None or limit is None else Race(limit=limit, clock=bar.clock)

    def _limit(self, bar: MetricBar, options: Mapping[str, Any]) -> float | None:
        """Return the time per call that has certainly lost, None where none has."""
        if not self._objective.maximize:
            metric = options.get("metric", "e2e_latency")
            known = {f"{statistic}_{metric}" for statistic in ("mean", *_NOT_BELOW_MEDIAN)}
            return bar.value if bar.metric in known else None
        work = _work(bar.metric, options)
        return None if work is None else work / bar.value

    def _estimate(self, median: float, options: Mapping[str, Any]) -> float | None:
        """Return the objective of a call that takes the median of a race that was lost.

        None where it is one case of several, as the others are not known.
        """
        bar = self._bar()
        if bar is None or not bar.whole:
            return None
        if not self._objective.maximize:
            return median
        work = _work(bar.metric, options)
        return None if work is None else work / median

    def _lost(self, found: Timing, race: Race) -> str:
        return (
            f"lost the race: median {quantity('time', found.median)} after "
            f"{len(found.samples)} samples, and {quantity('time', race.limit)} would have lost "
            f"(error rate {race.alpha:.0%}; measure a baseline with race=False or a "
            "metric= of its own)"
        )


def _work(metric: str, options: Mapping[str, Any]) -> float | None:
    """Return the work of a call in the unit of a rate, None where it is not known."""
    rates = {"tflop_per_s": ("flop", 1e12), "gb_per_s": ("bytes_moved", 1e9)}
    option, unit = rates.get(metric, ("", 1.0))
    work = options.get(option)
    # Anything but a number is refused later.
    return work / unit if isinstance(work, int | float) else None
