"""-k, --lf, -x, node ids, --collect-only: a study behaves like any other tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
MODULE = """
    def test_it(trial):
        assert trial.params["a"] != 2
        trial.report({"cost": trial.params["a"]})
    """
ADAPTIVE = {"objective": "minimize:cost", "strategy": "random", "max_iterations": 4}


def test_collecting_lists_slots_and_leaves_no_state(study: Run, pytester: pytest.Pytester) -> None:
    result = study(MODULE, "--collect-only", "-q", optimization=ADAPTIVE)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["test_study.py::test_it?trial-000?", "test_study.py::test_it?trial-003?"]
    )
    assert not list(pytester.path.glob(".pytest_cache/autotune/*"))


def test_a_grid_is_selected_by_parameter(study: Run) -> None:
    result = study(
        "def test_it(trial): trial.report({'cost': 1})",
        "-k",
        "tp_size:2 and mem:0.8",
        parameters={"tp_size": [1, 2], "mem": [0.8, 0.9]},
    )
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["best * tp_size=2 mem=0.8", "stopped * the session ended first; run again to resume"]
    )


def test_an_unfinished_selection_gets_no_verdict(study: Run) -> None:
    result = study(
        "def test_it(trial): trial.report({'cost': 1, 'mem': 9})",
        "-k",
        "a:1",
        "--autotune-infeasible=xfail",
        slo=[{"metric": "mem", "max": 2}],
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["best * none yet", "trials * 1 of 4: 0 feasible, 1 infeasible"])


def test_exitfirst_stops_and_the_next_run_goes_on(study: Run) -> None:
    first = study(MODULE, "-x")
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    first.assert_outcomes(passed=1, failed=1)
    first.stdout.fnmatch_lines(["trials * 2 of 4: 1 feasible, 1 failed"])
    second = study(MODULE)
    assert second.ret == pytest.ExitCode.OK
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(
        ["trials * 4 of 4: 3 feasible, 1 failed; 2 of them in earlier runs"]
    )


def test_maxfail_counts_infeasible_trials_unless_they_are_expected(study: Run) -> None:
    body = "def test_it(trial): trial.report({'cost': 1, 'mem': 9})"
    slo = [{"metric": "mem", "max": 2}]
    study(body, "--maxfail=2", slo=slo).assert_outcomes(failed=2)
    result = study(body, "--maxfail=1", "--autotune-infeasible=xfail", "--autotune-fresh", slo=slo)
    assert result.ret == pytest.ExitCode.TESTS_FAILED  # nothing feasible at the end
    result.stdout.fnmatch_lines(["*4 infeasible*"])


@pytest.mark.parametrize("strategy", ["random", "grid_search"])
def test_last_failed_measures_the_same_parameters_again(study: Run, strategy: str) -> None:
    optimization = {**ADAPTIVE, "strategy": strategy}
    first = study(MODULE, "-v", optimization=optimization)
    first.assert_outcomes(passed=3, failed=1)
    again = study(
        MODULE.replace("!= 2", "> 0"), "--lf", "--autotune-keep", "-v", optimization=optimization
    )
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["*trial 1 ?a=2? cost 2*", "trials * 4 of 4: 4 feasible*"])
    # Without --autotune-keep the new code makes a new study, with the same parameters there.
    name = {"random": "trial-001", "grid_search": "a:2"}[strategy]
    fixed = study(MODULE.replace("!= 2", ">= 1"), "-k", name, "-v", optimization=optimization)
    fixed.assert_outcomes(passed=1)
    fixed.stdout.fnmatch_lines(["*trial 1 ?a=2? cost 2*", "trials * 1 of 4: 1 feasible*"])


@pytest.mark.parametrize("option", ["--lf", "--ff"])
def test_failed_tests_of_larger_studies_come_again(study: Run, option: str) -> None:
    body = """
        class TestKernel:
            def test_correct(self, trial):
                pass

            def test_fast(self, trial):
                trial.report({"cost": trial.params["a"], "mem": trial.params["a"]})
        """
    slo = [{"metric": "mem", "max": 3}]
    study(body, slo=slo).assert_outcomes(passed=7, failed=1)
    again = study(body, option, "-v", slo=slo)
    if option == "--lf":
        again.assert_outcomes(failed=1)
        again.stdout.fnmatch_lines(["*look at trial 3 ?a=4? infeasible: mem 4, limit ≤ 3*"])
    else:  # everything is asked for, and everything has been run
        again.stdout.fnmatch_lines(["*no tests ran*"])
    more = study(body, option, "--autotune-fresh", slo=slo)
    more.stdout.fnmatch_lines(["*4 of 4: 3 feasible, 1 infeasible*" if option == "--ff" else "*"])
    if option == "--ff":
        more.assert_outcomes(passed=7, failed=1)


def test_a_named_slot_measures_the_same_parameters_again(study: Run) -> None:
    first = study(MODULE, "-v", optimization=ADAPTIVE)
    line = next(line for line in first.outlines if line.strip().startswith("trial 1 "))
    parameters = line.split("[", 1)[1].split("]", 1)[0]
    again = study(MODULE, "-v", "test_study.py::test_it[trial-001]", optimization=ADAPTIVE)
    again.stdout.fnmatch_lines([f"*trial 1 ?{parameters}?*"])
    assert "4 of 4" in again.stdout.str()


def test_the_command_that_the_summary_prints_measures_the_best_again(
    study: Run, pytester: pytest.Pytester
) -> None:
    first = study(MODULE, optimization=ADAPTIVE)
    command = next(line for line in first.outlines if "test_it[trial" in line and "pytest" in line)
    node = command.split("'")[1]
    again = pytester.runpytest_inprocess("--autotune", node, "-v")
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["*look at trial 3 ?a=1? cost 1; not stored"])


def test_reordered_tests_still_run_slot_by_slot_and_as_written(
    study: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("""
        import random
        def pytest_collection_modifyitems(items):
            random.Random(1).shuffle(items)
        """)
    result = study("""
        seen = []

        def test_one(trial):
            seen.append((trial.number, 1))

        def test_two(trial):
            seen.append((trial.number, 2))
            trial.report({"cost": 1})

        def test_three(trial):
            seen.append((trial.number, 3))
            assert seen == sorted(seen)
        """)
    result.stdout.fnmatch_lines(["*4 of 4*"])
    assert "failed" not in result.parseoutcomes()


def test_a_study_with_parametrized_tests_and_a_class(study: Run) -> None:
    result = study("""
        @pytest.mark.autotune(
            parameters={"a": [1, 2]},
            optimization={"objective": "minimize:cost", "strategy": "grid_search"},
        )
        class TestKernel:
            @pytest.mark.parametrize("dtype", ["f16", "f32"])
            def test_correct(self, trial, dtype):
                pass

            def test_fast(self, trial):
                trial.report({"cost": trial.params["a"]})

        @pytest.mark.autotune(
            parameters={"b": [1, 2, 3]},
            optimization={"objective": "minimize:cost", "strategy": "random"},
        )
        def test_alone(trial):
            trial.report({"cost": trial.params["b"]})
        """)
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(
        [
            "*autotune: test_study.py::TestKernel =*",
            "*2 of 2: 2 feasible",
            "*autotune: test_study.py::test_alone =*",
            "*3 of 3: 3 feasible",
        ]
    )


def test_without_a_cache_a_study_runs_and_says_that_it_is_not_kept(
    study: Run, pytester: pytest.Pytester
) -> None:
    for args in ([], ["-n", "2"]):
        result = study(MODULE, "-p", "no:cacheprovider", *args)
        result.assert_outcomes(passed=3, failed=1)
        result.stdout.fnmatch_lines(
            ["autotune: studies are not kept, as pytest's cache is off", "*4 of 4*"]
        )
    assert not (pytester.path / ".pytest_cache").exists()


def test_the_cache_holds_small_readable_values(study: Run, pytester: pytest.Pytester) -> None:
    study(MODULE)
    result = pytester.runpytest_inprocess("--cache-show", "autotune/*")
    result.stdout.fnmatch_lines(
        [
            "autotune/incumbent contains:",
            "*'params': {'a': 1}*",
            "autotune/schema contains:",
            "autotune/slots contains:",
            "*'a:3': {'a': 3}*",
            "autotune/verdict contains:",
            "*'verdict': 'passed'*",
        ]
    )


def test_junit_carries_each_trials_properties(study: Run, pytester: pytest.Pytester) -> None:
    study(MODULE, "--junitxml=out.xml", optimization={**ADAPTIVE, "strategy": "grid_search"})
    text = (pytester.path / "out.xml").read_text()
    assert text.count("<testcase") == 4
    for expected in (
        '<property name="autotune_trial" value="3"',
        '<property name="autotune_param_a" value="4"',
        '<property name="autotune_outcome" value="feasible"',
        '<property name="autotune_outcome" value="failed"',
        '<property name="autotune_cost" value="4.0"',
    ):
        assert expected in text
    # Slots that get no trial leave no trace in the report.
    study(MODULE, "--junitxml=out.xml", optimization={**ADAPTIVE, "strategy": "grid_search"})
    assert "<testcase" not in (pytester.path / "out.xml").read_text()


def test_the_schema_is_printed(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--autotune-schema")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(['  "$schema": "https://json-schema.org/draft/2020-12/schema",'])


def test_the_plugin_can_be_blocked(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess("-p", "no:autotune")
    result.assert_outcomes(passed=1)


def test_the_marker_is_documented(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.autotune(name, *, spec=None, gpus=None, ??keys): *"])
