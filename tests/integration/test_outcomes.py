"""The events of a test decide the outcome of its trial and of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from pytest_autotune.errors import StorageError, TrialLostError
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.searched import SearchedStudy

Run = Callable[..., pytest.RunResult]
SLO = [{"metric": "mem", "max": 2}]


def test_feasible_trials_pass_and_the_best_is_shown(study: Run) -> None:
    result = study("""
        def test_it(trial):
            trial.report({"cost": abs(trial.params["a"] - 3) + 0.5})
        """)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "best * trial 2: a=3",
            " * cost 0.5 (minimize:cost)",
            "trials * 4 of 4: 4 feasible",
            "stopped * every valid combination has been tried",
            "again * pytest --autotune test_study.py --autotune-fresh *",
            " * pytest --autotune 'test_study.py::test_it?a:3?'",
        ]
    )


def test_the_better_value_wins_when_maximizing(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            trial.report({"rate": trial.params["a"] * 10})
        """,
        optimization={"objective": "maximize:rate", "strategy": "grid_search"},
    )
    result.stdout.fnmatch_lines(["best * trial 3: a=4", " * rate 40 (maximize:rate)"])


def test_a_hard_violation_fails_with_the_slo_table_as_its_message(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            trial.report({"cost": 1.0, "mem": trial.params["a"]})
        """,
        slo=SLO,
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "trial 3 is infeasible: mem 4, limit ≤ 2",
            "SLO  limit  actual * margin",
            "mem * ≤ 2 * 4 * -100.0 %  BROKEN",
            "trials * 2 feasible, 2 infeasible",
        ]
    )
    result.stdout.fnmatch_lines(["INFEASIBLE mem 3 > 2 test_study.py::test_it?a:3?"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*def test_it*")


@pytest.mark.parametrize("how", ["option", "ini", "spec"])
def test_infeasible_trials_can_be_a_status_of_their_own(
    study: Run, pytester: pytest.Pytester, how: str
) -> None:
    optimization = {"objective": "minimize:cost", "strategy": "grid_search"}
    args = []
    if how == "option":
        args = ["--autotune-infeasible", "xfail"]
    elif how == "ini":
        pytester.makeini("[pytest]\nautotune_infeasible = xfail")
    else:
        optimization["infeasible"] = "xfail"
    result = study(
        """
        def test_it(trial):
            trial.report({"cost": 1.0, "mem": trial.params["a"]})
        """,
        *args,
        slo=SLO,
        optimization=optimization,
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*test_study.py ..ii*", "*2 passed, 2 infeasible*"])


def test_no_feasible_configuration_fails_the_run_and_names_the_tightest_slo(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            a = trial.params["a"]
            trial.report({"cost": 1.0, "ttft": {"p99": 1.0 / a}, "mem": a})
        """,
        "--autotune-infeasible=xfail",
        slo=[{"metric": "ttft", "statistic": "p99", "max": 0.1}, {"metric": "mem", "max": 3}],
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "best * none: no trial was feasible",
            "tightest ttft p99 ≤ 100 ms: the best of 4 trials reached 250 ms; trial 3 came *(a=4)",
        ]
    )


def test_soft_violations_pass_and_are_penalized(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            a = trial.params["a"]
            trial.report({"latency": {"mean": 1.0 / a, "p99": 2.0 if a == 4 else 1.0}})
        """,
        slo={"latency": {"p99": {"threshold": 1.0}}},
        optimization={"objective": "minimize_latency", "strategy": "grid_search"},
    )
    assert result.ret == pytest.ExitCode.OK
    # a=4 is fastest, but pays for its tail.
    result.stdout.fnmatch_lines(["best * trial 2: a=3", "trials * 4 feasible (1 penalized)"])


def test_a_hard_bound_that_is_missed_without_failing_is_said_with_both_limits(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            trial.report({"latency": {"mean": 0.2, "p99": 0.4 + 0.1 * trial.params["a"]}})
        """,
        "-v",
        slo={"latency": {"p99": {"threshold": "500ms", "hard_fail": True}}},
        parameters={"a": [3, 4]},
        optimization={"objective": "minimize_latency", "strategy": "grid_search"},
    )
    short = "latency p99 700 ms > 500 ms"
    said = "latency p99 700 ms, limit ≤ 500 ms, fails above 750 ms"
    result.stdout.fnmatch_lines(
        [
            f"*trial 0 [[]a=3[]] mean_e2e_latency 200 ms (penalized ×54.6: {short}); best so far",
            "*trial 1 is infeasible: latency p99 800 ms, limit ≤ 500 ms, fails above 750 ms",
            "*latency p99  ≤ 500 ms, fails above 750 ms  800 ms  -60.0 %  BROKEN",
            "best * trial 0: a=3",
            "*latency p99  ≤ 500 ms, fails above 750 ms  700 ms  -40.0 %  missed, severe: pen*",
            f"note     the best configuration missed {said}; fail_ratio: 0 makes the limit strict",
            "trials   2 of 2: 1 feasible (1 penalized), 1 infeasible",
        ]
    )


def test_a_failed_check_ends_the_trial_before_its_expensive_test(study: Run) -> None:
    result = study(
        """
        def test_correct(trial):
            assert trial.params["a"] != 2, "wrong answer"

        def test_fast(trial):
            trial.report({"cost": trial.params["a"]})
        """,
        "-rs",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED *trial 1 is already failed", "trials * 4 of 4: 3 feasible, 1 failed"]
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no such kernel')", "ValueError: no such kernel"),
        (
            "pass",
            "needs cost or mean_cost, but the trial reported: nothing; no test called trial.report",
        ),
        (
            "trial.report({'cots': 1})",
            "needs cost or mean_cost, but the trial reported: cots (did you mean 'cots'?)",
        ),
        ("trial.report({'cost': float('nan')})", "needs a finite cost or mean_cost, but cost"),
        ("trial.report({'cost': 'fast'})", "metric 'cost' is 'fast', which is not a number"),
    ],
)
def test_a_trial_without_a_result_fails_and_says_why(study: Run, body: str, reason: str) -> None:
    result = study(f"def test_it(trial):\n    {body}\n", "-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"*trial 0 *failed: *{reason}*",
            "best * none: every trial failed in the same way",
            f"cause * {reason}*",
            "trials * 3 of 4: 0 feasible, 3 failed",
            "stopped * the first 3 trials failed in the same way; * next run begins with others",
        ]
    )


def test_an_async_test_is_named_as_the_cause(study: Run) -> None:
    result = study("async def test_it(trial):\n    trial.report({'cost': 1})\n")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["cause * test_it is an async function, which pytest runs only with a plugin such as *"]
    )


def test_a_broken_fixture_fails_the_trial(study: Run) -> None:
    result = study(
        """
        @pytest.fixture(scope="module")
        def server(trial):
            if trial.params["a"] == 1:
                raise RuntimeError("port taken")
            return trial

        def test_it(trial, server):
            trial.report({"cost": 1})
        """,
        "-v",
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*trial 0 *failed: RuntimeError: port taken*"])


def test_a_metric_that_an_slo_names_must_be_reported(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            trial.report({"cost": 1})
        """,
        slo={"ttft": {"threshold": 1.0}},
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*infeasible: ttft mean was not reported; reported: cost",
            "cause * ttft mean was not reported; reported: cost",
            "trials * 3 of 4: 0 feasible, 3 infeasible",
        ]
    )


def test_metrics_may_come_from_several_tests(study: Run) -> None:
    result = study(
        """
        def test_speed(trial):
            trial.report({"cost": 1})

        def test_memory(trial):
            trial.report({"mem": 1})
        """,
        slo=SLO,
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*4 of 4: 4 feasible"])


@pytest.mark.parametrize("raising", ["trial.prune('too slow')", "raise TrialPruned('too slow')"])
def test_a_pruned_trial_has_a_status_of_its_own(study: Run, raising: str) -> None:
    result = study(
        f"""
        from optuna import TrialPruned

        def test_it(trial):
            if trial.params["a"] > 2:
                {raising}
            trial.report({{"cost": 1}})
        """,
        "-v",
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["*::test_it?a:3? PRUNED*", "*pruned: too slow*", "*2 feasible, 2 pruned", "*2 pruned*"]
    )


def test_a_trial_past_its_time_limit_fails(study: Run) -> None:
    result = study(
        """
        import time

        def test_right(trial):
            time.sleep(5 if trial.params["a"] == 2 else 0)

        def test_fast(trial):
            trial.report({"cost": 1})
        """,
        "-v",
        "-rs",
        optimization={
            "objective": "minimize:cost",
            "strategy": "grid_search",
            "timeout_per_iteration": 0.3,
        },
    )
    assert result.duration < 5
    result.assert_outcomes(passed=6, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "trial 1: ran longer than 0.3 s (timeout_per_iteration)",
            "SKIPPED * trial 1 is already failed",
        ]
    )


def test_a_load_level_that_breaks_the_slo_makes_the_trial_infeasible(study: Run) -> None:
    body = """
        def test_it(trial):
            a = trial.params["a"]
            for level in (1, 8):
                trial.report_level(level, {"ttft": {"mean": a * level * 0.01}, "cost": 5 - a})
        """
    slo = {"ttft": {"threshold": 0.2, "hard_fail": True, "fail_ratio": 0.0}}
    result = study(body, slo=slo)
    result.stdout.fnmatch_lines(
        ["ttft mean @ 8 * ≤ 200 ms * 320 ms * BROKEN", "best * a=2", "*2 feasible, 2 infeasible"]
    )
    filtered = study(body, slo={**slo, "levels": "filter"})
    filtered.stdout.fnmatch_lines(["best * a=4", "dropped * levels that break the SLO: 8"])
    highest = study(body, slo={**slo, "levels": "max"})
    highest.stdout.fnmatch_lines(["best * a=1", " * max_compliant_concurrency 8 *"])


def test_patience_ends_a_study_in_which_nothing_improves(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            trial.report({"cost": 1})
        """,
        parameters={"a": list(range(30))},
        optimization={"objective": "minimize:cost", "strategy": "random", "patience": 3},
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["stopped * nothing improved in 3 trials"])


def test_plain_pytest_skips_a_study(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.autotune("no such spec")

        @pytest.fixture(scope="session", autouse=True)
        def expensive():
            raise AssertionError

        def test_it(trial):
            raise AssertionError
        """)
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*tuning study: runs with --autotune"])


def test_other_tests_run_beside_a_study_as_ever(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): pass")
    result = study("""
        def test_without_a_trial():
            pass

        def test_it(trial):
            trial.report({"cost": 1})
        """)
    result.assert_outcomes(passed=6)


def test_a_trial_outside_a_study_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(trial): pass")
    for args in ([], ["--autotune"]):
        result = pytester.runpytest_inprocess(*args)
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*needs a study: mark the module*"])


def test_a_module_fixture_lives_as_long_as_its_trial(study: Run) -> None:
    result = study("""
        events = []

        @pytest.fixture(scope="module")
        def server(trial):
            events.append(f"up {trial.params['a']}")
            yield trial
            events.append(f"down {trial.params['a']}")

        def test_first(server):
            assert events[-1] == f"up {server.params['a']}"

        def test_second(trial, server):
            assert events[-1] == f"up {server.params['a']}"
            trial.report({"cost": 1})
            if trial.params["a"] == 4:
                assert events == ["up 1", "down 1", "up 2", "down 2", "up 3", "down 3", "up 4"]
        """)
    assert result.ret == pytest.ExitCode.OK


def test_finished_trials_reach_other_plugins(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        def pytest_autotune_trial_finished(config, study, trial):
            print(f"heard {study} {trial.number} {trial.outcome.value} {trial.value}")
        """)
    result = study("def test_it(trial): trial.report({'cost': trial.params['a']})", "-s")
    result.stdout.fnmatch_lines(["*heard test_study.py 3 feasible 4.0*"])


def test_what_another_plugin_reports_after_a_test_counts(
    study: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import pytest
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_call(item):
            result = yield
            trial = item.funcargs["trial"]
            trial.report({"cost": -trial.params["a"], "mem": trial.params["a"]})
            return result
        """)
    result = study("def test_it(trial): trial.report({'cost': 9, 'mem': 0})", slo=SLO)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["trial 2 is infeasible: mem 3, limit ≤ 2", "best * trial 1: a=2", " * cost -2 *"]
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(StorageError("the disk is full"), "USAGE_ERROR"), (TrialLostError("lost"), "OK")],
)
def test_an_infeasible_trial_that_is_not_stored_is_still_reported_so(
    study: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    def finish(self: SearchedStudy, record: TrialRecord) -> NoReturn:
        raise error

    monkeypatch.setattr(SearchedStudy, "finish", finish)
    body = "def test_it(trial): trial.report({'cost': 1, 'mem': 5})"
    result = study(body, "--autotune-infeasible=xfail", slo=SLO, parameters={"a": [1]})
    assert result.ret == pytest.ExitCode[status]
    result.stdout.no_fnmatch_line("*SLOViolation*")


def test_a_trial_that_could_not_be_stored_is_run_again_and_loses_no_attempt(
    study: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: SearchedStudy, record: TrialRecord) -> NoReturn:
        raise StorageError("the disk is full")

    body = "def test_it(trial): trial.report({'cost': 1})"
    with monkeypatch.context() as patch:
        patch.setattr(SearchedStudy, "finish", finish)
        for _ in range(3):
            assert study(body, parameters={"a": [1]}).ret == pytest.ExitCode.USAGE_ERROR
    study(body, parameters={"a": [1]}).stdout.fnmatch_lines(["trials * 1 of 1: 1 feasible"])


def test_another_plugin_can_offer_a_strategy(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        class Last:
            def __init__(self, context):
                self.space = context.space

            def plan(self):
                return None

            def propose(self, history, seed):
                left = [{"a": a} for a in (4, 3, 2, 1) if f'{{"a":{a}}}' not in history.seen]
                return left[0] if left else None

        def pytest_autotune_make_strategy(config, name, context):
            return Last(context) if name == "last" else None
        """)
    result = study(
        "def test_it(trial): trial.report({'cost': trial.params['a']})",
        "-v",
        "--autotune-strategy=last",
    )
    result.stdout.fnmatch_lines(["*trial 0 ?a=4?*", "*trial 3 ?a=1?*"])
