"""Killed at any moment, a study goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from typing import Any

import pytest
from inner import kill
from project import SPEC, Project

from pytest_autotune.text.values import parameters

BUDGET: int = SPEC["optimization"]["max_iterations"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose study was run to its end."""
    made = Project(tmp_path_factory.mktemp("whole"))
    made.write()
    made.run(status=1)
    return made


@pytest.fixture
def finished(whole: Project, project: Project) -> Project:
    """A copy of a project whose study was run to its end."""
    shutil.copytree(whole.path, project.path, dirs_exist_ok=True)
    return project


def _kill_at_random(project: Project, seed: int, *args: str) -> None:
    """Start a run and kill it some milliseconds after some trial has completed."""
    rng = random.Random(seed)
    trials, pause = rng.randrange(BUDGET), rng.uniform(0.0, 0.08)
    process = project.start(*args)
    limit = time.monotonic() + 30
    while len(project.completed()) < trials and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    time.sleep(pause)
    kill(process)


def kill_points(first: int) -> list[Any]:
    """Return seeds of 20 moments at which a run is killed, of which all but three are slow."""
    return [
        pytest.param(first + number, marks=pytest.mark.slow if number >= 3 else [])
        for number in range(20)
    ]


@pytest.mark.parametrize("seed", kill_points(0))
def test_a_killed_serial_run_resumes_to_the_same_trials(
    project: Project, whole: Project, seed: int
) -> None:
    project.write(sleep=0.03)
    _kill_at_random(project, seed)
    before = [record for record in project.records() if record.finished]
    ran_before = len(project.completed())
    project.run(status=(0, 1))
    after = project.records()
    assert after[: len(before)] == before
    assert project.trials() == whole.trials()
    ran_again = set(project.completed()[ran_before:])
    finished = {" ".join(map(str, record.params.values())) for record in before}
    assert not ran_again & finished


@pytest.mark.parametrize("seed", kill_points(100))
def test_a_killed_parallel_run_loses_nothing_and_repeats_nothing(
    project: Project, seed: int
) -> None:
    project.write(sleep=0.03)
    _kill_at_random(project, seed, "-n", "2")
    before = {r.number: r for r in project.records() if r.finished}
    ran_before = len(project.completed())
    project.run("-n", "2", status=(0, 1))
    after = project.records()
    assert {r.number: r for r in after if r.number in before} == before
    assert [record.finished for record in after] == [True] * BUDGET
    assert len({record.key for record in after}) == BUDGET
    ran_again = set(project.completed()[ran_before:])
    finished = {" ".join(map(str, record.params.values())) for record in before.values()}
    assert not ran_again & finished


def test_an_interrupt_leaves_the_trial_to_the_next_run_without_counting_it(
    project: Project,
) -> None:
    project.write("""
def test_it(trial):
    marker = pathlib.Path("interrupted")
    if trial.number == 2 and not marker.exists():
        marker.touch()
        raise KeyboardInterrupt
    trial.report({"cost": 1.0, "mem": 1})
""")
    first = project.run(status=pytest.ExitCode.INTERRUPTED)
    assert "1 interrupted, to be run again" in first
    assert "run again to resume" in first
    interrupted = project.records()[2]
    assert (interrupted.finished, interrupted.owner.attempt) == (False, 0)
    second = project.run(status=pytest.ExitCode.OK)
    assert "12 of 12" in second
    assert [record.owner.attempt for record in project.records()] == [1] * BUDGET


def test_a_trial_that_kills_its_process_every_time_is_given_up(project: Project) -> None:
    project.write("""
def test_it(trial):
    if trial.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    trial.report({"cost": 1.0, "mem": 1})
""")
    for attempt in (1, 2, 3):
        again = project.run("-q", status=-9)
        assert (f"runs again, as its process died: attempt {attempt} of 3" in again) == (
            attempt > 1
        )
    last = project.run("-q", status=pytest.ExitCode.TESTS_FAILED)
    configuration = parameters(project.records()[1].params)
    reason = f"the process running it died 3 times, with {configuration}"
    assert f"\ntrial 1: {reason}\n" in last
    assert "ERROR test_study.py::test_it[trial-001] - trial 1: the process" in last
    assert f"failures 1 × {reason} (trial 1)" in last
    assert "12 of 12: 11 feasible, 1 failed" in last
    records = project.records()
    assert [record.outcome.value for record in records].count("feasible") == BUDGET - 1
    assert records[1].outcome.value == "failed"
    assert "died 3 times" in records[1].reason


def test_a_finished_study_is_not_run_again_until_asked_for(finished: Project) -> None:
    again = finished.run(status=pytest.ExitCode.OK)
    assert "no tests ran" in again
    assert "12 of 12" in again
    assert "12 of them in earlier runs" in again
    more = finished.run("--autotune-trials", "14")
    assert "14 of 14" in more
    fresh = finished.run("--autotune-fresh")
    assert "earlier runs" not in fresh
    assert len(finished.completed()) > BUDGET


def test_another_seed_says_that_it_comes_too_late_and_repeats_with_the_first(
    finished: Project,
) -> None:
    again = finished.run("--autotune-seed", "5", status=pytest.ExitCode.OK)
    assert "note     the study began with seed 0; only further trials use seed 5 (" in again
    assert "--autotune-seed 0 --autotune-trials 12" in again


def test_a_changed_question_says_what_was_kept(finished: Project) -> None:
    parameters = {**SPEC["parameters"], "c": ["x", "y", "z"]}
    changed = {**SPEC, "parameters": parameters, "slo": [{"metric": "mem", "max": 25}]}
    finished.write(spec=changed)
    result = finished.run()
    said = 'judged by the new SLO and space: mem ≤ 20 → ≤ 25; parameter c: "z" added'
    assert f"12 trials kept, {said}" in result
    assert "12 of 12" in result
    assert len(finished.records(changed)) == BUDGET


def test_a_changed_test_module_starts_a_new_study(finished: Project) -> None:
    text = (finished.path / "test_study.py").read_text()
    (finished.path / "test_study.py").write_text(text + "# changed\n")
    assert "no tests ran" in finished.run()
    (finished.path / "test_study.py").write_text(text + "CHANGED = True\n")
    kept = finished.run("--autotune-keep")
    assert "no tests ran" in kept
    said = "12 trials of earlier code kept by --autotune-keep (test_study.py changed since)"
    assert said in kept


def test_a_damaged_log_keeps_everything_before_the_damage(finished: Project) -> None:
    (journal,) = finished.path.glob(".pytest_cache/autotune/*/trials.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    journal.write_bytes(b"".join([*lines[:middle], b'{"op_code": 5, gar\n', *lines[middle:]]))
    result = finished.run(status=(0, 1))
    assert f"line {middle + 1} of the trial log was damaged" in result
    assert "12 of 12" in result
    damaged = json.loads(lines[0])
    assert damaged["op_code"] == 0
    (saved,) = journal.parent.glob("*.damaged-1")
    assert len(saved.read_bytes().splitlines()) == len(lines) + 1


def test_a_log_cut_off_in_mid_line_is_mended(finished: Project) -> None:
    (journal,) = finished.path.glob(".pytest_cache/autotune/*/trials.journal")
    journal.write_bytes(journal.read_bytes()[:-7])
    result = finished.run()
    assert "of the trial log was damaged" in result
    assert "12 of 12" in result
    assert len({record.key for record in finished.records()}) == BUDGET


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="a process cannot be bound to a part of one CPU",
)
def test_a_test_that_binds_itself_to_a_cpu_changes_no_study(project: Project) -> None:
    spec = {"parameters": {"a": [1, 2]}, "optimization": {"objective": "minimize:cost"}}
    project.write(
        "def test_it(trial):\n"
        "    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "    trial.report({'cost': trial.params['a']})\n",
        spec,
    )
    shutil.copy(project.path / "test_study.py", project.path / "test_later.py")
    text = project.run(status=0)
    assert text.count("2 of 2: 2 feasible") == 2
    # Its own study is no other machine's.
    assert "hardware" not in text
    text = project.run("test_later.py", status=0)
    assert "2 of 2: 2 feasible; 2 of them in earlier runs" in text
