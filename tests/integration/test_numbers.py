"""The number of a trial and the id of its tests agree, whoever runs it and in whatever order."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from project import SPEC, Project

Run = Callable[..., pytest.RunResult]
BUDGET: int = SPEC["optimization"]["max_iterations"]
MODULE = """
def test_correct(trial, request):
    assert f"[trial-{trial.number:03d}]" in request.node.nodeid
    assert f"[trial-{trial.number:03d}]" in os.environ["PYTEST_CURRENT_TEST"]

def test_fast(trial):
    CRASH
    trial.report({"cost": -trial.number, "mem": trial.params["a"] * 5})
"""


def _tests(junit: Path) -> Iterator[tuple[str, str]]:
    """Yield the number and the name of each test in a JUnit file that ran for a trial."""
    for case in ET.parse(junit).iter("testcase"):
        for each in case.iter("property"):
            if each.get("name") == "autotune_trial":
                yield str(each.get("value")), str(case.get("name"))


def _check(project: Project, printed: str, numbers: Sequence[int] | None = None) -> None:
    """Check that the numbers agree in the terminal, in JUnit and in the cache."""
    assert "spare" not in printed
    found = list(_tests(project.path / "out.xml"))
    assert found
    for number, name in found:
        assert f"[trial-{int(number):03d}]" in name
    lines = r"test_fast\[trial-(\d+)\].*\n  trial (\d+) \["
    assert all(int(slot) == int(number) for slot, number in re.findall(lines, printed))
    kept = json.loads((project.path / ".pytest_cache/v/autotune/slots").read_text())[
        "test_study.py"
    ]
    records = project.records()
    assert {f"trial-{r.number:03d}": r.params for r in records} == kept
    assert [r.number for r in records] == list(numbers or range(len(records)))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_numbers_agree_with_workers_shuffled_tests_a_crash_and_when_resumed(
    project: Project, seed: int
) -> None:
    # Twice: the second time it runs in another slot.
    crash = """
    crashes = len(list(pathlib.Path().glob("crashed-*")))
    if trial.number == 3 and crashes < 2:
        pathlib.Path(f"crashed-{crashes}").touch()
        os.kill(os.getpid(), signal.SIGKILL)"""
    project.write(MODULE.replace("CRASH", crash))
    shuffled = ("-p", "pytest_randomly", f"--randomly-seed={seed}", "-v", "--junitxml=out.xml")
    first = project.run("-n", "2", *shuffled, "--autotune-trials", "6")
    assert "6 of 6" in first
    assert first.count("crashed while running 'test_study.py::test_fast[trial-003]'") == 2
    assert first.count("FAILED test_study.py::test_fast[trial-003] - worker 'gw") == 2
    _check(project, first)
    second = project.run(*shuffled, status=(0, 1))
    assert "12 of 12" in second
    _check(project, second)
    # Nothing ran in another order than that of the numbers.
    ran = [int(number) for number, name in _tests(project.path / "out.xml") if "fast" in name]
    assert ran == [6, 7, 8, 9, 10, 11]
    lower = project.run("--autotune-trials", "8", status=(0, 1))
    assert "12, 4 over the budget: " in lower
    assert "earlier runs used more than the budget of 8 trials" in lower


def test_an_orphan_keeps_its_number_in_another_slot(project: Project) -> None:
    project.write("""
def test_it(trial):
    marker = pathlib.Path("stopped")
    if not marker.exists():
        marker.touch()
        raise KeyboardInterrupt
    assert trial.number != 5
    trial.report({"cost": 1, "mem": 1})
""")
    project.run("test_study.py::test_it[trial-005]", status=pytest.ExitCode.INTERRUPTED)
    # There is no slot of that number now: the first one takes the trial up again.
    few = ("-v", "--autotune-trials", "3")
    result = project.run(*few, "--junitxml=out.xml", status=1)
    assert "test_study.py::test_it[trial-005] FAILED" in result
    assert "FAILED test_study.py::test_it[trial-005]" in result
    assert [name for _, name in _tests(project.path / "out.xml")] == [
        "test_it[trial-005]", "test_it[trial-001]", "test_it[trial-002]",
    ]  # fmt: skip
    _check(project, result, [1, 2, 5])
    failed = json.loads((project.path / ".pytest_cache/v/cache/lastfailed").read_text())
    assert list(failed) == ["test_study.py::test_it[trial-005]"]
    again = project.run("-v", "--lf", status=1)
    assert "test_study.py::test_it[trial-005] FAILED" in again


def test_a_grids_number_is_the_place_in_the_grid(study: Run) -> None:
    module = "def test_it(trial): trial.report({'cost': trial.params['a']})"
    first = study(module, "-v", "-k", "a:3")
    first.stdout.fnmatch_lines(["*test_it?a:3? PASSED*", "  trial 2 ?a=3? cost 3; best so far"])
    second = study(module, "-v", "-n", "2")
    second.stdout.no_fnmatch_line("*spare*")
    lines = [line.split("]")[0] for line in second.outlines if line.startswith("  trial ")]
    assert sorted(lines) == ["  trial 0 [a=1", "  trial 1 [a=2", "  trial 3 [a=4"]


def test_the_best_so_far_never_gets_worse_under_workers(project: Project) -> None:
    project.write("""
def test_it(trial):
    # The better a trial, the later its line arrives beside that of the other worker.
    time.sleep(0.05 * (trial.number % 3))
    trial.report({"cost": 100 - trial.number, "mem": 1})
""")
    result = project.run("-n", "2", "-v", status=pytest.ExitCode.OK)
    best = 1000
    lines = re.findall(r"^  trial (\d+) .*cost (\d+); best so far ?(\d*)", result, re.MULTILINE)
    assert len(lines) == BUDGET
    for _, own, other in lines:
        assert int(other or own) <= best
        best = int(other or own)
