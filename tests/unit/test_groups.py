"""A fleet of unlike machines: each group searches for itself, and the summary says which won."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from builders import ended, make_plan, make_record, make_spec

from pytest_autotune.report.render import Line, render
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.spec.model import Spec
from pytest_autotune.study.groups import Group, names_of, winner
from pytest_autotune.study.opening import read_study
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.source import Source
from pytest_autotune.study.summary import Summary

L4 = {"cpu": "EPYC", "cpus": "8", "gpus": "1 × NVIDIA L4", "libraries": "numpy 2.3, torch 2.9"}
H200 = {**L4, "gpus": "2 × NVIDIA H200"}
CPU = {**L4, "gpus": "none"}
BUDGET = 3


@dataclass(frozen=True)
class Machine(Source):
    """Measurements of a machine that is not this one."""

    environment: Mapping[str, str]

    def key(self, spec: Spec) -> Mapping[str, Any]:
        return {**super().key(spec), "environment": self.environment}


@dataclass
class Fleet:
    """Machines that share one journal."""

    folder: Path
    opened: list[SearchedStudy]

    def plan(self, environment: Mapping[str, str], **keys: Any) -> Plan:
        given: dict[str, Any] = {
            "parameters": {"a": [1, 2, 3, 4, 5, 6]},
            "optimization": {
                "objective": "minimize:cost", "strategy": "random", "max_iterations": BUDGET,
            },
            "slo": [{"metric": "mem", "max": 9, "hard_fail": True, "fail_ratio": 0}],
            **keys,
        }  # fmt: skip
        return replace(make_plan(make_spec(**given)), source=Machine(environment))

    def open(self, plan: Plan, session: str = "s") -> SearchedStudy:
        self.opened.append(SearchedStudy(plan, self.folder, session=session, started=0.0))
        return self.opened[-1]

    def run(
        self,
        plan: Plan,
        cost: float,
        count: int = BUDGET,
        *,
        mem: float = 1.0,
        session: str = "s",
    ) -> SearchedStudy:
        """Measure ``count`` trials, of which the last is the best and costs so much."""
        study = self.open(plan, session)
        for left in reversed(range(count)):
            claim = study.claim(SlotRequest(id="slot"))
            assert isinstance(claim, TrialRecord)
            study.finish(ended(claim, plan, metrics={"cost": cost + left, "mem": mem}))
        return study

    def summary(self, plan: Plan) -> Summary:
        state = read_study(plan, self.folder, with_groups=True)
        return Summary(
            plan=plan, records=state.records, groups=state.groups, stop=Stop.BUDGET, session="s",
            capacity=BUDGET,
        )  # fmt: skip

    def hardware(self, plan: Plan) -> list[str]:
        """The lines of the summary on groups."""
        return hardware(render(self.summary(plan)))


def hardware(lines: Iterator[Line]) -> list[str]:
    found, inside = [], False
    for line in lines:
        inside = line.head == "hardware" or (inside and not line.head)
        if inside:
            found.append(line.text)
    return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path, [])
    yield found
    for study in found.opened:
        study.close()


def test_each_group_has_its_own_trials_and_budget(fleet: Fleet) -> None:
    slow, fast = fleet.plan(L4), fleet.plan(H200)
    one = fleet.run(slow, 10.0)
    other = fleet.open(fast)
    # It starts anew, although the budget of the first group is used up.
    assert other.records() == []
    assert other.notices[0] == "a new study was started, because this changed: environment (gpus)"
    fleet.run(fast, 1.0)
    assert [record.value for record in one.records()] == [12.0, 11.0, 10.0]
    assert [record.value for record in other.records()] == [3.0, 2.0, 1.0]
    for plan in (slow, fast):
        assert fleet.open(plan).claim(SlotRequest(id="slot")) is Stop.BUDGET


def test_a_group_begins_with_what_was_best_in_another_and_measures_it_anew(fleet: Fleet) -> None:
    optimization = {"objective": "minimize:cost", "strategy": "auto", "max_iterations": BUDGET}
    best = fleet.run(fleet.plan(L4, optimization=optimization), 10.0).records()[-1]
    other = fleet.open(fleet.plan(H200, optimization=optimization))
    assert "warm start: 2 configurations that did well before came first" in other.notices
    claim = other.claim(SlotRequest(id="slot"))
    assert isinstance(claim, TrialRecord)
    assert (claim.params, claim.finished) == (best.params, False)


def test_the_summary_says_which_group_won(fleet: Fleet) -> None:
    slow, fast = fleet.plan(L4), fleet.plan(H200)
    slow_best = fleet.run(slow, 10.0).records()[-1]
    fast_best = fleet.run(fast, 1.0).records()[-1]
    won = f"cost 1 by trial 2 (a={fast_best.params['a']}), the best of 3 trials"
    lost = f"cost 10 by trial 2 (a={slow_best.params['a']}), the best of 3 trials"
    assert fleet.hardware(fast) == [
        f"2 × NVIDIA H200 (this run) won: {won}", f"1 × NVIDIA L4: {lost}",
    ]  # fmt: skip
    assert fleet.hardware(slow) == [
        f"2 × NVIDIA H200 won: {won}", f"1 × NVIDIA L4 (this run): {lost}",
    ]  # fmt: skip
    # What is the best of a run, and its verdict, is a matter of its own group.
    assert fleet.summary(slow).best == slow_best
    assert "trials   3 of 3: 3 feasible" in [
        f"{line.head:<8} {line.text}" for line in render(fleet.summary(slow))
    ]


def test_where_more_is_better_the_highest_wins(fleet: Fleet) -> None:
    optimization = {"objective": "maximize:cost", "max_iterations": 1, "strategy": "random"}
    slow = fleet.plan(L4, optimization=optimization)
    fleet.run(slow, 10.0, count=1)
    fleet.run(fleet.plan(H200, optimization=optimization), 100.0, count=1)
    (first, second) = fleet.hardware(slow)
    assert first.startswith("2 × NVIDIA H200 won: cost 100")
    assert second.startswith("1 × NVIDIA L4 (this run): cost 10")
    assert first.endswith("the best of 1 trial")


def test_a_run_without_a_feasible_trial_fails_although_another_group_won(fleet: Fleet) -> None:
    slow, fast = fleet.plan(L4), fleet.plan(H200)
    fleet.run(slow, 0.5, mem=10.0)
    fleet.run(fast, 1.0)
    summary = fleet.summary(slow)
    assert summary.failed
    assert fleet.hardware(slow)[1] == "1 × NVIDIA L4 (this run): none of 3 trials was feasible"
    assert fleet.hardware(slow)[0].startswith("2 × NVIDIA H200 won")


def test_a_study_of_one_group_has_no_such_lines(fleet: Fleet) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    assert fleet.summary(fleet.plan(L4)).fleet == ()
    assert fleet.hardware(fleet.plan(L4)) == []


def test_a_group_that_has_only_begun_is_named(fleet: Fleet) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    fleet.open(fleet.plan(H200)).claim(SlotRequest(id="slot"))
    assert fleet.hardware(fleet.plan(L4))[1] == "2 × NVIDIA H200: no trial has finished yet"
    fleet.open(fleet.plan(CPU))
    assert len(fleet.hardware(fleet.plan(L4))) == 2  # It has no trial at all.


@pytest.mark.parametrize(
    "keys",
    [
        {"slo": [{"metric": "mem", "max": 5}]},
        {"optimization": {"objective": "minimize:mem", "strategy": "random"}},
        {"model": {"id_or_path": "another"}},
    ],
    ids=["slo", "objective", "workload"],
)
def test_groups_with_another_question_or_workload_are_not_set_beside_it(
    fleet: Fleet, keys: dict[str, Any]
) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    fleet.run(fleet.plan(H200, **keys), 0.1)
    assert fleet.hardware(fleet.plan(L4)) == []


def test_a_space_that_depends_on_the_machine_does_not_keep_groups_apart(fleet: Fleet) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    fleet.run(fleet.plan(H200, constraints=["a <= 4"]), 0.5)
    assert fleet.hardware(fleet.plan(L4))[0].startswith("2 × NVIDIA H200 won: cost 0.5")


def test_of_a_group_the_study_that_was_used_last_counts(fleet: Fleet) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    fleet.run(fleet.plan(H200), 0.5)
    fleet.run(replace(fleet.plan(H200), fresh=True), 2.0, session="later")
    (first, second) = fleet.hardware(fleet.plan(L4))
    assert first.startswith("1 × NVIDIA L4 (this run) won")
    assert second.startswith("2 × NVIDIA H200: cost 2")


def test_a_group_whose_trials_cannot_be_read_is_left_to_itself(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run(fleet.plan(L4), 1.0)
    there = fleet.run(fleet.plan(H200), 0.5)
    storage = there._store.storage
    trial = storage.get_all_trials(there.id)[0]
    claim = storage.create_new_trial(there.id, template_trial=replace_params(trial))
    assert claim
    assert fleet.hardware(fleet.plan(L4)) == []


def replace_params(trial: Any) -> Any:
    trial.user_attrs.pop("autotune:params")
    return trial


def test_of_many_groups_the_own_one_the_winner_and_the_latest_are_shown(fleet: Fleet) -> None:
    plan = fleet.plan(L4)
    record = fleet.run(plan, 10.0).records()[0]
    others = [
        Group(
            environment={**L4, "gpus": f"{at} × NVIDIA L40"},
            records=[ended(record, plan, metrics={"cost": 100.0 - at, "mem": 1.0})],
        )
        for at in range(99, 90, -1)
    ]
    shown = list(hardware(render(replace(fleet.summary(plan), groups=others))))
    assert [line.partition(":")[0] for line in shown] == [
        "99 × NVIDIA L40 won", "98 × NVIDIA L40", "97 × NVIDIA L40", "96 × NVIDIA L40",
        "1 × NVIDIA L4 (this run)", "and 5 more",
    ]  # fmt: skip
    # The winner is shown although it ran before all others.
    shown = list(hardware(render(replace(fleet.summary(plan), groups=others[::-1]))))
    assert shown[0].startswith("99 × NVIDIA L40 won: cost 1 ")
    assert [line.partition(" ")[0] for line in shown] == ["99", "93", "92", "91", "1", "and"]


def test_names_tell_groups_apart_by_what_differs() -> None:
    driver = {**H200, "gpu_driver": "570.1", "python": "cpython 3.11"}
    newer = {**driver, "gpu_driver": "575.2", "libraries": "numpy 2.3, torch 3.0"}
    found = names_of([Group(environment=each, records=[]) for each in (L4, driver, newer, CPU, {})])
    assert found == [
        "1 × NVIDIA L4",
        "2 × NVIDIA H200, torch 2.9, gpu driver 570.1",
        "2 × NVIDIA H200, torch 3.0, gpu driver 575.2",
        "EPYC (8 CPUs)",
        "unknown hardware",
    ]
    limited = {**CPU, "cpu_limit": "2.5"}
    assert names_of([Group(environment=limited, records=[])]) == ["EPYC (2.5 of 8 CPUs)"]


def test_of_equals_the_own_group_wins_and_penalties_count() -> None:
    def group(**fields: Any) -> Group:
        record = make_record(0, metric="cost", **fields)
        return Group(environment={}, records=[record])

    own, equal, worse = group(score=1.0), group(score=1.0), group(score=2.0, value=0.5)
    assert winner([own, equal, worse]) is own
    assert winner([worse, equal]) is equal
    failed = group(outcome=Outcome.INFEASIBLE, score=None)
    assert winner([failed, worse]) is worse
    assert winner([failed]) is None
    assert winner([]) is None
    assert Group(environment={}, records=[]).best is None
