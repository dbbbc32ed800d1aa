"""Ctrl-C at any moment: exit status 2, no traceback, nothing left, and the next run goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from gated import Gated
from inner import Runs
from project import SPEC, Project
from serving import Serving, eventually, process

BUDGET: int = SPEC["optimization"]["max_iterations"]
#: Presses Ctrl-C at chosen moments of the first run.
MODULE = """
def press(moment):
    if moment in os.environ.get("MOMENTS", "").split():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def watched(trial):
    yield
    if trial.number == 2:
        press("teardown")
        press("teardown")


def test_it(trial, watched):
    if trial.number == 2:
        press("test")
        exec("press('text')")
    trial.report({"cost": 1.0, "mem": 1})
"""
CONFTEST = """
import pytest
from test_study import press


def pytest_keyboard_interrupt():
    press("handling")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    press("finish")


def pytest_terminal_summary():
    press("summary")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    press("end")
"""


@pytest.mark.parametrize(
    ("moments", "interrupted"),
    [
        ("test handling teardown finish summary end", 1),
        ("text end", 1),
        ("finish", 0),
    ],
)
def test_an_interrupt_ends_the_run_however_often_it_comes(
    project: Project, moments: str, interrupted: int
) -> None:
    project.write(MODULE)
    (project.path / "conftest.py").write_text(CONFTEST)
    first = project.run(status=2, MOMENTS=moments)
    assert "Traceback" not in first
    assert ("1 interrupted, to be run again" in first) == bool(interrupted)
    assert [r.owner.attempt for r in project.records() if not r.finished] == [0] * interrupted
    assert "12 of 12" in project.run(status=0)
    assert [record.owner.attempt for record in project.records()] == [1] * BUDGET


def _press(run: int, *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(run, signal.SIGINT)


def _with_variable(text: str) -> list[int]:
    """Return the processes that have ``text`` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


#: Arguments, whether workers get the signal too, and how often it comes.
WAYS = {
    "serial": ([], False, 1),
    "serial, twice": ([], False, 2),
    "serial, seven times": ([], False, 7),
    "two workers": (["-n", "2"], False, 1),
    "two workers, terminal": (["-n", "2"], True, 1),
    "two workers, terminal, twice": (["-n", "2"], True, 2),
}


def _interrupted(project: Runs, way: str, rng: random.Random, *more: str) -> None:
    """Interrupt a run at a random moment once its session has begun."""
    arguments, group, times = WAYS[way]
    run = project.start(*more, *arguments, MARK=f"{project.path}")
    eventually(lambda: "test session starts" in project.output(), 60)
    time.sleep(rng.uniform(0, 2.5))
    ended = run.poll() is not None
    for _ in range(times):
        _press(run.pid, group=group)
        time.sleep(rng.uniform(0, 0.3))
    status, text = run.wait(timeout=60), project.output()
    # One that had shown its result keeps its status.
    assert status == 2 or ended or " in " in text.splitlines()[-1], (status, text)
    assert status in {0, 1, 2}, (status, text)
    assert "Traceback" not in text, text


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(7))
def test_an_interrupt_at_a_random_moment(project: Project, way: str, seed: int) -> None:
    project.write(sleep=0.03)
    _interrupted(project, way, random.Random(f"{way}{seed}"))
    eventually(lambda: not _with_variable(f"MARK={project.path}"))
    assert not list(project.path.glob(".pytest_cache/d/autotune/*/owners/*"))
    project.run(*WAYS[way][0], status=(0, 1))
    assert [record.owner.attempt for record in project.records()] == [1] * BUDGET
    assert all(record.finished for record in project.records())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_an_interrupt_leaves_no_server(serving: Serving, way: str, seed: int) -> None:
    serving.write(process("--spawn-child"))
    _interrupted(serving, way, random.Random(f"{way}{seed}"))
    eventually(lambda: not _with_variable(f"MARK={serving.path}"), 20)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_leaves_nothing_of_a_gate(gated: Gated, way: str) -> None:
    gated.kernel("(__import__('time').sleep(seed and 0.1) or 1)")
    gate = ("--autotune-gate", "--autotune-against=HEAD")
    _interrupted(gated, way, random.Random(way), *gate)
    eventually(lambda: not _with_variable(f"MARK={gated.path}"), 20)
    assert gated.leftovers() == []
