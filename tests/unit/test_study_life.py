"""Studies without pytest: claims, outcomes, budgets, orphans, on files and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import ended, read_records

from pytest_autotune.errors import StorageError, TrialLostError
from pytest_autotune.scoring.judgement import Ending
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.looks import Look
from pytest_autotune.study.opening import read_study
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop, Wait
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings

SPEC: Mapping[str, Any] = {
    "parameters": {"a": [1, 2, 3, 4, 5], "b": [True, 1, 1.0, "1", None, [1, 2]]},
    "optimization": {"objective": "minimize:cost", "max_iterations": 10, "strategy": "random"},
    "slo": [{"metric": "mem", "max": 3}],
}
SLOT = SlotRequest(id="trial-000")
MakePlan = Callable[..., Plan]
Open = Callable[..., SearchedStudy]


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "journal":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def make_plan() -> MakePlan:
    def make(storage: str | None = None, nodeid: str = "test_x.py", **changes: Any) -> Plan:
        settings = Settings(storage=storage, fresh=changes.pop("fresh", False))
        spec = {**SPEC, **changes}
        return Plan.make(nodeid, load_inline("x", spec, "test"), settings)

    return make


@pytest.fixture
def open_study(tmp_path: Path) -> Iterator[Open]:
    opened: list[SearchedStudy] = []

    def open_(plan: Plan, session: str = "one", started: float | None = None) -> SearchedStudy:
        study = SearchedStudy(plan, tmp_path, session=session, started=started or time.monotonic())
        opened.append(study)
        return study

    yield open_
    for study in opened:
        study.close()


def _finish(
    study: SearchedStudy, record: TrialRecord, cost: float, mem: float = 1.0
) -> TrialRecord:
    finished = ended(record, study.plan, metrics={"cost": cost, "mem": mem})
    study.finish(finished)
    return finished


def _fail(study: SearchedStudy, record: TrialRecord, reason: str = "boom") -> TrialRecord:
    finished = ended(record, study.plan, ending=Ending.FAILED, reason=reason)
    study.finish(finished)
    return finished


def _claim(study: SearchedStudy, slot: SlotRequest = SLOT) -> TrialRecord:
    claim = study.claim(slot)
    assert isinstance(claim, TrialRecord)
    return claim


def _run_out(
    study: SearchedStudy, cost: Callable[[TrialRecord], float] = lambda r: r.number
) -> Stop:
    while isinstance(claim := study.claim(SLOT), TrialRecord):
        _finish(study, claim, cost(claim))
    assert isinstance(claim, Stop)
    return claim


def test_a_study_runs_to_its_budget_and_reads_back_exactly(
    storage: str | None, make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    plan = make_plan(storage)
    study = open_study(plan)
    assert _run_out(study) is Stop.BUDGET
    written = study.records()
    study.close()
    read = read_records(plan, tmp_path)
    assert read == written
    assert [record.number for record in read] == list(range(10))
    assert len({record.key for record in read}) == 10
    # 1, 1.0 and True are different values, and lists stay lists.
    values = [record.params["b"] for record in read]
    assert all(type(value) in {bool, int, float, str, list, type(None)} for value in values)


def test_infeasible_ranks_between_feasible_and_crashed(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    for direction in ("minimize", "maximize"):
        optimization = {**SPEC["optimization"], "objective": f"{direction}:cost"}
        study = open_study(make_plan(storage, nodeid=direction, optimization=optimization))
        much = _finish(study, _claim(study), cost=0.0, mem=9.0)
        little = _finish(study, _claim(study), cost=1e9, mem=4.0)
        crashed = _fail(study, _claim(study))
        fine = _finish(study, _claim(study), cost=5.0)
        better = _finish(study, _claim(study), cost=4.0 if direction == "minimize" else 6.0)
        ranked = sorted(study.records(), key=lambda record: record.rank)
        assert [r.number for r in ranked] == [
            r.number for r in (better, fine, little, much, crashed)
        ]
        assert incumbent(study.records()) == better
        study.close()


def test_optuna_sees_feasibility_and_the_users_sign(
    make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optimization = {**SPEC["optimization"], "objective": "maximize:cost"}
    study = open_study(make_plan(url, optimization=optimization))
    _finish(study, _claim(study), cost=9.0, mem=6.0)
    _finish(study, _claim(study), cost=7.0)
    _fail(study, _claim(study))
    database = optuna.storages.RDBStorage(url)
    (name,) = optuna.get_all_study_names(database)
    seen = optuna.load_study(study_name=name, storage=database)
    assert seen.direction is optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in seen.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [trial.value for trial in seen.trials[:2]] == [9.0, 7.0]
    assert seen.trials[0].constraints["slo"] == pytest.approx(1.0)
    assert seen.trials[1].constraints["slo"] < 0
    assert seen.best_trial.number == 1
    database.engine.dispose()


def test_many_outstanding_trials_are_told_to_the_right_ones(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    optimization = {**SPEC["optimization"], "strategy": "bayesian", "n_initial_random": 2}
    plan = make_plan(storage, optimization=optimization)
    workers = [open_study(plan) for _ in range(4)]
    claims = [_claim(worker) for worker in workers]
    assert len({claim.key for claim in claims}) == 4
    for worker, claim in reversed(list(zip(workers, claims, strict=True))):
        _finish(worker, claim, cost=100.0 + claim.number)
    told = {record.number: record.value for record in workers[0].records()}
    assert told == {claim.number: 100.0 + claim.number for claim in claims}
    for worker in workers:
        worker.close()


def test_an_exhausted_space_ends_the_study(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    for strategy in ("random", "bayesian", "grid_search"):
        optimization = {**SPEC["optimization"], "strategy": strategy, "n_initial_random": 1}
        plan = make_plan(
            storage, nodeid=strategy, parameters={"a": [1, 2], "b": [1, 2]},
            optimization=optimization,
        )  # fmt: skip
        study = open_study(plan)
        assert _run_out(study) is Stop.EXHAUSTED
        assert len(study.records()) == 4
        study.close()


def test_the_last_trials_of_a_budget_are_waited_for(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    plan = make_plan(storage, optimization={**SPEC["optimization"], "max_iterations": 1})
    first, sibling, stranger = open_study(plan), open_study(plan), open_study(plan, "other")
    claim = _claim(first)
    assert isinstance(sibling.claim(SLOT), Wait)
    # Another machine's trial may take hours, and is not ours to wait for.
    assert stranger.claim(SLOT) is Stop.BUDGET
    first.close()
    taken = _claim(sibling)
    assert (taken.number, taken.params, taken.owner.attempt) == (claim.number, claim.params, 2)
    _finish(sibling, taken, cost=1.0)
    assert sibling.claim(SLOT) is Stop.BUDGET


def test_a_trial_that_was_taken_over_does_not_count_twice(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    plan = make_plan(storage)
    slow, quick = open_study(plan), open_study(plan)
    claim = _claim(slow)
    slow.close()  # as when its connection breaks while it works on
    if storage is None or storage.startswith("sqlite"):
        revived = slow
    else:
        revived = open_study(plan)
        revived._process = slow._process
        revived.records()
    taken = _claim(quick)
    assert taken.number == claim.number
    _finish(quick, taken, cost=1.0)
    with pytest.raises(TrialLostError, match="taken over by another process"):
        _finish(revived, claim, cost=2.0)
    assert quick.records()[0].value == 1.0


def test_a_trial_given_back_is_left_to_the_next_session(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    plan = make_plan(storage)
    study, sibling = open_study(plan), open_study(plan)
    claim = _claim(study)
    study.give_back(claim)
    study.close()
    assert _claim(sibling).number == 1
    full = make_plan(
        storage, nodeid="full", optimization={**SPEC["optimization"], "max_iterations": 1}
    )
    study, sibling = open_study(full), open_study(full)
    study.give_back(_claim(study))
    assert sibling.claim(SLOT) is Stop.BUDGET  # nothing of this session to wait for
    later = open_study(plan, session="later")
    taken = _claim(later)
    assert (taken.number, taken.params, taken.owner.attempt) == (0, claim.params, 1)


def test_a_trial_of_a_living_process_is_told_from_an_interrupted_one(
    storage: str | None, make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    plan = make_plan(storage)
    study = open_study(plan)
    claim = _claim(study)
    assert read_study(plan, tmp_path).running == {claim.number}
    study.close()
    assert read_study(plan, tmp_path).running == set()


def test_options_of_the_search_that_count_for_further_trials_only_are_noted(
    storage: str | None, make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    plan = make_plan(storage)
    assert open_study(replace(plan, seed=7)).notices == ()  # It made no trial.
    study = open_study(plan)
    _finish(study, _claim(study), cost=1.0)
    assert open_study(plan).notices == ()
    (notice,) = open_study(replace(plan, seed=5)).notices
    assert notice == (
        "the study began with seed 0; only further trials use seed 5 (--autotune-fresh starts anew)"
    )
    (notice,) = open_study(replace(plan, seed=5, strategy="auto")).notices
    assert "began with strategy random and seed 0; only further trials use strategy auto" in notice
    search = read_study(replace(plan, seed=5), tmp_path).search
    assert search is not None
    assert (search.strategy, search.seed) == ("random", 0)


def test_fresh_starts_anew_once_per_session(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    study = open_study(make_plan(storage))
    _finish(study, _claim(study), cost=1.0)
    study.close()
    again = make_plan(storage, fresh=True)
    first = open_study(again, session="two")
    assert first.records() == []
    _finish(first, _claim(first), cost=1.0)
    assert len(open_study(again, session="two").records()) == 1
    assert len(open_study(make_plan(storage), session="three").records()) == 1


def test_two_tasks_never_share_a_study(
    storage: str | None, make_plan: MakePlan, open_study: Open
) -> None:
    named = {**SPEC["optimization"], "study_name": "same"}
    first = open_study(make_plan(storage, nodeid="test_a.py", optimization=named))
    _finish(first, _claim(first), cost=1.0)
    other = {"parameters": {"z": ["p", "q"]}, "optimization": named}
    second = open_study(make_plan(storage, nodeid="test_b.py", **other))
    assert second.records() == []
    assert set(_claim(second).params) == {"z"}


def test_a_new_study_says_what_changed(
    storage: str | None, make_plan: MakePlan, open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_study(make_plan(storage))
    assert first.notices == ()
    _finish(first, _claim(first), cost=1.0)
    more = open_study(make_plan(storage, slo=[{"metric": "mem", "max": 4}]))
    assert more.notices == ("1 trial kept, judged by the new SLO: mem ≤ 3 → ≤ 4",)
    monkeypatch.setattr("pytest_autotune.study.source.fingerprint", lambda: {"gpus": "another"})
    moved = open_study(make_plan(storage))
    (notice,) = moved.notices
    assert "environment (cpu, cpus, memory, gpus, libraries, " in notice


def test_the_search_continues_with_the_same_seed_after_an_interruption(
    make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    for strategy in ("random", "bayesian"):
        optimization = {**SPEC["optimization"], "strategy": strategy, "n_initial_random": 3}
        whole = make_plan(nodeid=f"whole {strategy}", optimization=optimization)
        _run_out(open_study(whole), cost=lambda r: r.params["a"])
        parts = make_plan(nodeid=f"parts {strategy}", optimization=optimization)
        for session in range(10):
            study = open_study(parts, session=str(session))
            claim = study.claim(SLOT)
            if isinstance(claim, TrialRecord) and session % 3 != 1:
                _finish(study, claim, cost=claim.params["a"])
            study.close()
        _run_out(open_study(parts, session="last"), cost=lambda r: r.params["a"])
        expected, actual = (
            [(r.number, r.params, r.value) for r in read_records(plan, tmp_path)]
            for plan in (whole, parts)
        )
        assert actual == expected


def test_another_seed_gives_another_search(make_plan: MakePlan, open_study: Open) -> None:
    found = []
    for seed in (0, 1):
        optimization = {**SPEC["optimization"], "seed": seed}
        study = open_study(make_plan(nodeid=f"seed {seed}", optimization=optimization))
        found.append([_claim(study).params for _ in range(5)])
    assert found[0] != found[1]


def test_a_trial_is_written_before_it_runs_and_is_small(
    make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    study = open_study(make_plan())
    (journal,) = tmp_path.glob("*/trials.journal")
    before = journal.stat().st_size
    for number in range(5):
        _finish(study, _claim(study), cost=float(number))
    # A state that is rewritten whole would come to 379 KB after 50 trials.
    assert (journal.stat().st_size - before) / 5 < 3000


def _compete(plan: Plan, directory: Path, session: str) -> None:
    study = SearchedStudy(plan, directory, session=session, started=time.monotonic())
    while True:
        claim = study.claim(SLOT)
        if isinstance(claim, TrialRecord):
            time.sleep(0.1)  # long enough for the other processes to start
            _finish(study, claim, cost=float(claim.number))
        elif isinstance(claim, Stop):
            break
        else:
            time.sleep(0.01)
    study.close()


@pytest.mark.parametrize(
    "storage",
    ["journal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sqlite", "postgres"))],
    indirect=True,
)
def test_competing_processes_share_one_budget_exactly(
    storage: str | None, make_plan: MakePlan, tmp_path: Path
) -> None:
    optimization = {**SPEC["optimization"], "max_iterations": 24, "strategy": "bayesian"}
    plan = make_plan(storage, optimization=optimization)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_compete, args=(plan, tmp_path, f"machine-{number % 2}"))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    records = read_records(plan, tmp_path)
    assert [record.number for record in records] == list(range(24))
    assert len({record.key for record in records}) == 24
    assert {record.owner.session for record in records} == {"machine-0", "machine-1"}


_HOLD = """
import sys, time
from pathlib import Path
from pytest_autotune.study.settings import Settings
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
spec, storage, directory = eval(sys.argv[1]), sys.argv[2] or None, Path(sys.argv[3])
plan = Plan.make("test_x.py", load_inline("x", spec, "test"), Settings(storage=storage))
study = SearchedStudy(plan, directory, session="killed", started=time.monotonic())
if sys.argv[4:] != ["idle"]:
    print(study.claim(SlotRequest(id="trial-000")).number, flush=True)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_process_is_known_to_be_dead_at_once(
    storage: str | None, make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, repr(SPEC), storage or "", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "0"
    study = open_study(make_plan(storage))
    assert _claim(study).number == 1  # alive: not to be taken
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    # The kernel drops a dead process's locks at once, a database as soon as it notices.
    limit = time.monotonic() + 5
    while True:
        claim = _claim(study)
        if claim.number == 0:
            break
        assert time.monotonic() < limit
        assert claim.number < 9
        time.sleep(0.2)
    assert claim.owner.attempt == 2


def test_a_process_that_is_killed_between_trials_leaves_no_lock_to_later_ones(
    make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, repr(SPEC), "", str(tmp_path), "idle"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        alive = list(tmp_path.glob("*/owners/*"))
        open_study(make_plan(), "two")
        assert set(alive) < set(tmp_path.glob("*/owners/*"))
        process.kill()
    open_study(make_plan(), "three")
    assert not set(alive) & set(tmp_path.glob("*/owners/*"))
    assert len(list(tmp_path.glob("*/owners/*"))) == 2


def test_effective_trials_leave_out_what_was_measured_again(
    make_plan: MakePlan, open_study: Open
) -> None:
    study = open_study(make_plan())
    slot = SlotRequest(id="trial-007", ordinal=7)
    old = _fail(study, _claim(study, slot))
    request = SlotRequest(id="trial-007", ordinal=7, rerun=True)
    again = _claim(study, request)
    assert (again.number, again.params) == (7, old.params)
    # Until the re-run has finished, the old result stands.
    assert old in effective(study.records())
    _finish(study, again, cost=2.0)
    assert [record.value for record in effective(study.records())] == [2.0]
    # With a measurement, it is measured again only to be seen.
    look = study.claim(request)
    assert isinstance(look, Look)
    assert (look.record.number, look.record.params, look.record.stored) == (7, old.params, None)
    assert len(study.records()) == 2


def test_an_unreadable_trial_is_an_error_that_names_a_way_out(
    make_plan: MakePlan, open_study: Open, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    plan = make_plan(url)
    study = open_study(plan)
    _finish(study, _claim(study), cost=1.0)
    study.close()
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
        connection.execute("DELETE FROM trial_user_attributes WHERE key = 'autotune:params'")
    with pytest.raises(StorageError, match=r"cannot be read.*--autotune-fresh"):
        read_records(plan, tmp_path)


def test_trials_in_another_format_are_left_alone(
    make_plan: MakePlan, open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pytest_autotune.study.catalogue._FORMAT", 1)
        old = open_study(make_plan())
        _finish(old, _claim(old), cost=1.0)
        old.close()
    new = open_study(make_plan(), session="two")
    assert new.records() == []
    (notice,) = new.notices
    assert notice == (
        "a new study was started, because another version of pytest-autotune stored the "
        "earlier trials"
    )
