"""A candidate that ran on lower clocks than the best so far does not lose a race by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import simulated_gpu as simulated
from builders import make_record, make_slo
from simulated_gpu import MS, Gpu, scattered

from pytest_autotune.bench.benchmark import GpuBenchmark
from pytest_autotune.bench.clocks import handicap, spared
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.sampler import Race
from pytest_autotune.bench.timing import Timing
from pytest_autotune.errors import TrialPruned
from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Measurement, Question, judge
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.case_reports import CaseReports

clock, gpu = simulated.clock, simulated.gpu

OBJECTIVE = Objective.parse("minimize_latency")
METRIC = "mean_e2e_latency"


@dataclass
class Seen:
    metrics: dict[str, float] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    energy: float | None = None
    severe: bool = True


class At:
    """A watch on a device that runs at so many MHz."""

    def __init__(self, mhz: float | None) -> None:
        self.metrics = {} if mhz is None else {"mean_gpu_clock_mhz": mhz}

    @contextmanager
    def __call__(self) -> Iterator[Seen]:
        yield Seen(self.metrics)


def incumbent(value: float, mhz: float | None) -> TrialRecord:
    metrics = {METRIC: value, **At(mhz).metrics}
    measurement = Measurement(metrics=metrics)
    judgement = judge(measurement, Question(slo=make_slo(), objective=OBJECTIVE))
    record = make_record(0, metric=METRIC, value=value, score=value)
    return replace(record, measurement=measurement, judgement=judgement)


@pytest.mark.parametrize(
    ("best", "mhz", "expected"),
    [
        (1980.0, 1980.0, 1.0),
        (1980.0, 1940.0, 1.0),  # 2 %, as clocks differ by themselves
        (1980.0, 1920.0, 1980 / 1920),
        (1980.0, 1320.0, 1.5),
        (1320.0, 1980.0, 1.0),
        (None, 1320.0, 1.0),
        (1980.0, None, 1.0),
        (1980.0, 0.0, 1.0),
    ],
)
def test_lower_clocks_excuse_as_much_as_they_are_lower(
    best: float | None, mhz: float | None, expected: float
) -> None:
    seen = Seen(At(mhz).metrics)
    assert handicap(Race(limit=1.0, clock=best), seen) == pytest.approx(expected)
    assert handicap(None, seen) == 1.0


def outcome(gpu: Gpu, seconds: float, best: TrialRecord, mhz: float | None) -> Timing:
    bench = GpuBenchmark(OBJECTIVE, make_slo(), lambda: [best], At(mhz))
    return bench(scattered(gpu, seconds), width=1e-4)


@pytest.mark.parametrize("mhz", [1980.0, 2100.0, None])
def test_on_the_clocks_of_the_best_a_slower_candidate_is_pruned(
    gpu: Gpu, mhz: float | None
) -> None:
    with pytest.raises(TrialPruned, match="lost the race"):
        outcome(gpu, 1.2 * MS, incumbent(1 * MS, 1980.0), mhz)


def test_on_lower_clocks_it_is_measured_to_the_end_and_noted(gpu: Gpu) -> None:
    # 12 % slower on clocks that are 10 % lower: beyond the margin of a race, and no proof.
    found = outcome(gpu, 1.12 * MS, incumbent(1 * MS, 1980.0), 1780.0)
    assert found.ending == "time"
    assert found.notes[-1] == (
        "e2e_latency: the GPU ran at 1780 MHz (mean), and for the best so far at 1980 MHz: it is "
        "slower, maybe for that reason only, and so was not pruned"
    )


def test_measured_again_on_lower_clocks_it_is_not_pruned_either(gpu: Gpu) -> None:
    disturbances = iter([("GPU 0 was throttled (power brake)",)])

    @contextmanager
    def watch() -> Iterator[Seen]:
        yield Seen(At(1780.0).metrics, next(disturbances, ()))

    bench = GpuBenchmark(OBJECTIVE, make_slo(), lambda: [incumbent(1 * MS, 1980.0)], watch)
    found = bench(scattered(gpu, 1.12 * MS), width=1e-4)
    assert found.repeated
    assert found.ending == "time"


def test_what_lower_clocks_cannot_explain_is_pruned_all_the_same(gpu: Gpu) -> None:
    with pytest.raises(TrialPruned, match="lost the race"):
        outcome(gpu, 2 * MS, incumbent(1 * MS, 1980.0), 1780.0)


def test_a_candidate_that_is_as_fast_gets_no_note(gpu: Gpu) -> None:
    found = outcome(gpu, 1.04 * MS, incumbent(1 * MS, 1980.0), 1780.0)
    assert not any("pruned" in note for note in found.notes)
    assert spared(None, 1.0, At(1000.0).metrics) == ""


def test_the_clocks_that_count_are_those_when_the_race_is_decided(gpu: Gpu) -> None:
    # The cap bites once it has run for a while.
    began = gpu.clock.now

    class Falling(dict[str, float]):
        def get(self, key: str, default: float | None = None) -> float | None:  # type: ignore[override]
            return 1980.0 if gpu.clock.now < began + 0.1 else 1500.0

    @contextmanager
    def watch() -> Iterator[Seen]:
        yield Seen(Falling())

    race = Race(limit=1 * MS, clock=1980.0)
    found = measure(scattered(gpu, 1.2 * MS), race=race, watch=watch, width=1e-4)
    assert found.ending == "time"
    lost = measure(scattered(gpu, 1.2 * MS), race=Race(limit=1 * MS), watch=watch, width=1e-4)
    assert lost.ending == "race"


def test_a_case_is_compared_on_the_clocks_of_that_case(gpu: Gpu) -> None:
    def of(name: str, value: float, mhz: float) -> Case:
        metrics: Mapping[str, float] = {METRIC: value, "mean_gpu_clock_mhz": mhz}
        return Case(name=name, metrics=metrics)

    question = Question(slo=make_slo(), objective=OBJECTIVE, cases="worst")
    measurement = Measurement(cases=(of("m0", 1 * MS, 1980.0), of("m1", 1 * MS, 1200.0)))
    judgement = judge(measurement, question)
    record = make_record(0, metric=METRIC, value=1 * MS, score=1 * MS)
    record = replace(record, measurement=measurement, judgement=judgement)
    reports = CaseReports()
    bench = GpuBenchmark(OBJECTIVE, make_slo(), lambda: [record], At(1500.0), reports=reports)

    def run() -> Timing:
        return bench(scattered(gpu, 1.2 * MS), width=1e-4)

    reports.enter("m0")
    assert run().ending == "time"
    reports.enter("m1")
    with pytest.raises(TrialPruned, match="lost the race"):
        run()
