"""What is pinned is a study of one trial, kept in memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
from builders import ended, make_plan, make_record, make_slo, make_spec

from pytest_autotune.bench import benchmark
from pytest_autotune.bench.benchmark import LAUNCH_SECONDS, GpuBenchmark
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.pinned import PINNED, Pin, PinnedStudy
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop
from pytest_autotune.study.trial import Trial

SLOT = SlotRequest(id=PINNED, ordinal=0)
COST = Objective.parse("minimize:cost")


def plan_for(seed: int = 3) -> Plan:
    spec = make_spec(
        parameters={"a": [1, 2]}, optimization={"objective": "minimize:cost", "seed": seed}
    )
    return make_plan(spec)


def pinned(**fields: Any) -> PinnedStudy:
    return PinnedStudy(Pin(params={"a": 2}, plan=plan_for(), **fields), "session")


def claimed(study: PinnedStudy) -> TrialRecord:
    record = study.claim(SLOT)
    assert isinstance(record, TrialRecord)
    return record


def test_its_one_trial_goes_to_the_first_who_asks() -> None:
    study = pinned()
    assert study.records() == []
    record = claimed(study)
    assert (record.number, record.params, record.outcome) == (0, {"a": 2}, Outcome.RUNNING)
    assert (record.owner.session, record.owner.slot) == ("session", PINNED)
    assert time.time() - 5 < record.owner.started <= time.time()
    assert study.claim(SLOT) is Stop.DONE_BEFORE
    assert study.records() == [record]
    assert study.plan is study.pin.plan


def test_a_finished_trial_is_kept() -> None:
    study = pinned()
    finished = ended(claimed(study), study.plan, metrics={"cost": 2.0}, notes=("quiet",))
    study.finish(finished)
    assert study.records() == [finished]
    assert study.claim(SLOT) is Stop.DONE_BEFORE


def test_to_give_it_back_leaves_it_unfinished() -> None:
    study = pinned()
    record = claimed(study)
    study.give_back(record)
    study.close()
    assert study.records() == [record]
    assert not record.finished


# --- what a test gets ------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "found"), [(None, 3), (77, 77), (0, 0)])
def test_a_trial_has_the_studys_seed_or_its_own(given: int | None, found: int) -> None:
    record = make_record(0, {"a": 2}, Outcome.RUNNING, None)
    assert Trial(record, plan_for(), given).seed == found


def test_a_trial_counts_what_is_reported() -> None:
    trial = Trial(make_record(0, {"a": 2}, Outcome.RUNNING, None), plan_for())
    assert trial.reports == 0
    trial.report({"cost": 1.0})
    trial.report({"cost": 1.0})
    trial.report_level(4, {"cost": 2.0})
    trial.note("seen")
    assert trial.reports == 3


def test_a_report_counts_though_it_breaks_an_slo() -> None:
    spec = make_spec(
        parameters={"a": [1]}, slo=[{"metric": "cost", "max": 1, "hard_fail": True,
                                     "fail_ratio": 0.0}],
        optimization={"objective": "minimize:cost"},
    )  # fmt: skip
    trial = Trial(make_record(0, {"a": 1}, Outcome.RUNNING, None), make_plan(spec))
    with pytest.raises(Exception, match="BROKEN"):
        trial.report({"cost": 5.0})
    assert trial.reports == 1


@pytest.mark.parametrize(
    ("asked", "taken"), [({}, LAUNCH_SECONDS), ({"max_time": 9.0}, LAUNCH_SECONDS),
                         ({"max_time": 0.01}, 0.01)],
)  # fmt: skip
def test_one_of_many_launches_samples_briefly_and_is_not_watched(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], taken: float
) -> None:
    seen: list[dict[str, Any]] = []

    class Measured(Exception):
        pass

    def measure(*arguments: object, **options: Any) -> None:
        seen.append(options)
        raise Measured

    monkeypatch.setattr(benchmark, "measure", measure)
    watch: Any = object()
    slo = make_slo()
    for brief in (True, False):
        timer = GpuBenchmark(COST, slo, list, watch, brief=brief)
        with pytest.raises(Measured):
            timer(print, **asked)
    energetic = GpuBenchmark(Objective.parse("minimize:energy_per_call"), slo, list, watch,
                             brief=True)  # fmt: skip
    with pytest.raises(Measured):
        energetic(print)
    assert (seen[0]["max_time"], seen[0]["watch"]) == (taken, None)
    assert (seen[1].get("max_time"), seen[1]["watch"]) == (asked.get("max_time"), watch)
    # Energy is told by who watches.
    assert seen[2]["watch"] is watch
