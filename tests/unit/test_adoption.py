"""Trials that a study keeps although its question changed, or its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import ended, make_plan, make_spec, read_records

from pytest_autotune.errors import StorageError
from pytest_autotune.scoring.judgement import Ending, Measurement, Outcome, decides
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.study.changes import question_changes
from pytest_autotune.study.code import Code
from pytest_autotune.study.digests import digest_of
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop
from pytest_autotune.study.searched import SearchedStudy

SPACE = {"a": [1, 2, 3, 4], "b": [1, 2]}
Open = Callable[..., SearchedStudy]


def plan_of(*, code: Code | None = None, **document: Any) -> Plan:
    given = {
        "parameters": SPACE,
        "optimization": {"objective": "minimize:cost", "strategy": "random", "max_iterations": 4},
        "slo": [{"metric": "mem", "max": 6, "hard_fail": True, "fail_ratio": 0}],
        **document,
    }
    return replace(make_plan(make_spec(**given)), strategy="random", budget=4, code=code)


def code_of(root: Path, module: Path, *globs: str) -> Code:
    return Code.of(root, {module.name: digest_of(module)}, globs)


@pytest.fixture
def open_study(tmp_path: Path) -> Iterator[Open]:
    opened: list[SearchedStudy] = []

    def open_(plan: Plan, session: str = "one") -> SearchedStudy:
        opened.append(SearchedStudy(plan, tmp_path, session=session, started=0.0))
        return opened[-1]

    yield open_
    for study in opened:
        study.close()


def claim(study: SearchedStudy) -> TrialRecord:
    found = study.claim(SlotRequest(id="slot"))
    assert isinstance(found, TrialRecord)
    return found


def run(study: SearchedStudy, count: int = 4, **how: Any) -> list[TrialRecord]:
    """Run trials whose cost is 10·a + b, and whose memory is 2·a."""
    for _ in range(count):
        record = claim(study)
        a, b = record.params["a"], record.params["b"]
        metrics = {"cost": 10.0 * a + b, "mem": 2.0 * a}
        ending = Ending.CUT_SHORT if 2 * a > 6 else Ending.COMPLETE
        study.finish(ended(record, study.plan, metrics=metrics, ending=ending, **how))
    return study.records()


def test_trials_are_kept_and_judged_by_the_new_question(open_study: Open, tmp_path: Path) -> None:
    first = run(open_study(plan_of()))
    looser = plan_of(slo=[{"metric": "mem", "max": 8, "hard_fail": True, "fail_ratio": 0}])
    study = open_study(looser, "two")
    said = "4 trials kept, judged by the new SLO: mem ≤ 6 → ≤ 8"
    assert study.notices[0] == said
    assert "use up the budget of 4; to search on, raise it: --autotune-trials 8" in study.notices[1]
    kept = study.records()
    assert [(r.number, r.params, r.measurement) for r in kept] == [
        (r.number, r.params, r.measurement) for r in first
    ]
    assert {record.outcome for record in kept} == {Outcome.FEASIBLE}
    assert study.claim(SlotRequest(id="slot")) is Stop.BUDGET
    assert read_records(looser, tmp_path) == kept
    # A run that opens it later finds them again, without a word.
    again = open_study(looser, "three")
    assert (again.notices, again.records()) == ((), kept)
    # Going back finds the study as it was, and what the other one added.
    more = run(open_study(replace(looser, budget=6), "four"), 2)
    back = open_study(replace(plan_of(), budget=6), "five")
    assert back.notices == ("kept 2 trials that had another SLO, objective or space",)
    assert [r.params for r in sorted(back.records(), key=lambda record: record.number)] == [
        r.params for r in more
    ]
    assert back.claim(SlotRequest(id="slot")) is Stop.BUDGET


def test_another_direction_ranks_the_kept_trials_the_other_way(open_study: Open) -> None:
    low = min(run(open_study(plan_of())), key=lambda record: record.rank)
    optimization = {"objective": "maximize:cost", "strategy": "random"}
    study = open_study(plan_of(optimization=optimization))
    assert study.notices[0] == (
        "4 trials kept, judged by the new objective: objective minimize:cost → maximize:cost"
    )
    feasible = [r for r in study.records() if r.outcome is Outcome.FEASIBLE]
    assert min(feasible, key=lambda record: record.rank).value == max(
        record.value or 0.0 for record in feasible
    )
    assert low.params in [record.params for record in study.records()]


def test_only_trials_in_the_new_space_are_kept(open_study: Open) -> None:
    first = run(open_study(replace(plan_of(), budget=8)), 8)
    fitting = [record.params for record in first if record.params["a"] != 1]
    wider = plan_of(parameters={"a": [2, 3, 4, 8], "b": [1, 2]}, constraints=["a * b < 16"])
    study = open_study(replace(wider, budget=8))
    (notice,) = study.notices
    assert notice == (
        "6 trials kept, judged by the new space: parameter a: 8 added; parameter a: 1 removed; "
        "constraints (2 trials not in the new space)"
    )
    kept = study.records()
    assert [record.params for record in kept] == fitting
    # Kept trials keep their numbers, and new ones take those that are free.
    numbers = [record.number for record in first if record.params["a"] != 1]
    assert [record.number for record in kept] == numbers
    assert claim(study).number == min(set(range(8)) - set(numbers))


def test_a_space_that_no_earlier_trial_fits_is_said_to_be_so(open_study: Open) -> None:
    run(open_study(plan_of()))
    study = open_study(plan_of(parameters={"a": [8], "b": [1, 2]}, constraints=[]))
    assert study.records() == []
    said = study.notices[0]
    assert said.startswith("no earlier trial fits the new space: parameter a: 8 added")
    assert said.endswith("(4 trials left out)")


def test_cut_short_trials_may_be_measured_again(open_study: Open) -> None:
    study = open_study(plan_of())
    while True:
        record = claim(study)
        if record.params["a"] == 4:
            break
        metrics = {"cost": 1.0, "mem": 2.0}
        study.finish(ended(record, study.plan, metrics=metrics))
    cut = ended(record, study.plan, metrics={"mem": 8.0}, ending=Ending.CUT_SHORT)
    study.finish(cut)
    # It broke the stricter bound as well, and nobody knows its cost.
    stricter = open_study(plan_of(slo=[{"metric": "mem", "max": 5, "hard_fail": True}]))
    assert cut.params in [record.params for record in stricter.records()]
    looser = open_study(replace(plan_of(slo=[{"metric": "mem", "max": 9}]), budget=8))
    assert looser.notices[0].endswith("(1 trial cut short, to be measured again if needed)")
    assert cut.params not in [record.params for record in looser.records()]
    points = []
    while isinstance(found := looser.claim(SlotRequest(id="slot")), TrialRecord):
        points.append(found.params)
        looser.finish(ended(found, looser.plan, metrics={"cost": 1.0, "mem": 1.0}))
    assert cut.params in points


def level(concurrency: int, **metrics: float) -> Level:
    return Level(concurrency=concurrency, metrics=metrics)


QUESTION = plan_of().question
LEVELS = (level(1, mem=2.0, cost=1.0), level(2, mem=5.0, cost=2.0))


@pytest.mark.parametrize(
    ("measurement", "decided"),
    [
        (Measurement(metrics={"mem": 1.0, "cost": 1.0}), True),
        (Measurement(ending=Ending.FAILED, reason="boom"), True),
        (Measurement(ending=Ending.PRUNED, metrics={"mem": 1.0}), False),
        (Measurement(ending=Ending.CUT_SHORT, metrics={"mem": 7.0}), True),
        (Measurement(ending=Ending.CUT_SHORT, metrics={"mem": 1.0}), False),
        (Measurement(ending=Ending.CUT_SHORT, metrics={"mem": 1.0, "cost": 2.0}), True),
        (
            Measurement(ending=Ending.CUT_SHORT, metrics={"mem": 1.0, "cost": 2.0}, partial=True),
            False,
        ),
        (Measurement(levels=LEVELS), True),
        (Measurement(levels=LEVELS, partial=True), False),
        (Measurement(levels=(*LEVELS, level(4, mem=9.0, cost=9.0)), partial=True), True),
    ],
)
def test_a_measurement_decides_where_it_measured_enough(
    measurement: Measurement,
    decided: bool,  # noqa: FBT001
) -> None:
    assert decides(measurement, QUESTION) is decided


def test_a_search_for_the_highest_level_decides_nothing_else() -> None:
    slo = replace(QUESTION.slo, levels="max")
    broken = Measurement(levels=(level(4, mem=9.0, cost=9.0),), partial=True)
    assert not decides(broken, replace(QUESTION, slo=slo))


def test_changed_code_starts_a_new_study_unless_it_is_kept(
    open_study: Open, tmp_path: Path
) -> None:
    module = tmp_path / "test_x.py"
    module.write_text("a = 1\n")

    def plan(*, keep: bool = False) -> Plan:
        return replace(plan_of(code=code_of(tmp_path, module)), keep=keep)

    study = open_study(plan())
    study.note_code({"kernel.py": "0123"}, {})
    run(study)
    (tmp_path / "kernel.py").write_text("fast = True\n")
    new = open_study(plan(), "two")
    (notice,) = new.notices
    assert notice == (
        "a new study was started, because the code changed: kernel.py; "
        "--autotune-keep goes on with the earlier trials"
    )
    assert new.records() == []
    kept = open_study(plan(keep=True), "three")
    assert kept.notices == (
        "4 trials of earlier code kept by --autotune-keep (kernel.py changed since)",
    )
    assert [record.earlier_code for record in kept.records()] == [True] * 4
    # They stay, marked, when the study goes on; and another change is noticed, too.
    assert open_study(plan(), "four").notices == kept.notices
    (tmp_path / "kernel.py").write_text("faster = True\n")
    (notice,) = open_study(plan(), "five").notices
    assert "because the code changed: kernel.py" in notice


def test_sources_that_are_named_later_count_from_then_on(open_study: Open, tmp_path: Path) -> None:
    module, source = tmp_path / "test_x.py", tmp_path / "tile.cu"
    module.touch()
    source.write_text("float k;")

    def records(*globs: str) -> list[TrialRecord]:
        return open_study(plan_of(code=code_of(tmp_path, module, *globs))).records()

    first = run(open_study(plan_of(code=code_of(tmp_path, module))))
    assert records("*.cu") == first
    source.write_text("double k;")
    assert records("*.cu") == []


def test_a_study_of_restored_code_is_found_again(open_study: Open, tmp_path: Path) -> None:
    module = tmp_path / "test_x.py"

    def records(text: str) -> list[TrialRecord]:
        module.write_text(text)
        return open_study(plan_of(code=code_of(tmp_path, module))).records()

    module.write_text("a = 1\n")
    first = run(open_study(plan_of(code=code_of(tmp_path, module))))
    assert records("a = 2\n") == []
    assert records("a = 1  # as before\n") == first


def test_fresh_leaves_everything_earlier_alone(open_study: Open) -> None:
    run(open_study(plan_of()))
    fresh = open_study(replace(plan_of(), fresh=True), "two")
    assert fresh.records() == []
    run(fresh, 2)
    resumed = open_study(plan_of(slo=[]), "three")
    assert len(resumed.records()) == 2


def test_questions_say_what_changed() -> None:
    old = plan_of().asked()
    slo = [
        {"metric": "mem", "min": 6, "hard_fail": True},
        {"metric": "ttft", "max": 0.2},
    ]
    parameters = {"a": {"type": "integer", "low": 1, "high": 4}, "c": [True, 1]}
    new = plan_of(slo=slo, parameters=parameters).asked()
    titles, changes = question_changes(old, new)
    assert titles == "SLO and space"
    assert "ttft ≤ 200 ms added" in changes
    assert "parameter a changed; parameter b removed; parameter c added" in changes
    order = plan_of(parameters={"a": [4, 3, 2, 1], "b": [1, 2]}).asked()
    assert question_changes(old, order) == ("space", "parameter a: order changed")
    assert question_changes(old, old) == ("", "")


def test_a_longer_wait_for_the_server_is_no_other_workload() -> None:
    server = {"backend": "process", "command": ["serve", "--port", "{port}"]}
    quick = plan_of(server={**server, "startup_timeout": 2})
    slow = plan_of(server={**server, "startup_timeout": 20, "health": "/ready"})
    assert quick.identity() == slow.identity()
    other = plan_of(server={**server, "environment": {"THREADS": "2"}})
    assert other.identity() != quick.identity()


LOOSER = [{"metric": "mem", "max": 8, "hard_fail": True, "fail_ratio": 0}]


def test_a_success_takes_the_place_of_a_failure(open_study: Open) -> None:
    study = open_study(plan_of())
    failed = claim(study)
    study.finish(ended(failed, study.plan, ending=Ending.FAILED, reason="boom"))
    other = open_study(plan_of(slo=LOOSER), "two")
    (kept,) = other.records()
    assert (kept.params, kept.outcome) == (failed.params, Outcome.FAILED)
    again = other.claim(SlotRequest(id="slot", ordinal=kept.number, rerun=True))
    assert isinstance(again, TrialRecord)
    other.finish(ended(again, other.plan, metrics={"cost": 1.0, "mem": 1.0}))
    back = open_study(plan_of(), "three")
    assert [(r.number, r.value) for r in effective(back.records())] == [(failed.number, 1.0)]
    third = open_study(plan_of(slo=[]), "four")
    assert [record.value for record in effective(third.records())] == [1.0]


def test_an_interrupted_trial_that_was_measured_elsewhere_is_not_run_again(
    open_study: Open,
) -> None:
    study = open_study(plan_of())
    orphan = claim(study)
    study.close()
    other = open_study(plan_of(slo=LOOSER), "two")
    points = [record.params for record in run(other)]
    assert orphan.params in points
    back = open_study(replace(plan_of(), budget=5), "three")
    trials = effective(back.records())
    assert [record.finished for record in trials] == [True] * 4
    assert len({record.number for record in trials}) == 4
    assert claim(back).params not in points


def test_kept_trials_of_earlier_code_stay_kept_by_another_question(
    open_study: Open, tmp_path: Path
) -> None:
    module = tmp_path / "test_x.py"
    module.write_text("a = 1\n")
    run(open_study(plan_of(code=code_of(tmp_path, module))))
    module.write_text("a = 2\n")
    keep = replace(plan_of(code=code_of(tmp_path, module)), keep=True)
    assert len(open_study(keep, "two").records()) == 4
    other = open_study(plan_of(code=code_of(tmp_path, module), slo=LOOSER), "three")
    assert [record.earlier_code for record in other.records()] == [True] * 4
    assert other.notices[0] == "4 trials kept, judged by the new SLO: mem ≤ 6 → ≤ 8"


def test_a_trial_of_another_version_of_the_code_is_not_stored(
    open_study: Open, tmp_path: Path
) -> None:
    module = tmp_path / "test_x.py"
    module.write_text("a = 1\n")
    plan = plan_of(code=code_of(tmp_path, module))
    early, late = open_study(plan), open_study(plan, "two")
    late.note_code({"kernel.py": "new"}, {})
    with pytest.raises(StorageError, match=r"kernel\.py changed while runs measured with it"):
        early.note_code({"kernel.py": "old"}, {})
    early.note_code({"kernel.py": "new", "lazy.py": "1"}, {})


def test_a_new_file_that_the_tests_import_is_a_change(open_study: Open, tmp_path: Path) -> None:
    module, conftest = tmp_path / "test_x.py", tmp_path / "conftest.py"
    module.touch()
    run(open_study(plan_of(code=code_of(tmp_path, module))))
    conftest.touch()
    files = {path.name: digest_of(path) for path in (module, conftest)}
    (notice,) = open_study(plan_of(code=Code.of(tmp_path, files)), "two").notices
    assert "because the code changed: conftest.py (new)" in notice
