"""A study without a feasible configuration is red everywhere, and 100 trials are readable."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from project import SPEC, Project
from serving import Serving

MODULE = """
def test_right(trial):
    pass


def test_fast(trial):
    a = trial.params["a"]
    trial.report({"cost": 1.0, "ttft": {"p99": 0.3 if a else 0.1}})
"""


def spec(trials: int, first: int = 1) -> dict[str, object]:
    return {
        "parameters": {"a": list(range(first, first + trials))},
        "optimization": {"objective": "minimize:cost", "max_iterations": trials},
        "slo": [{"metric": "ttft", "statistic": "p99", "max": "200ms"}],
    }


def xml(path: Path) -> ET.Element:
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    return suite


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_study_without_a_feasible_trial_is_red_under_xfail(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.write(MODULE, spec(4))
    report = project.path / "junit.xml"
    text = project.run(
        *workers, "--autotune-infeasible", "xfail", "--junitxml", str(report), status=1
    )
    assert re.search(r"= 1 failed, 4 passed, 4 infeasible in ", text.splitlines()[-1])
    line = "FAILED test_study.py - no trial was feasible"
    lines = text.splitlines()
    assert line in lines
    # The study's own summary comes after it, and nothing but pytest's last line after that.
    assert lines.index(line) < next(n for n, each in enumerate(lines) if "= autotune: " in each)
    assert lines[-2].startswith(("again ", "         pytest "))
    suite = xml(report)
    assert suite.get("failures") == "1"
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "no trial was feasible"
    assert "ttft p99 ≤ 200 ms: the best of 4 trials reached 300 ms" in (failure.text or "")
    # Nothing is remembered as a test to repeat.
    failed = project.path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    assert not failed.exists() or json.loads(failed.read_text()) == {}
    # It stays red when nothing is left to run.
    again = project.run("--autotune-infeasible", "xfail", "-q", status=1)
    assert line in again
    assert re.search(r"^1 failed in ", again.splitlines()[-1])


def test_a_red_study_is_not_counted_twice(project: Project) -> None:
    project.write(MODULE, spec(4))
    text = project.run("-q", status=1)
    assert re.search(r"^4 failed, 4 passed in ", text.splitlines()[-1])
    assert "FAILED test_study.py -" not in text


@pytest.mark.parametrize("arguments", [(), ("-v",), ("-n", "2"), ("-q",)])
def test_infeasible_trials_take_a_line_each(project: Project, arguments: tuple[str, ...]) -> None:
    project.write(MODULE, spec(30, first=0))
    text = project.run(*arguments, "--autotune-strategy", "random", COLUMNS="80", status=1)
    lines = text.splitlines()
    short = [line for line in lines if line.startswith("INFEASIBLE")]
    assert len(short) == 29
    known = re.compile(
        r"INFEASIBLE ttft p99 300 ms > 200 ms test_study\.py::test_fast\[trial-0\d\d\]"
    )
    assert all(known.fullmatch(line) for line in short)
    assert sum(line.startswith("SLO ") for line in lines) == 3
    assert len([line for line in lines if "___ test_fast" in line]) == 3
    summary = next(n for n, line in enumerate(lines) if "= autotune: " in line)
    assert lines.index(short[-1]) < summary
    assert "29 failed, 31 passed" in lines[-1]


BROKEN = """
def test_fast(trial):
    if not pathlib.Path("fixed").exists():
        raise RuntimeError(f"no device {trial.number}")
    trial.report({"cost": trial.params["a"], "mem": 1})
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_same_failure_stops_a_study_and_is_repeated_by_the_next_run(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.write(BROKEN)
    text = project.run(*workers, status=1)
    assert "best     none: every trial failed in the same way" in text
    assert "cause    RuntimeError: no device " in text
    # One more may have been running.
    first = project.records()
    assert len(first) in ({3, 4} if workers else {3})
    again = project.run(*workers, status=1)
    assert "note     the trials of the last run all failed in the same way: others came" in again
    second = project.records()
    assert len(second) in ({3, 4} if workers else {3})
    assert {record.key for record in first}.isdisjoint(record.key for record in second)
    (project.path / "fixed").touch()
    fixed = project.run(*workers, status=0)
    assert "12 of 12: 12 feasible" in fixed
    assert "earlier runs" not in fixed
    assert sorted(record.number for record in project.records()) == list(range(12))
    assert "no tests ran" in project.run(*workers, status=0)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_corner_that_fails_alike_is_left_and_tried_last(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.write(
        """
def test_fast(trial):
    assert trial.params["a"] > 5, "out of memory"
    trial.report({"cost": trial.params["a"], "mem": 1})
""",
        {
            "parameters": {"a": [1, 2, 3, 4, 5, 6, 7, 8]},
            "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
        },
    )
    text = project.run(*workers, "-v", status=1)
    assert "they do not count, and the next run begins with others" in text
    if not workers:
        ran = re.findall(r"^test_study.py::test_fast\[a:(\d)\]", project.run("-v"), re.MULTILINE)
        # Once one works, the others have their turn.
        assert ran == ["4", "5", "6", "1", "2", "3", "7", "8"]
    else:
        assert "trials   8 of 8: 3 feasible, 5 failed" in project.run(*workers)
    assert "no tests ran" in project.run(*workers, status=0)


def test_a_failure_that_one_trial_does_not_share_does_not_stop_a_study(project: Project) -> None:
    project.write(BROKEN.replace("if not", "if trial.number != 2 and not"))
    text = project.run(status=1)
    assert "trials   12 of 12: 1 feasible, 11 failed" in text
    assert "failures 11 × RuntimeError: no device 0 (trials 0, 1, 3 and 8 more)" in text
    assert "no tests ran" in project.run(status=0)


def test_trials_that_only_missed_a_misspelled_metric_count_once_it_is_corrected(
    project: Project,
) -> None:
    slo = {"metric": "men", "max": 5}
    project.write(BROKEN, {**SPEC, "slo": [slo]})
    (project.path / "fixed").touch()
    text = project.run(status=1)
    assert "cause    men was not reported (did you mean 'mem'?); reported: mem, cost" in text
    project.write(BROKEN, {**SPEC, "slo": [{**slo, "metric": "mem"}]})
    text = project.run(status=0)
    assert "note     3 trials kept, judged by the new SLO" in text
    assert "12 of 12: 12 feasible; 3 of them in earlier runs" in text


def test_the_cause_of_a_server_that_does_not_start_is_its_last_word(serving: Serving) -> None:
    program = "import sys; print('loading', flush=True); sys.exit('unknown flag --tp-sise')"
    server = {"command": [sys.executable, "-c", program, "{port}"], "startup_timeout": 10}
    serving.write(server, parameters={"ttft": [0.01, 0.02, 0.03, 0.04]})
    lines = serving.run(status=1).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("cause "))
    assert re.fullmatch(r"cause    server crashed at start: process \d+: exit status 1", lines[at])
    assert lines[at + 1] == "         unknown flag --tp-sise"
    assert lines[at + 2].startswith(f"server   {sys.executable} -c ")
    assert lines[at + 3] == "trials   3 of 4: 0 feasible, 3 failed"
