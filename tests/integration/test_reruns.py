"""Plugins that run tests again, or several times: the last complete attempt decides a trial."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from gated import Gated
from project import SPEC, Project

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord, effective

#: Each plugin, with the options that let it run a failed test twice more.
PLUGINS = {
    "rerunfailures": ("-p", "pytest_rerunfailures", "--reruns", "2"),
    "flaky": ("-p", "flaky.flaky_pytest_plugin", "--force-flaky", "--max-runs", "3"),
    "retry": ("-p", "pytest_retry.retry_plugin", "--retries", "2"),
}
plugins = pytest.mark.parametrize("plugin", PLUGINS)
STUDY = {
    **SPEC,
    "parameters": {"a": [1, 2, 3, 4, 5]},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
    "constraints": [],
}
#: a=1 is right, a=2 wrong, a=3 wrong once; a=4 breaks the SLO, a=5 once. Each attempt reports
#: under a name of its own, too.
MODULE = """
TRIED = {}

def attempt(name, trial):
    key = name, trial.params["a"]
    TRIED[key] = TRIED.get(key, 0) + 1
    return TRIED[key]

@pytest.fixture(scope="module")
def loaded(trial):
    trial.report({"load_time": 3})

def test_right(trial, loaded):
    number = attempt("right", trial)
    assert trial.params["a"] != 2, "wrong answer"
    assert trial.params["a"] != 3 or number > 1, "wrong at first"

def test_fast(trial, loaded):
    number = attempt("fast", trial)
    mem = 99 if trial.params["a"] == 4 or (trial.params["a"] == 5 and number == 1) else 1
    trial.report({"cost": 10 * trial.params["a"] + number, f"attempt_{number}": 1})
    trial.report({"mem": mem})
"""


def _latest(project: Project) -> Sequence[TrialRecord]:
    found = effective(project.records(STUDY))
    assert [record.number for record in found] == [0, 1, 2, 3, 4]
    return found


@plugins
def test_the_last_attempt_decides_and_a_wrong_answer_is_red(project: Project, plugin: str) -> None:
    project.write(MODULE, STUDY)
    result = project.run(*PLUGINS[plugin], "-v", "--junitxml=out.xml", status=1)
    right, wrong, once_wrong, broken, once_broken = _latest(project)
    assert right.value == 11
    assert (wrong.outcome, "wrong answer" in wrong.reason) == (Outcome.FAILED, True)
    assert (once_wrong.outcome, once_wrong.value) == (Outcome.FEASIBLE, 31)
    assert broken.outcome is Outcome.INFEASIBLE
    assert (once_broken.outcome, once_broken.value) == (Outcome.FEASIBLE, 52)
    # Nothing is left of earlier attempts, but what a fixture reported that lives on.
    assert set(once_broken.metrics) == {"load_time", "cost", "attempt_2", "mem"}
    assert set(broken.metrics) == {"load_time", "cost", "attempt_3", "mem"}
    assert "FAILED test_study.py::test_right[a:2]" in result
    assert re.search(
        r"^(FAILED|INFEASIBLE mem 99 > 20) test_study\.py::test_fast\[a:4\]", result, re.MULTILINE
    )
    assert "2 failed" in result
    assert "trials   5 of 5: 3 feasible, 1 infeasible, 1 failed" in result
    assert "best     trial 0: a=1" in result
    # One line for each trial, and one value of each property for each test.
    assert result.count("\n  trial ") == 5
    for case in ET.parse(project.path / "out.xml").iter("testcase"):
        names = [each.get("name") for each in case.iter("property")]
        assert len(names) == len(set(names)), (case.get("name"), names)


@pytest.mark.parametrize("plugin", ["rerunfailures", "retry"])
def test_infeasible_trials_that_are_expected_are_not_run_again(
    project: Project, plugin: str
) -> None:
    project.write(MODULE, STUDY)
    options = (*PLUGINS[plugin], "--autotune-infeasible", "xfail", "-k", "not a:2")
    result = project.run(*options, status=0)
    assert "2 infeasible" in result.splitlines()[-1]
    assert "trials   4 of 5: 2 feasible, 2 infeasible" in result


def test_workers_run_tests_again_too(project: Project) -> None:
    project.write(MODULE, STUDY)
    result = project.run(*PLUGINS["rerunfailures"], "-n", "2", status=1)
    outcomes = [record.outcome.value for record in _latest(project)]
    assert outcomes == ["feasible", "failed", "feasible", "infeasible", "feasible"]
    assert "2 failed" in result


def test_an_attempt_that_is_stopped_leaves_the_result_of_the_one_before(project: Project) -> None:
    project.write(
        """
def test_it(trial):
    marker = pathlib.Path("tried")
    if marker.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    marker.touch()
    assert False, "wrong answer"
""",
        {**STUDY, "parameters": {"a": [1]}},
    )
    project.run(*PLUGINS["rerunfailures"], status=-9)
    (project.path / "tried").unlink()
    result = project.run(status=1)
    assert "trials   1 of 1: 1 failed" in result.replace("0 feasible, ", "")


def test_a_wrong_answer_in_one_of_many_repetitions_is_red(project: Project) -> None:
    project.write(
        """
COUNT = []

def test_right(trial):
    COUNT.append(trial.number)
    assert trial.number != 1 or COUNT.count(1) != 2, "wrong in the second of three"

def test_fast(trial):
    trial.report({f"cost": trial.number} if "cost" not in trial.metrics else {"other": 1})
""",
        {**STUDY, "slo": []},
    )
    result = project.run("-p", "pytest_repeat", "--count", "3", status=1)
    assert "FAILED test_study.py::test_right[a:2-2-3]" in result
    assert "trials   5 of 5: 4 feasible, 1 failed" in result
    # One repetition of three is no trial.
    looked = project.run("-p", "pytest_repeat", "--count", "3", "-k", "1-3", "--autotune-fresh")
    left_out = "2 of 3 cases of test_right, 2 of 3 cases of test_fast"
    assert f"4 looks at trials 1-4, not stored: the run left out {left_out}" in looked
    assert "trials   0 of 5: 0 feasible" in looked


def test_a_crash_is_not_run_again_by_others_than_us(project: Project) -> None:
    project.write(
        """
def test_it(trial):
    marker = pathlib.Path("crashed")
    if trial.number == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    trial.report({"cost": trial.number, "mem": 1})
""",
        STUDY,
    )
    result = project.run(*PLUGINS["rerunfailures"], "-n", "2", status=(0, 1))
    assert "trials   5 of 5: 5 feasible" in result


@pytest.mark.parametrize(
    "loaded", [("retry",), ("rerunfailures", "flaky"), ("rerunfailures", "retry"), tuple(PLUGINS)]
)
def test_the_first_attempt_decides_in_a_gate_run(gated: Gated, loaded: Sequence[str]) -> None:
    gated.write(
        "test_kernel.py",
        """
        import pytest

        TRIED = []
        pytestmark = pytest.mark.autotune("kernel")

        def test_right(trial):
            TRIED.append(trial.number)
            assert len(TRIED) > 1, "wrong at first"

        def test_cost(trial):
            trial.report({"cost": 1.0})
        """,
    )
    options = [option for name in loaded for option in PLUGINS[name]]
    text = gated.run("--autotune-gate", "-v", *options, status=1)
    assert "FAILED test_kernel.py::test_right[pinned] - AssertionError: wrong at first" in text
    # The comparison has no result either, and is not repeated.
    assert text.count("test_kernel.py::gate ") == 1
    assert "RERUN" not in text
    assert "RETRY" not in text
    assert "TypeError" not in text
