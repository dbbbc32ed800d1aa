"""Trials that a process reads piece by piece are those that a fresh process reads at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders import ended

from pytest_autotune.errors import StorageError, TrialLostError
from pytest_autotune.scoring.judgement import Ending
from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.adoption import KeptTrials
from pytest_autotune.study.documents import read_trial
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.stored_trials import StoredTrials
from pytest_autotune.system.locks import DatabaseCoordinator

SPEC: dict[str, Any] = {
    "parameters": {"a": {"type": "integer", "low": 0, "high": 999}},
    "optimization": {"objective": "minimize:cost", "max_iterations": 500, "strategy": "random"},
}


def make_plan(*, cases: bool = False, high: int = 999, storage: str | None = None) -> Plan:
    optimization = {**SPEC["optimization"], **({"cases": "geomean"} if cases else {})}
    parameters = {"a": {"type": "integer", "low": 0, "high": high}}
    spec = {**SPEC, "optimization": optimization, "parameters": parameters}
    return Plan.make("test_x.py", load_inline("x", spec, "test"), Settings(storage=storage))


@contextmanager
def sessions(plan: Plan, folder: Path, count: int) -> Iterator[list[SearchedStudy]]:
    opened = [
        SearchedStudy(plan, folder, session=f"s{at}", started=time.monotonic())
        for at in range(count)
    ]
    try:
        yield opened
    finally:
        for study in opened:
            study.close()


def measured(record: TrialRecord, plan: Plan, rng: random.Random) -> TrialRecord:
    if rng.random() < 0.2:
        return ended(record, plan, ending=Ending.FAILED, reason="boom")
    return ended(record, plan, metrics={"cost": rng.random()})


def state(trials: StoredTrials) -> dict[str, Any]:
    return {
        "records": list(trials.records),
        "current": list(trials.current),
        "running": sorted(record.number for record in trials.running),
        "numbers": trials.numbers,
        "keys": trials.points.keys,
        "done": (trials.done_keys, trials.done_numbers),
    }


def read_at_once(study: SearchedStudy) -> dict[str, Any]:
    """Read the study as a process does that knows nothing of it yet, and by plain definitions."""
    kept = KeptTrials(study._storage, study.plan, study.id)
    fresh = StoredTrials(study._storage, study.plan, kept, study._session)
    fresh.read()
    found = state(fresh)
    current = effective(found["records"])
    assert found["current"] == current
    assert found["running"] == sorted(r.number for r in current if not r.finished)
    assert found["numbers"] == {record.number for record in found["records"]}
    assert found["keys"] == {record.key for record in found["records"]}
    done = [record for record in current if record.finished]
    others = {record.number for record in done if record.owner.session != study._session}
    assert found["done"] == ({record.key for record in done}, others)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_reading_piece_by_piece_is_reading_at_once(tmp_path: Path, seed: int) -> None:
    rng, plan = random.Random(seed), make_plan()
    with sessions(plan, tmp_path, 3) as studies:
        running: list[tuple[SearchedStudy, TrialRecord]] = []
        finished: list[tuple[SearchedStudy, TrialRecord]] = []
        for _ in range(60):
            study = rng.choice(studies)
            step = rng.random()
            if step < 0.45 or not running:
                claim = study.claim(SlotRequest(id="trial", ordinal=rng.choice([None, 3, 40])))
                if isinstance(claim, TrialRecord):
                    running.append((study, claim))
            elif step < 0.8:
                owner, record = running.pop(rng.randrange(len(running)))
                record = measured(record, plan, rng)
                owner.finish(record)
                finished.append((owner, record))
            elif step < 0.9:
                owner, record = running.pop(rng.randrange(len(running)))
                owner.give_back(record)
            elif finished:
                # A re-run plugin makes another attempt at it.
                owner, record = rng.choice(finished)
                running.append((owner, owner.again(record)))
            study.records()
            assert state(study._trials) == read_at_once(study)


def test_kept_trials_count_in_it(tmp_path: Path) -> None:
    narrow, wide = make_plan(high=499), make_plan()
    rng = random.Random(0)
    with sessions(narrow, tmp_path, 1) as (first,):
        for _ in range(5):
            claim = first.claim(SlotRequest(id="trial"))
            assert isinstance(claim, TrialRecord)
            first.finish(measured(claim, narrow, rng))
    with sessions(wide, tmp_path, 1) as (second,):
        assert len(second.records()) == 5
        claim = second.claim(SlotRequest(id="trial"))
        assert isinstance(claim, TrialRecord)
        assert claim.number == 5
        second.finish(measured(claim, wide, rng))
        second.records()
        assert state(second._trials) == read_at_once(second)


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, rng = make_plan(), random.Random(0)
    with sessions(plan, tmp_path, 2) as (ours, theirs):
        for _ in range(20):
            claim = theirs.claim(SlotRequest(id="trial"))
            assert isinstance(claim, TrialRecord)
            theirs.finish(measured(claim, plan, rng))
        ours.records()
        read: list[int] = []

        def watched(trial: Any, asked: Plan) -> TrialRecord:
            read.append(trial.number)
            return read_trial(trial, asked)

        monkeypatch.setattr("pytest_autotune.study.stored_trials.read_trial", watched)
        ours.records()
        assert read == []
        claim = theirs.claim(SlotRequest(id="trial"))
        assert isinstance(claim, TrialRecord)
        read.clear()
        assert len(ours.records()) == 21
        assert read == [20]
        theirs.finish(measured(claim, plan, rng))
        read.clear()
        # It ran at the last look, so it is looked at again, and never after it has ended.
        ours.records()
        ours.records()
        assert read == [20]


def test_a_trial_ends_while_another_process_proposes(postgres_url: str, tmp_path: Path) -> None:
    plan, rng = make_plan(storage=postgres_url), random.Random(0)
    with sessions(plan, tmp_path, 2) as (ours, theirs):
        claim = ours.claim(SlotRequest(id="trial"))
        assert isinstance(claim, TrialRecord)
        end = threading.Thread(target=ours.finish, args=(measured(claim, plan, rng),))
        with theirs._store.coordinator.mutex():
            end.start()
            end.join(timeout=30)
            assert not end.is_alive()
            assert [record.finished for record in theirs.records()] == [True]


def test_a_trial_that_ended_since_it_was_read_is_not_taken_over(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(storage=postgres_url)
    with sessions(plan, tmp_path, 2) as (first, second):
        taken = first.claim(SlotRequest(id="trial"))
        assert isinstance(taken, TrialRecord)
        coordinator = second._store.coordinator
        is_alive = coordinator.is_alive

        def ended_meanwhile(process: str) -> bool:
            # The second has read the trial as running, and asks now for its process.
            if process == first._process and first._mine:
                first.finish(ended(taken, plan, metrics={"cost": 1.0}))
                first.close()
            return is_alive(process)

        monkeypatch.setattr(coordinator, "is_alive", ended_meanwhile)
        other = second.claim(SlotRequest(id="trial"))
        assert isinstance(other, TrialRecord)
        assert (other.number, other.owner.attempt) == (1, 1)
        assert [record.finished for record in second.records()] == [True, False]


def test_a_process_that_seems_dead_in_the_middle_of_an_end_changes_no_other_end(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a machine that stands still for a minute: the server ends the connection of its locks.
    plan = make_plan(storage=postgres_url)
    with sessions(plan, tmp_path, 2) as (first, second):
        taken = first.claim(SlotRequest(id="trial"))
        assert isinstance(taken, TrialRecord)
        check = first._require_mine

        def stands_still(record: TrialRecord) -> None:
            check(record)
            first._store.coordinator.release()
            other = second.claim(SlotRequest(id="trial"))
            assert isinstance(other, TrialRecord)
            assert (other.number, other.owner.attempt) == (0, 2)
            second.finish(ended(other, plan, metrics={"cost": 1.0}))

        monkeypatch.setattr(first, "_require_mine", stands_still)
        with pytest.raises(TrialLostError, match="taken over by another process"):
            first.finish(ended(taken, plan, metrics={"cost": 2.0}))
        (record,) = second.records()
        assert (record.value, record.owner.attempt) == (1.0, 2)


def test_a_database_gives_its_lock_to_one_at_a_time(postgres_url: str) -> None:
    ours, theirs = (DatabaseCoordinator(postgres_url, "study") for _ in range(2))
    with ours.mutex():
        assert not theirs._take()
    assert theirs._take()
    assert not ours._take()
    # Nobody else has to wait for what one process alone may change.
    with ours.own():
        theirs.release()
    with ours.mutex():
        pass
    ours.release()
    with pytest.raises(StorageError), ours.own():
        pytest.fail("its connection is closed")
