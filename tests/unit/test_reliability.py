"""Measurements that something disturbed: counted, and said before what follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builders import make_level, make_plan, make_record, make_spec

from pytest_autotune.replay.recorder import table
from pytest_autotune.replay.table import Recording
from pytest_autotune.report.render import render
from pytest_autotune.scoring.judgement import Measurement, Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.reliability import disturbed_count, disturbed_line
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.trial import Trial
from pytest_autotune.study.trial_line import trial_line

BUSY = "other processes used 1.5 of 2 CPUs"
LESS = "other processes used 0.9 of 2 CPUs"
HOT = "GPU 0 was throttled (thermal (hardware))"


def measured(number: int, *disturbances: str, outcome: Outcome = Outcome.FEASIBLE) -> TrialRecord:
    record = make_record(number, outcome=outcome, metric="mean_ttft", value=1.0)
    return replace(
        record, measurement=Measurement(metrics={"mean_ttft": 1.0}, disturbances=disturbances)
    )


def summary(records: list[TrialRecord]) -> Summary:
    return Summary(
        plan=make_plan(trials=len(records)),
        records=records,
        stop=Stop.BUDGET,
        session="s",
        capacity=len(records),
    )


def test_disturbed_measurements_are_counted_by_kind_at_their_worst() -> None:
    assert disturbed_count([measured(0), measured(1)]) == ""
    one = [measured(0, LESS), measured(1)]
    assert disturbed_count(one) == f"1 of 2 measurements was disturbed: {LESS}"
    many = [measured(0, LESS), measured(1, BUSY), measured(2, HOT), measured(3)]
    assert disturbed_count(many) == f"3 of 4 measurements were disturbed: {BUSY}; {HOT}"
    # What was not measured was not disturbed either.
    failed = replace(measured(9), measurement=Measurement(reason="it failed"))
    assert disturbed_count([*many, failed]) == disturbed_count(many)
    assert disturbed_count([measured(0, BUSY)]) == f"1 of 1 measurement was disturbed: {BUSY}"


def test_a_trial_says_what_disturbed_it() -> None:
    assert disturbed_line(measured(0)) == ""
    assert disturbed_line(measured(0, BUSY, HOT)) == f"disturbed: {BUSY}; {HOT}"
    line = trial_line(measured(0, BUSY))
    assert line.endswith(f"mean_ttft 1 s (disturbed: {BUSY})")


def test_a_summary_without_a_feasible_trial_says_it_first() -> None:
    lost = [measured(n, BUSY, outcome=Outcome.INFEASIBLE) for n in range(2)]
    first, second, *_ = render(summary(lost))
    assert (first.head, first.text) == (
        "caution",
        f"2 of 2 measurements were disturbed: {BUSY}",
    )
    assert second.text == "none: no trial was feasible"
    won = list(render(summary([measured(0, BUSY), measured(1)])))
    assert won[0].head == "best"
    assert f"1 of 2 measurements was disturbed: {BUSY}" in [line.text for line in won]
    assert "caution" not in [line.head for line in render(summary([measured(0)]))]


def test_what_disturbed_a_result_comes_with_it_each_once() -> None:
    spec = make_spec(parameters={"a": [1]})
    trial = Trial(make_record(0, {"a": 1}, Outcome.RUNNING, None), make_plan(spec))
    trial.report({"x": 1.0, "disturbances": [BUSY]})
    trial.disturbed([BUSY, HOT])
    from pytest_autotune.scoring.judgement import Ending

    found = trial.measurement(Ending.COMPLETE)
    assert found.disturbances == (BUSY, HOT)
    assert found.metrics == {"x": 1.0}
    again = Trial(make_record(1, {"a": 1}, Outcome.RUNNING, None), make_plan(spec))
    again.report_measurement(found)
    assert again.measurement(Ending.COMPLETE).disturbances == (BUSY, HOT)


def test_a_recording_keeps_what_disturbed_its_measurements(tmp_path: Path) -> None:
    spec = make_spec(parameters={"a": [0, 1, 2]})
    level = replace(make_level(1, mean_ttft=1.0), failure='HTTP 404: "no" such, model')
    records = [
        measured(0, BUSY, HOT),
        replace(measured(1), measurement=Measurement(levels=(level,), disturbances=(BUSY,))),
        measured(2),
    ]
    # Numbers are metrics, whatever they are called.
    named = {"mean_ttft": 1.0, "disturbances": 3.0, "partial": 0.5, "notes": 2.0}
    records[2] = replace(records[2], measurement=Measurement(metrics=named))
    file = tmp_path / "recorded.csv"
    file.write_text(table(records, make_plan(spec)))
    recording = Recording.read(file)
    recording.restrict(spec.space)
    for record in records:
        read = recording.result(record.params)
        assert read.disturbances == record.measurement.disturbances
        assert read.levels == record.measurement.levels
        assert read.metrics == record.measurement.metrics
    plain = table([measured(2)], make_plan(spec))
    assert plain.splitlines()[0] == "a,mean_ttft,valid,error,duration"
