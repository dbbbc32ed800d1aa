"""The best configuration is measured again before it is pinned, and so are its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from builders import changed, make_bound, make_plan, make_record, make_spec

from pytest_autotune.gate.launch.launcher import LaunchFailed, LaunchResult
from pytest_autotune.gate.lock.entry import LockEntry, LockError
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, read_lock_file, write_lock
from pytest_autotune.gate.lock.locking import CONTENDERS, LAUNCHES, Locking, Pinning
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO, check
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.groups import Group
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.summary import Summary

LABEL: Final = "test_it.py (study)"
SPEC: Final = {
    "parameters": {"a": list(range(1, 10))},
    "optimization": {"objective": "minimize:cost", "seed": 5},
}


@dataclass
class Fake:
    """Stands in for launches: ``costs`` by the value of ``a``, one or several in turn."""

    costs: Mapping[int, float | Sequence[float] | LaunchFailed]
    slo: SLO = field(default_factory=SLO)
    extra: Mapping[str, float] = field(default_factory=dict)
    made: list[tuple[int, int]] = field(default_factory=list)
    nodeids: list[Sequence[str]] = field(default_factory=list)
    maximize: bool = False

    def launcher(self, params: Mapping[str, Any]) -> Any:
        return FakeLauncher(self, params["a"])

    @property
    def order(self) -> list[int]:
        return [a for a, _ in self.made]


@dataclass
class FakeLauncher:
    fake: Fake
    a: int

    def launch(self, nodeids: Sequence[str], seed: int) -> LaunchResult:
        fake = self.fake
        cost = fake.costs[self.a]
        count = fake.order.count(self.a)
        fake.made.append((self.a, seed))
        fake.nodeids.append(nodeids)
        if isinstance(cost, LaunchFailed):
            raise cost
        value = cost if isinstance(cost, int | float) else cost[count]
        metrics = {"cost": float(value), **fake.extra}
        compliance = check(fake.slo, metrics)
        return LaunchResult(
            outcome=Outcome.FEASIBLE if compliance.feasible else Outcome.INFEASIBLE,
            metrics=metrics,
            score=-value if fake.maximize else value,
            bounds=compliance.results,
        )


def plan_for(nodeid: str = "test_it.py", **keys: Any) -> Plan:
    return make_plan(make_spec({**SPEC, **keys}), nodeid)


def trial(a: int, cost: float) -> TrialRecord:
    return make_record(a, {"a": a}, score=cost, metric="cost", value=cost)


def summary(*records: TrialRecord, plan: Plan | None = None, **fields: Any) -> Summary:
    known: dict[str, Any] = {
        "plan": plan or plan_for(), "stop": Stop.BUDGET, "session": "s", "capacity": 9,
        "tests": [("test_it.py::test_a[", "]"), ("test_it.py::test_b[", "-x]")],
    }  # fmt: skip
    return Summary(records=records, **{**known, **fields})


Run = Callable[..., Locking]


@dataclass
class Locks:
    """A lock file and what was said of it."""

    path: Path
    said: list[str] = field(default_factory=list)

    def pin(self, fake: Fake, *summaries: Summary, force: bool = False) -> list[Locking]:
        pinning = Pinning(
            launcher=fake.launcher, force=force, commit="1a2b3c", say=self.said.append
        )
        return pinning.lock(summaries, self.entries, self.path)

    @property
    def entries(self) -> Mapping[str, LockEntry]:
        return read_lock_file(self.path) if self.path.exists() else {}

    @property
    def entry(self) -> LockEntry:
        return self.entries[LABEL]


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / LOCK_NAME)


def only(found: list[Locking]) -> Locking:
    (locking,) = found
    return locking


# --- which is pinned -------------------------------------------------------------------------


def test_a_lone_winner_is_pinned_with_the_figures_it_has_now(locks: Locks) -> None:
    fake = Fake({2: [1.3, 1.1, 1.2]})
    found = only(locks.pin(fake, summary(trial(2, 1.0), trial(3, 2.0))))
    assert (found.study, found.entry, found.failed, found.notes) == (LABEL, locks.entry, False, ())
    assert found.text == f"pinned in {LOCK_NAME}: a=2, cost 1.2"
    entry = locks.entry
    assert (entry.parameters, entry.metric, entry.maximize) == ({"a": 2}, "cost", False)
    cost = entry.metrics["cost"]
    assert (cost.median, cost.low, cost.high, cost.launches) == (1.2, 1.1, 1.3, 3)
    assert (entry.spec, entry.objective, entry.commit) == ("study", "minimize:cost", "1a2b3c")
    assert entry.fingerprint == fingerprint()
    assert entry.by.startswith("pytest-autotune ")
    assert locks.said == [
        f"{LABEL}: measuring the best configuration again, 3 launches, before pinning one"
    ]


def test_the_luckiest_is_not_pinned(locks: Locks) -> None:
    fake = Fake({1: 1.2, 2: 1.1, 3: 1.3})
    found = only(locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.02), trial(3, 1.04))))
    assert locks.entry.parameters == {"a": 2}
    assert found.text == (
        f"pinned in {LOCK_NAME}: a=2, cost 1.1 "
        "(trial 2 was better than the search's winner when measured again)"
    )
    assert "measuring the best 3 configurations again, 9 launches" in locks.said[0]


def test_one_lucky_launch_does_not_win(locks: Locks) -> None:
    fake = Fake({1: [1.1, 1.1, 1.1], 2: [0.2, 1.2, 1.2]})
    locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.0)))
    assert locks.entry.parameters == {"a": 1}


def test_only_what_came_close_is_measured_again_and_not_too_much_of_it(locks: Locks) -> None:
    records = [trial(a, 1.0 + a / 1000) for a in (5, 4, 3, 2, 1)] + [trial(9, 1.2)]
    fake = Fake(dict.fromkeys(range(1, 10), 1.0))
    locks.pin(fake, summary(*records))
    assert set(fake.order) == {1, 2, 3}
    assert CONTENDERS == 3
    other = Fake(dict.fromkeys(range(1, 10), 1.0))
    locks.pin(other, summary(trial(1, 1.0), trial(2, 1.049), trial(3, 1.051)))
    assert set(other.order) == {1, 2}


def test_what_is_to_be_much_is_pinned_at_its_most(locks: Locks) -> None:
    plan = plan_for(optimization={"objective": "maximize:cost"})
    fake = Fake({1: 95.0, 2: 99.0}, maximize=True)
    records = [changed(trial(1, -100.0), value=100.0), changed(trial(2, -98.0), value=98.0)]
    locks.pin(fake, summary(*records, plan=plan))
    assert (locks.entry.parameters, locks.entry.maximize) == ({"a": 2}, True)
    assert locks.entry.median == 99.0


def test_launches_are_in_turn_with_the_same_fresh_seeds(locks: Locks) -> None:
    fake = Fake({1: 1.0, 2: 1.0, 3: 1.0})
    locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.0), trial(3, 1.0)))
    rounds = [fake.order[at : at + 3] for at in range(0, 9, 3)]
    assert [sorted(each) for each in rounds] == [[1, 2, 3]] * LAUNCHES
    assert len(set(map(tuple, rounds))) > 1
    seeds = [sorted({seed for a, seed in fake.made if a == each}) for each in (1, 2, 3)]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(seeds[0]) == LAUNCHES
    # Neither the search's own nor those that the gate takes (from the study's and a million).
    assert min(seeds[0]) >= 2_000_000


def test_all_tests_of_the_study_run_with_what_is_pinned(locks: Locks) -> None:
    fake = Fake({1: 1.0})
    locks.pin(fake, summary(trial(1, 1.0)))
    assert fake.nodeids == [["test_it.py::test_a[pinned]", "test_it.py::test_b[pinned-x]"]] * 3


def test_what_is_pinned_already_takes_part(locks: Locks) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    fake = Fake({1: 1.1, 7: 1.0})
    found = only(locks.pin(fake, summary(trial(1, 0.9))))
    assert sorted(fake.order) == [1, 1, 1, 7, 7, 7]
    assert found.entry is None
    assert found.text == f"{LOCK_NAME} stays as it is: a=7, cost 1 is still the best"
    better = only(locks.pin(Fake({1: 0.8, 7: 1.0}), summary(trial(1, 0.9))))
    assert better.text == f"pinned in {LOCK_NAME}: a=1, cost 0.8, instead of a=7"


def test_equals_do_not_take_turns_in_the_file(locks: Locks) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    before = locks.path.read_bytes()
    found = only(locks.pin(Fake({1: 0.98, 7: 1.0}), summary(trial(1, 0.9))))
    assert found.text == f"{LOCK_NAME} stays as it is: a=7, cost 1 is still the best"
    assert locks.path.read_bytes() == before
    # Neither does one that is better by just more than the tolerance of 3 % wait.
    assert only(locks.pin(Fake({1: 0.97, 7: 1.0}), summary(trial(1, 0.9)))).entry
    assert locks.entry.parameters == {"a": 1}


def test_force_pins_the_winner_however_close(locks: Locks) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    locks.pin(Fake({1: 0.99, 7: 1.0}), summary(trial(1, 0.9)), force=True)
    assert locks.entry.parameters == {"a": 1}


def test_what_does_not_fit_the_spec_any_more_is_replaced_however_good_it_was(
    locks: Locks,
) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    gone = replace(locks.entry, parameters={"a": 99})
    write_lock(locks.path, {LABEL: gone})
    found = only(locks.pin(Fake({1: 2.0}), summary(trial(1, 2.0))))
    assert found.entry
    assert found.text == f"pinned in {LOCK_NAME}: a=1, cost 2, instead of a=99"
    # Unless it is another machine's.
    write_lock(locks.path, {LABEL: replace(gone, fingerprint={"cpu": "Z80"})})
    kept = only(locks.pin(Fake({1: 2.0}), summary(trial(1, 2.0))))
    assert kept.failed
    assert kept.entry is None


def test_what_is_pinned_and_wins_again_is_measured_once(locks: Locks) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    fake = Fake({7: 1.0, 1: 1.0})
    locks.pin(fake, summary(trial(7, 1.0), trial(1, 1.01)))
    assert sorted(fake.order) == [1, 1, 1, 7, 7, 7]


@pytest.mark.parametrize("change", [{"parameters": {"a": 99}}, {"objective": "minimize:other"}])
def test_what_was_pinned_for_something_else_does_not_take_part(
    locks: Locks, change: dict[str, Any]
) -> None:
    locks.pin(Fake({7: 1.0}), summary(trial(7, 1.0)))
    write_lock(locks.path, {LABEL: replace(locks.entry, **change)})
    fake = Fake({1: 0.9})
    assert only(locks.pin(fake, summary(trial(1, 0.9)))).entry
    assert set(fake.order) == {1}
    assert locks.entry.parameters == {"a": 1}


# --- what does not hold ----------------------------------------------------------------------


def test_what_fails_is_left_out_and_named(locks: Locks) -> None:
    fake = Fake({1: LaunchFailed("crashed", "its process ended with signal 9"), 2: 1.1})
    found = only(locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.01))))
    assert found.entry
    assert locks.entry.parameters == {"a": 2}
    assert found.notes == ("winner (a=1) did not hold: its process ended with signal 9",)
    # It is not launched again.
    assert fake.order.count(1) == 1
    assert fake.order.count(2) == 3


def test_what_breaks_its_slo_more_often_than_not_is_left_out(locks: Locks) -> None:
    slo = SLO(bounds=(make_bound("cost", 1.5, hard=True, fail_ratio=0.0),))
    fake = Fake({1: [1.6, 1.6, 1.0], 2: [1.6, 1.4, 1.4]}, slo)
    found = only(locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.01))))
    assert locks.entry.parameters == {"a": 2}
    assert found.notes == ("winner (a=1) did not hold: it broke its SLO cost",)
    # Figures are those of launches that held.
    assert locks.entry.metrics["cost"].launches == 2


def test_where_none_holds_the_run_fails_and_nothing_is_written(locks: Locks) -> None:
    fake = Fake({1: LaunchFailed("failed", "no"), 2: LaunchFailed("failed", "nor this")})
    found = only(locks.pin(fake, summary(trial(1, 1.0), trial(2, 1.01))))
    assert (found.failed, found.entry) == (True, None)
    assert found.text == "not pinned: no configuration held when it was measured again"
    assert found.notes == (
        "winner (a=1) did not hold: no",
        "trial 2 (a=2) did not hold: nor this",
    )
    assert not locks.path.exists()


def test_a_study_that_did_not_end_is_not_pinned(locks: Locks) -> None:
    fake = Fake({})
    found = only(locks.pin(fake, summary(trial(1, 1.0), stop=None)))
    assert found.text == "not pinned: the session ended first; run again to resume"
    assert (found.failed, found.entry, fake.made) == (False, None, [])
    assert not locks.path.exists()


def test_a_study_without_a_feasible_trial_fails(locks: Locks) -> None:
    found = only(locks.pin(Fake({}), summary()))
    assert (found.text, found.failed) == ("not pinned: no trial was feasible", True)


def test_a_gate_on_what_nobody_reports_fails_its_study_only(locks: Locks) -> None:
    plan = plan_for("other.py", gate={"metrics": ["minimize:unheard"]})
    found = locks.pin(
        Fake({1: 1.0}), summary(trial(1, 1.0)), summary(trial(1, 1.0), plan=plan),
        summary(trial(1, 1.0), plan=plan_for("third.py")),
    )  # fmt: skip
    assert [each.failed for each in found] == [False, True, False]
    assert found[1].text == (
        "not pinned: inline: /gate/metrics/0: 'minimize:unheard' is not among what the tests "
        "reported: cost"
    )
    assert set(locks.entries) == {LABEL, "third.py (study)"}


# --- what is written -------------------------------------------------------------------------


def test_what_changed_within_the_tolerance_is_not_written(locks: Locks) -> None:
    locks.pin(Fake({1: 1.0}), summary(trial(1, 1.0)))
    before = locks.path.read_bytes()
    found = only(locks.pin(Fake({1: 1.02}), summary(trial(1, 1.0)), force=True))
    assert (found.entry, found.failed) == (None, False)
    assert found.text == f"{LOCK_NAME} stays as it is: a=1, cost 1 is still the best"
    assert locks.path.read_bytes() == before


def test_better_figures_of_the_same_are_written(locks: Locks) -> None:
    locks.pin(Fake({1: 1.0}), summary(trial(1, 1.0)))
    found = only(locks.pin(Fake({1: 0.8}), summary(trial(1, 1.0))))
    assert found.text == f"pinned in {LOCK_NAME}: a=1, cost 0.8, as before, with new figures"
    assert locks.entry.median == 0.8


def test_what_is_worse_replaces_nothing_unless_forced(locks: Locks) -> None:
    locks.pin(Fake({1: 1.0}), summary(trial(1, 1.0)))
    found = only(locks.pin(Fake({1: 1.2}), summary(trial(1, 1.0))))
    assert (found.entry, found.failed) == (None, False)
    assert found.text == (
        f"{LOCK_NAME} stays as it is: the locked figure is better: cost was 1 and is 1.2 now, "
        "20 % worse (up to 3 % is tolerated); --autotune-lock-force replaces it"
    )
    assert locks.entry.median == 1.0
    forced = only(locks.pin(Fake({1: 1.2}), summary(trial(1, 1.0)), force=True))
    assert forced.entry
    assert locks.entry.median == 1.2


def test_what_is_of_other_hardware_fails_the_run_unless_forced(locks: Locks) -> None:
    locks.pin(Fake({1: 1.0}), summary(trial(1, 1.0)))
    foreign = {**locks.entry.fingerprint, "cpu": "Another"}
    write_lock(locks.path, {LABEL: replace(locks.entry, fingerprint=foreign)})
    found = only(locks.pin(Fake({1: 0.5}), summary(trial(1, 1.0))))
    assert (found.entry, found.failed) == (None, True)
    assert "it was locked on other hardware (cpu: Another → " in found.text
    assert locks.entry.fingerprint["cpu"] == "Another"
    assert only(locks.pin(Fake({1: 2.0}), summary(trial(1, 1.0)), force=True)).entry
    assert locks.entry.fingerprint == fingerprint()


def test_entries_of_other_studies_are_left_as_they_are(locks: Locks) -> None:
    locks.pin(Fake({1: 1.0}), summary(trial(1, 1.0), plan=plan_for("other.py")))
    other = locks.entries["other.py (study)"]
    locks.pin(Fake({2: 1.0}), summary(trial(2, 1.0)))
    assert set(locks.entries) == {LABEL, "other.py (study)"}
    assert locks.entries["other.py (study)"] == other


def test_several_studies_are_pinned_in_one_file(locks: Locks) -> None:
    plans = [plan_for("a.py"), plan_for("b.py")]
    found = locks.pin(Fake({1: 1.0}), *(summary(trial(1, 1.0), plan=plan) for plan in plans))
    assert [each.study for each in found] == ["a.py (study)", "b.py (study)"]
    assert set(locks.entries) == {"a.py (study)", "b.py (study)"}


def test_an_entry_has_what_the_gate_will_compare_and_the_tightest_bounds(locks: Locks) -> None:
    slo = SLO(bounds=(make_bound("cost", 2.0), make_bound("p99_ttft", 0.5)))
    plan = plan_for(slo=[{"metric": "p99_ttft", "max": 0.5}], gate={"metrics": ["maximize:rate"]})
    fake = Fake({1: [1.0, 1.8, 1.2]}, slo, {"rate": 7.0, "p99_ttft": 0.6, "unasked": 1.0})
    locks.pin(fake, summary(trial(1, 1.0), plan=plan))
    assert set(locks.entry.metrics) == {"cost", "rate", "p99_ttft"}
    assert locks.entry.metric == "cost"
    bounds = {bound.label: bound for bound in locks.entry.slo}
    assert bounds["cost"].actual == 1.8
    assert bounds["cost"].margin == pytest.approx(0.1)
    assert bounds["p99_ttft"].margin == pytest.approx(-0.2)


def test_of_a_timed_callable_the_median_is_locked(locks: Locks) -> None:
    plan = plan_for(optimization={"objective": "minimize_latency"})
    timed = {"mean_e2e_latency": 1.0, "p50_e2e_latency": 0.9, "num_samples": 9.0}
    locks.pin(Fake({1: 1.0}, extra=timed), summary(trial(1, 1.0), plan=plan))
    assert (locks.entry.metric, locks.entry.median) == ("p50_e2e_latency", 0.9)


def test_a_file_that_cannot_be_written_is_an_error(locks: Locks, tmp_path: Path) -> None:
    unwritable = Locks(tmp_path / "missing" / LOCK_NAME)
    with pytest.raises(LockError, match="cannot be written"):
        unwritable.pin(Fake({1: 1.0}), summary(trial(1, 1.0)))


# --- a fleet ---------------------------------------------------------------------------------


def test_the_best_of_this_hardware_is_pinned_although_another_group_won(locks: Locks) -> None:
    there = {**fingerprint(), "gpus": "8 × NVIDIA H200"}
    other = Group(environment=there, records=[trial(1, 0.1)])
    found = only(locks.pin(Fake({2: 1.2}), summary(trial(2, 1.0), groups=[other])))
    (note,) = found.notes
    assert note.startswith("8 × NVIDIA H200 has the best of all; what is pinned is the best on ")
    assert found.entry is not None
    assert (found.entry.parameters, found.entry.fingerprint) == ({"a": 2}, fingerprint())
    slower = Group(environment=there, records=[trial(1, 10.0)])
    assert only(locks.pin(Fake({2: 1.2}), summary(trial(2, 1.0), groups=[slower]))).notes == ()
