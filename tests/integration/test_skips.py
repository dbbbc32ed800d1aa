"""pytest.skip and pytest.xfail in the tests of a trial."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
SLO = [{"metric": "mem", "max": 2}]


@pytest.mark.parametrize("where", ["test", "check", "fixture"])
def test_a_skipped_trial_is_a_point_that_is_not_tried(study: Run, where: str) -> None:
    skip = "if trial.params['a'] > 2: pytest.skip('needs more memory')"
    body = f"""
        @pytest.fixture(scope="module")
        def kernel(trial):
            {skip if where == "fixture" else "pass"}

        def test_right(trial, kernel):
            {skip if where == "check" else "pass"}

        def test_fast(trial, kernel):
            {skip if where == "test" else "pass"}
            trial.report({{"cost": trial.params["a"]}})
        """
    result = study(body, "-v", "-rs", "--autotune-record=out.csv")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6 if where == "test" else 4, skipped=2 if where == "test" else 4)
    result.stdout.fnmatch_lines(
        [
            "  trial 3 ?a=4? skipped: needs more memory; best so far 1 (trial 0)",
            "SKIPPED *needs more memory",
            "best     trial 0: a=1",
            "trials   4 of 4: 2 feasible, 2 skipped",
            "note     2 trials were skipped by the tests: needs more memory (*)",
            "recorded 2 trials in out.csv (2 skipped trials left out)",
        ]
    )
    again = study(body)
    again.stdout.fnmatch_lines(["trials   4 of 4: 2 feasible, 2 skipped; 4 of them in earlier*"])
    # Asked for by name, it is tried again, and stored.
    named = study(
        body.replace("> 2", "> 3"), "--autotune-keep", "test_study.py::test_right[a:3]",
        "test_study.py::test_fast[a:3]",
    )  # fmt: skip
    named.stdout.fnmatch_lines(["trials   4 of 4: 3 feasible, 1 skipped; 3 of them in earlier*"])


def test_reasons_are_counted_and_skips_are_no_lack_of_progress(study: Run) -> None:
    result = study(
        """
        def test_it(trial):
            if trial.params["a"] in (1, 2, 3):
                pytest.skip("odd" if trial.params["a"] % 2 else "even")
            trial.report({"cost": 1})
        """,
        optimization={"objective": "minimize:cost", "strategy": "grid_search", "patience": 2},
    )
    result.stdout.fnmatch_lines(
        [
            "best     trial 3: a=4",
            "note     3 trials were skipped by the tests: odd (2); even (1) (what constraints *",
        ]
    )


def test_where_every_trial_is_skipped_nothing_failed(study: Run) -> None:
    result = study("def test_it(trial): pytest.skip('no accelerator')")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(
        ["best     none yet", "note     4 trials were skipped by the tests: no accelerator (*"]
    )


@pytest.mark.parametrize("how", ["call", "mark", "run"])
def test_an_expected_failure_is_no_candidate(study: Run, how: str) -> None:
    marks = {
        "call": "",
        "mark": "@pytest.mark.xfail(reason='overflows')",
        "run": "@pytest.mark.xfail(reason='overflows', run=False)",
    }
    wrong = {
        "call": "if trial.params['a'] == 1: pytest.xfail('overflows')",
        "mark": "assert trial.params['a'] != 1",
        "run": "pass",
    }
    result = study(
        f"""
        {marks[how]}
        def test_right(trial):
            {wrong[how]}

        def test_fast(trial):
            trial.report({{"cost": trial.params["a"]}})
        """,
        "-v",
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*was not reported*")
    reason = "[[]NOTRUN] overflows" if how == "run" else "overflows"
    result.stdout.fnmatch_lines([f"  trial 0 ?a=1? skipped: expected to fail: {reason}; no *"])
    if how == "run":
        result.assert_outcomes(xfailed=4, skipped=4)
    else:
        result.stdout.fnmatch_lines(["best     trial 1: a=2", "* 3 feasible, 1 skipped"])


def test_a_test_that_is_expected_to_break_the_slo_is_not_red(study: Run) -> None:
    result = study(
        """
        @pytest.mark.xfail
        def test_it(trial):
            trial.report({"cost": 1, "mem": trial.params["a"]})
        """,
        slo=SLO,
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(xfailed=2, xpassed=2)
    result.stdout.fnmatch_lines(["trials   4 of 4: 2 feasible, 2 infeasible"])


@pytest.mark.parametrize("mark", ["skip(reason='later')", "skipif(True, reason='later')"])
def test_a_test_that_a_mark_skips_takes_no_part(study: Run, mark: str) -> None:
    body = """
        MARK_RIGHT
        def test_right(trial): assert False

        MARK_FAST
        def test_fast(trial): trial.report({"cost": trial.params["a"]})
        """
    no, yes = "# no mark", f"@pytest.mark.{mark}"
    check = study(body.replace("MARK_RIGHT", yes).replace("MARK_FAST", no))
    assert check.ret == pytest.ExitCode.OK
    unchecked = "test_right took no part, as a mark skips it (later): no trial was checked by it"
    check.stdout.fnmatch_lines(["trials   4 of 4: 4 feasible", f"note     {unchecked}"])
    passing = body.replace("assert False", "pass")
    speed = study(passing.replace("MARK_RIGHT", no).replace("MARK_FAST", yes), "--autotune-fresh")
    assert speed.ret == pytest.ExitCode.OK
    speed.stdout.fnmatch_lines(["trials   4 of 4: 0 feasible, 4 skipped", "note * later (*"])
