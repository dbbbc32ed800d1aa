"""Studies under pytest-xdist."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from inner import INSTALLED_PLUGINS
from project import SPEC, Project

Run = Callable[..., pytest.RunResult]
BUDGET: int = SPEC["optimization"]["max_iterations"]


#: Almost every strategy and number of workers; all of their pairs are slow.
QUICK = [("0", "auto"), ("1", "random"), ("2", "bayesian")]
PAIRS = itertools.product(["0", "1", "2", "8"], ["auto", "random", "bayesian", "grid_search"])


@pytest.mark.parametrize(
    ("workers", "strategy"),
    [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_any_number_of_workers_meets_the_budget_without_repeating(
    project: Project, workers: str, strategy: str
) -> None:
    result = project.run(
        "-n",
        workers,
        "--autotune-strategy",
        strategy,
        "-W",
        "error",
        status=pytest.ExitCode.TESTS_FAILED,
    )
    assert "12 of 12" in result
    records = project.records()
    assert [record.number for record in records] == list(range(BUDGET))
    assert len({record.key for record in records}) == BUDGET
    assert all(record.finished for record in records)


def test_each_trial_stays_whole_on_one_worker(project: Project) -> None:
    project.write("""
@pytest.fixture(scope="module")
def server(trial):
    pathlib.Path(f"up-{trial.number}-{os.getpid()}").touch(exist_ok=False)
    return os.getpid()

@pytest.mark.parametrize("size", [1, 2])
def test_correct(trial, server, size):
    assert server == os.getpid()

def test_fast(trial, server):
    time.sleep(0.02)
    assert server == os.getpid()
    trial.report({"cost": trial.number, "mem": 1})
""")
    result = project.run("-n", "3", status=pytest.ExitCode.OK)
    assert len(list(project.path.glob("up-*"))) == BUDGET
    assert f"{3 * BUDGET} passed" in result


def test_no_worker_is_idle_behind_a_slow_trial(project: Project) -> None:
    project.write("""
def test_it(trial):
    here = pathlib.Path()
    limit = time.monotonic() + 60
    # The first trial takes as long as all others together.
    while trial.number == 0 and len(list(here.glob("ran-*"))) < 11 and time.monotonic() < limit:
        time.sleep(0.01)
    (here / f"ran-{os.getpid()}-{trial.number}").touch()
    trial.report({"cost": trial.number, "mem": 1})
""")
    result = project.run("-n", "2")
    assert "12 of 12" in result
    by_worker: dict[str, int] = {}
    for path in project.path.glob("ran-*"):
        worker = path.name.split("-")[1]
        by_worker[worker] = by_worker.get(worker, 0) + 1
    # While one ran the slow trial, the other ran all that the budget had left.
    assert sorted(by_worker.values()) == [1, BUDGET - 1]


@pytest.mark.parametrize("tests", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_crashed_workers_trial_is_run_again(project: Project, tests: int) -> None:
    check = "def test_check(trial): crash(trial)\n" if tests == 2 else ""
    speed = "" if tests == 2 else "    crash(trial)\n"
    project.write(f"""
def crash(trial):
    marker = pathlib.Path("crashed")
    if trial.number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

{check}
def test_speed(trial):
{speed}    trial.report({{"cost": trial.number, "mem": 1}})
""")
    result = project.run(
        "-n", "2", status=pytest.ExitCode.TESTS_FAILED
    )  # xdist reports the crash itself
    assert "worker 'gw" in result
    assert "1 failed" in result
    assert "12 of 12: 12 feasible" in result
    records = project.records()
    assert len({record.key for record in records}) == BUDGET
    assert [r.owner.attempt for r in records] == [2 if r.number == 3 else 1 for r in records]


def test_a_trial_that_crashes_every_worker_fails_and_the_study_goes_on(project: Project) -> None:
    # One test in a trial: a successor of the only worker needs two of them to begin.
    project.write("""
def test_it(trial):
    if trial.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    trial.report({"cost": trial.number, "mem": 1})
""")
    result = project.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    assert result.count("FAILED test_study.py::test_it[trial-001] - worker 'gw") == 3
    reason = "the process running it died 3 times, with a="
    assert f"trial 1: {reason}" in result
    assert f"failures 1 × {reason}" in result
    assert "12 of 12: 11 feasible, 1 failed" in result


def test_a_crash_in_the_last_trial_is_made_good_by_a_waiting_worker(project: Project) -> None:
    project.write("""
def test_it(trial):
    marker = pathlib.Path("crashed")
    if trial.number == 11 and not marker.exists():
        marker.touch()
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    trial.report({"cost": trial.number, "mem": 1})
""")
    result = project.run("-n", "2")
    assert "12 of 12: 12 feasible" in result


def test_a_bad_spec_ends_a_distributed_run_in_one_message(study: Run) -> None:
    result = study("def test_it(trial): pass", "-n", "2", parametres={"a": [1]})
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: *: autotune marker: /parametres: unknown key 'parametres' (did you mean *"]
    )
    assert "INTERNALERROR" not in result.stdout.str()


def test_ordinary_tests_are_distributed_as_ever(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_other="""
        import pytest
        @pytest.mark.parametrize("i", range(20))
        def test_other(i, record_property): pass
        """
    )
    result = study("def test_it(trial): trial.report({'cost': 1})", "-n", "2", "-v")
    result.assert_outcomes(passed=24)
    other = re.findall(r"\[(gw\d)\].*test_other\[", result.stdout.str())
    assert set(other) == {"gw0", "gw1"}


def test_live_lines_come_from_every_worker_and_progress_ends_at_one_hundred_percent(
    project: Project,
) -> None:
    # As users run it, with all plugins that are installed.
    first = project.run("-n", "2", "-v", **INSTALLED_PLUGINS)
    lines = re.findall(r"^  trial (\d+) \[a=", first, re.MULTILINE)
    assert sorted(map(int, lines)) == list(range(BUDGET))
    second = project.run("-n", "2", "-v", "--autotune-trials", "15")
    for result in (first, second):
        shown = [int(number) for number in re.findall(r"\[ *(\d+)%\]", result)]
        assert max(shown) == 100


def test_the_controller_forgets_what_has_ended(project: Project) -> None:
    project.write()
    (project.path / "conftest.py").write_text("""
MOST = 0


def pytest_runtest_logreport(report):
    global MOST
    if hasattr(report, "node"):
        work = report.node.config.pluginmanager.getplugin("dsession").sched.assigned_work
        MOST = max(MOST, *map(len, work.values()))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"at most {MOST} units")
""")
    text = project.run("-n", "1", status=1)
    assert "12 of 12" in text
    # What runs, and what begins next.
    found = re.search(r"^at most ([0-9]+) units$", text, re.MULTILINE)
    assert found is not None
    assert 1 <= int(found[1]) <= 4
