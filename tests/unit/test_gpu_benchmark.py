"""``gpu_benchmark`` knows what it has to beat, and measures energy only where it matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from builders import changed, make_bound, make_record, make_slo, make_spec

from pytest_autotune.bench import benchmark, compilation
from pytest_autotune.bench.benchmark import GpuBenchmark
from pytest_autotune.bench.sampler import Race
from pytest_autotune.bench.statistics import Interval
from pytest_autotune.bench.timing import Timing
from pytest_autotune.bench.watched import Watched
from pytest_autotune.errors import BenchmarkError, TrialPruned
from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Measurement, Outcome, Question, judge
from pytest_autotune.scoring.objective import RACE_MARGIN, Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import MAX_SCORE, SLO, penalized
from pytest_autotune.study.case_reports import CaseReports

MEASURED = Timing(
    metric="e2e_latency",
    samples=(0.002,) * 7,
    interval=Interval(low=0.002, high=0.002, confidence=0.95),
    ending="interval",
    seconds=0.5,
    timer="events of torch",
    compile_time=0.25,
)


@dataclass
class Calls:
    """What was passed to ``measure``, and what it is to return."""

    options: list[dict[str, Any]] = field(default_factory=list)
    arguments: list[tuple[object, ...]] = field(default_factory=list)
    result: Timing = MEASURED

    @property
    def race(self) -> Race | None:
        found: Race | None = self.options[-1].get("race")
        return found

    @property
    def limit(self) -> float | None:
        return None if self.race is None else self.race.limit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()

    def measure(function: object, *arguments: object, **options: Any) -> Timing:
        found.options.append(options)
        found.arguments.append((function, *arguments))
        return found.result

    monkeypatch.setattr(benchmark, "measure", measure)
    return found


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    compilation.take()
    yield
    compilation.take()


def nothing(*arguments: object) -> None:
    pass


def best(metric: str | None, value: float, penalty: float = 0.0) -> TrialRecord:
    """Return a feasible trial that reported so much, whatever is optimized."""
    return make_record(0, metric=metric, value=value, score=penalized(value, penalty))


def maximal(metric: str, value: float, penalty: float = 0.0) -> TrialRecord:
    return make_record(0, metric=metric, value=value, score=penalized(-value, penalty))


def benchmark_of(
    objective: str = "minimize_latency",
    *records: TrialRecord,
    slo: SLO | None = None,
    watch: Callable[[], AbstractContextManager[Watched]] | None = None,
) -> GpuBenchmark:
    return GpuBenchmark(Objective.parse(objective), slo or make_slo(), lambda: records, watch)


# What there is to beat


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("minimize_latency", "mean_e2e_latency"),
        ("minimize_latency", "p50_e2e_latency"),
        ("minimize:p50_latency", "p50_e2e_latency"),
        ("minimize:p75_e2e_latency", "p75_e2e_latency"),
        ("minimize:p90_e2e_latency", "p90_e2e_latency"),
        ("minimize:p99_e2e_latency", "p99_e2e_latency"),
        ("minimize:max_e2e_latency", "max_e2e_latency"),
    ],
)
def test_a_time_that_is_no_less_than_the_median_is_what_to_beat(
    objective: str, metric: str, calls: Calls
) -> None:
    benchmark_of(objective, best(metric, 0.01))(nothing)
    assert calls.limit == pytest.approx(0.01 * 1.05)
    assert RACE_MARGIN == 0.05
    assert calls.race == Race(limit=0.01 * 1.05, alpha=0.01)


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("minimize:min_e2e_latency", "min_e2e_latency"),
        ("minimize:p25_e2e_latency", "p25_e2e_latency"),
        ("minimize:std_e2e_latency", "std_e2e_latency"),
        ("minimize:compile_time", "compile_time"),
        ("minimize:peak_memory_mib", "peak_memory_mib"),
        ("minimize:energy_per_call", "energy_per_call"),
        ("minimize:tflop_per_s", "tflop_per_s"),
        ("minimize_ttft", "mean_ttft"),
        ("minimize:cost", "cost"),
    ],
)
def test_by_what_the_median_does_not_bound_no_race_can_be_lost(
    objective: str, metric: str, calls: Calls
) -> None:
    benchmark_of(objective, best(metric, 0.01))(nothing, flop=1e9)
    assert calls.race is None


def test_a_rate_to_beat_becomes_a_time(calls: Calls) -> None:
    bench = benchmark_of("maximize:tflop_per_s", maximal("tflop_per_s", 250.0))
    bench(nothing, flop=1e12)
    # 250 TFLOP/s of 1 TFLOP are 4 ms.
    assert calls.limit == pytest.approx(0.004 * 1.05)
    bench(nothing)
    assert calls.race is None
    bench(nothing, bytes_moved=1e9)
    assert calls.race is None


def test_a_bandwidth_to_beat_becomes_a_time(calls: Calls) -> None:
    bench = benchmark_of("maximize:gb_per_s", maximal("gb_per_s", 500.0))
    bench(nothing, bytes_moved=1e9)
    assert calls.limit == pytest.approx(0.002 * 1.05)
    bench(nothing, flop=1e9)
    assert calls.race is None


@pytest.mark.parametrize(
    "metric", ["flop_peak_share", "requests_per_s", "mean_e2e_latency", "mean_total_throughput"]
)
def test_another_rate_is_no_race(metric: str, calls: Calls) -> None:
    benchmark_of(f"maximize:{metric}", maximal(metric, 0.5))(nothing, flop=1e9, bytes_moved=1e9)
    assert calls.race is None


def test_a_negative_rate_is_no_race(calls: Calls) -> None:
    benchmark_of("maximize:tflop_per_s", maximal("tflop_per_s", -5.0))(nothing, flop=1e9)
    assert calls.race is None
    benchmark_of("minimize_latency", best("mean_e2e_latency", 0.0))(nothing)
    assert calls.race is None


def test_without_an_incumbent_there_is_no_race(calls: Calls) -> None:
    benchmark_of()(nothing)
    assert calls.race is None
    others = [
        make_record(0, outcome=outcome, metric="mean_e2e_latency", value=0.001, score=0.001)
        for outcome in (Outcome.INFEASIBLE, Outcome.FAILED, Outcome.PRUNED, Outcome.RUNNING)
    ]
    benchmark_of("minimize_latency", *others)(nothing)
    assert calls.race is None


def test_the_best_of_the_feasible_is_what_to_beat(calls: Calls) -> None:
    records = [
        changed(best("mean_e2e_latency", value), number=number, outcome=outcome)
        for number, (value, outcome) in enumerate(
            [
                (0.02, Outcome.FEASIBLE),
                (0.01, Outcome.FEASIBLE),
                (0.005, Outcome.INFEASIBLE),
                (0.03, Outcome.FEASIBLE),
            ]
        )
    ]
    benchmark_of("minimize_latency", *records)(nothing)
    assert calls.limit == pytest.approx(0.0105)


def test_what_a_rerun_replaced_is_not_to_be_beaten(calls: Calls) -> None:
    old = best("mean_e2e_latency", 0.01)
    new = make_record(0, metric="mean_e2e_latency", value=0.02, score=0.02, retry_of=0)
    benchmark_of("minimize_latency", old, new)(nothing)
    assert calls.limit == pytest.approx(0.021)


def test_a_case_is_raced_against_the_best_trials_cases(calls: Calls) -> None:
    metric = "mean_e2e_latency"
    cases = tuple(
        Case(name=name, metrics={metric: value}) for name, value in (("m0", 0.01), ("m1", 1.0))
    )
    question = Question(
        slo=make_slo(), objective=Objective.parse("minimize_latency"), cases="geomean"
    )
    measurement = Measurement(cases=cases)
    judgement = judge(measurement, question)
    record = replace(best(metric, 1.0), measurement=measurement, judgement=judgement)
    reports = CaseReports()
    bench = GpuBenchmark(question.objective, question.slo, lambda: [record], reports=reports)
    reports.enter("m0")
    bench(nothing)
    assert calls.race is None  # the other case may make good for anything
    reports.add({metric: 0.02})
    reports.enter("m1")
    bench(nothing)
    assert calls.limit == pytest.approx(0.5 * 1.05**2)
    calls.result = replace(MEASURED, ending="race")
    with pytest.raises(TrialPruned) as caught:
        bench(nothing)
    assert caught.value.estimate is None  # its median is of one case only


def test_the_records_are_read_at_each_call(calls: Calls) -> None:
    records: list[TrialRecord] = []
    bench = GpuBenchmark(Objective.parse("minimize_latency"), make_slo(), lambda: records)
    bench(nothing)
    assert calls.race is None
    records.append(best("mean_e2e_latency", 0.01))
    bench(nothing)
    assert calls.limit == pytest.approx(0.0105)


def test_a_penalised_incumbent_is_beaten_with_its_penalty(calls: Calls) -> None:
    benchmark_of("minimize_latency", best("mean_e2e_latency", 0.01, penalty=0.5))(nothing)
    assert calls.limit == pytest.approx(0.015 * 1.05)
    record = maximal("tflop_per_s", 100.0, penalty=0.2)
    benchmark_of("maximize:tflop_per_s", record)(nothing, flop=1e12)
    # It counts as 80 TFLOP/s.
    assert calls.limit == pytest.approx(1 / 80 * 1.05)


@pytest.mark.parametrize("penalty", [1.0, 5.0, 1e305])
def test_a_penalty_beyond_the_value_leaves_nothing_to_beat(penalty: float, calls: Calls) -> None:
    record = maximal("tflop_per_s", 100.0, penalty=penalty)
    benchmark_of("maximize:tflop_per_s", record)(nothing, flop=1e12)
    assert calls.race is None


def test_a_score_at_its_end_is_nothing_to_beat(calls: Calls) -> None:
    record = make_record(0, metric="mean_e2e_latency", value=1.0, score=MAX_SCORE)
    benchmark_of("minimize_latency", record)(nothing)
    assert calls.race is None


@pytest.mark.parametrize("metric", [None, "mean_e2e_latency"])
def test_a_record_without_a_metric_is_nothing_to_beat(metric: str | None, calls: Calls) -> None:
    record = make_record(0, metric=metric, value=0.01, score=None if metric else 0.01)
    benchmark_of("minimize_latency", record)(nothing)
    assert calls.race is None


def test_who_times_another_thing_than_the_objective_runs_no_race(calls: Calls) -> None:
    bench = benchmark_of("minimize_latency", best("mean_e2e_latency", 0.01))
    bench(nothing, metric="backward_time")
    assert calls.race is None
    assert calls.options[-1]["metric"] == "backward_time"
    other = benchmark_of("minimize:p50_backward_time", best("p50_backward_time", 0.02))
    other(nothing)
    assert calls.race is None
    other(nothing, metric="backward_time")
    assert calls.limit == pytest.approx(0.021)


def test_a_race_can_be_left_out(calls: Calls) -> None:
    benchmark_of("minimize_latency", best("mean_e2e_latency", 0.01))(nothing, race=False)
    assert calls.race is None


# What comes of it


def test_arguments_and_options_are_passed_on(calls: Calls) -> None:
    found = benchmark_of()(nothing, 1, "a", width=0.1, graph=True)
    assert calls.arguments == [(nothing, 1, "a")]
    assert calls.options[-1]["width"] == 0.1
    assert calls.options[-1]["graph"] is True
    assert found == MEASURED


def test_the_result_is_printed_for_the_test_s_output(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark_of()(nothing)
    assert capsys.readouterr().out == f"{MEASURED}\n"


def test_a_lost_race_prunes_the_trial_and_says_by_how_much(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.result = replace(MEASURED, ending="race")
    with pytest.raises(TrialPruned) as raised:
        benchmark_of("minimize_latency", best("mean_e2e_latency", 0.001))(nothing)
    assert str(raised.value) == (
        "lost the race: median 2 ms after 7 samples, and 1.05 ms would have lost (error rate 1%; "
        "measure a baseline with race=False or a metric= of its own)"
    )
    assert "median 2 ms" in capsys.readouterr().out


def test_a_race_that_was_lost_while_disturbed_twice_is_reported_and_not_pruned(
    calls: Calls,
) -> None:
    calls.result = replace(MEASURED, ending="race", repeated=True, disturbances=("it was hot",))
    found = benchmark_of("minimize_latency", best("mean_e2e_latency", 0.001))(nothing)
    assert found.ending == "race"
    assert any("unreliable, measured twice: it was hot" in note for note in found.notes)


def test_what_lost_a_race_is_remembered_by_its_median(calls: Calls) -> None:
    calls.result = replace(MEASURED, ending="race")
    with pytest.raises(TrialPruned) as raised:
        benchmark_of("minimize_latency", best("mean_e2e_latency", 0.001))(nothing)
    assert raised.value.estimate == 0.002
    with pytest.raises(TrialPruned) as raised:
        benchmark_of("maximize:tflop_per_s", maximal("tflop_per_s", 900.0))(nothing, flop=1e12)
    assert raised.value.estimate == pytest.approx(500.0)
    # What a race of one's own is about, nobody knows.
    with pytest.raises(TrialPruned) as raised:
        benchmark_of()(nothing, race=Race(limit=0.001))
    assert raised.value.estimate is None


@pytest.mark.parametrize("objective", ["minimize_latency", "minimize:compile_time"])
def test_a_race_of_one_s_own_is_taken_as_it_is(objective: str, calls: Calls) -> None:
    own = Race(limit=0.0015, alpha=0.2)
    calls.result = replace(MEASURED, ending="race")
    bench = benchmark_of(objective, best("mean_e2e_latency", 0.001))
    with pytest.raises(TrialPruned, match=r"and 1\.5 ms would have lost \(error rate 20%;"):
        bench(nothing, race=own)
    assert calls.race is own


def test_what_a_check_compiled_before_is_added_once(calls: Calls) -> None:
    compilation.add(1.5, 0.5)
    bench = benchmark_of()
    assert bench(nothing).compile_time == pytest.approx(1.25)
    assert bench(nothing).compile_time == pytest.approx(0.25)


def test_a_race_is_lost_in_earnest() -> None:
    record = best("mean_e2e_latency", 1e-12)
    with pytest.raises(TrialPruned, match="lost the race"):
        benchmark_of("minimize_latency", record)(
            time.sleep, 0.001, width=1e-12, max_time=600.0, warmup_time=0.0
        )


def test_mistakes_come_through() -> None:
    with pytest.raises(BenchmarkError, match="flop=-1"):
        benchmark_of("maximize:tflop_per_s", maximal("tflop_per_s", 1.0))(nothing, flop=-1)


def test_a_spec_s_own_objective_and_slo_will_do(calls: Calls) -> None:
    spec = make_spec(
        parameters={"a": [1, 2]},
        optimization={"objective": "minimize:energy_per_call"},
        slo=[{"metric": "peak_memory_mib", "max": 100}],
    )
    GpuBenchmark(Objective.parse(spec.optimization.objective), spec.slo, list)(nothing)
    assert calls.options[-1]["energy"] is True


# Watching, and energy


class Seen:
    disturbances: Sequence[str] = ()
    remarks: Sequence[str] = ()
    energy = 5.0
    metrics: Mapping[str, float] = {}
    severe = True


def watch() -> AbstractContextManager[Any]:
    return nullcontext(Seen())


def test_the_watch_is_passed_on(calls: Calls) -> None:
    benchmark_of(watch=watch)(nothing)
    assert calls.options[-1]["watch"] is watch
    assert calls.options[-1]["energy"] is False
    benchmark_of()(nothing)
    assert calls.options[-1]["watch"] is None


@pytest.mark.parametrize(
    ("objective", "bounds", "energy"),
    [
        ("minimize_latency", [], False),
        ("minimize_latency", [make_bound("peak_memory_mib", 10)], False),
        # Power takes longer to measure than most calls.
        ("minimize_latency", [make_bound("mean_gpu_power_w", 300)], True),
        ("minimize_latency", [make_bound("max_gpu_temperature_c", 80)], False),
        ("minimize_latency", [make_bound("energy_per_call", 1.0)], True),
        ("minimize_latency", [make_bound("x", 1), make_bound("energy_per_call", 1.0)], True),
        ("minimize:energy_per_call", [], True),
        ("maximize:tflop_per_s", [], False),
    ],
)
def test_energy_is_measured_where_an_slo_or_the_objective_names_it(
    objective: str, bounds: list[Any], calls: Calls, *, energy: bool
) -> None:
    benchmark_of(objective, slo=make_slo(*bounds), watch=watch)(nothing)
    assert calls.options[-1]["energy"] is energy


def test_a_call_may_want_it_otherwise(calls: Calls) -> None:
    bench = benchmark_of("minimize:energy_per_call", watch=watch)
    bench(nothing, energy=False, watch=None)
    assert calls.options[-1]["energy"] is False
    assert calls.options[-1]["watch"] is None
    benchmark_of()(nothing, energy=True, watch=watch)
    assert calls.options[-1]["energy"] is True
    assert calls.options[-1]["watch"] is watch
