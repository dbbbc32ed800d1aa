"""Looks: what a selection leaves incomplete is run and reported, and never stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gated import MODULE, Gated
from project import SPEC, Project

Run = Callable[..., pytest.RunResult]
TWO = """
    import pathlib

    def test_right(trial):
        with pathlib.Path("right.log").open("a") as file:
            file.write(f"{trial.params['a']} ")
        assert trial.params["a"] != 4

    def test_fast(trial):
        trial.report({"cost": trial.params["a"], "mem": trial.params["a"]})
    """
SLO = [{"metric": "mem", "max": 2}]
ADAPTIVE = {"objective": "minimize:cost", "strategy": "random", "max_iterations": 4}


def _right(pytester: pytest.Pytester) -> list[str]:
    """Return the values of all times that the correctness test ran."""
    return (pytester.path / "right.log").read_text().split()


def test_tests_that_are_left_out_make_a_look_of_a_trial(
    study: Run, pytester: pytest.Pytester
) -> None:
    """The default example: correctness alone, then timing alone, on a study without trials."""
    looked = study(TWO, "-k", "right", "-v", slo=SLO)
    looked.assert_outcomes(passed=3, failed=1, deselected=4)
    looked.stdout.fnmatch_lines(
        [
            "  look at trial 0 ?a=1? passed; not stored",
            "trials   0 of 4: 0 feasible",
            "note     4 looks at trials 0-3, not stored: the run left out test_fast",
        ]
    )
    looked.stdout.no_fnmatch_line("*was not reported*")
    timed = study(TWO, "-k", "fast", "-v", slo=SLO)
    timed.assert_outcomes(passed=2, failed=2, deselected=4)
    timed.stdout.fnmatch_lines(
        [
            "  look at trial 1 ?a=2? cost 2; not stored",
            "  look at trial 2 ?a=3? infeasible: mem 3, limit ≤ 2; not stored",
            "trials   0 of 4: 0 feasible",
            "note     4 looks at trials 0-3, not stored: the run left out test_right",
        ]
    )
    whole = study(TWO, slo=SLO)
    whole.stdout.fnmatch_lines(["trials   4 of 4: 2 feasible, 1 infeasible, 1 failed"])
    assert _right(pytester) == ["1", "2", "3", "4"] * 2


def test_last_failed_tests_are_looked_at_and_spend_no_budget(study: Run) -> None:
    first = study(TWO, "-x", slo=SLO)
    first.stdout.fnmatch_lines(["trials   3 of 4: 2 feasible, 1 infeasible"])
    again = study(TWO, "--lf", "-v", "--autotune-record=out.csv", slo=SLO)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(
        [
            "  look at trial 2 ?a=3? infeasible: mem 3, limit ≤ 2; not stored",
            "best     trial 0: a=1",
            "trials   3 of 4: 2 feasible, 1 infeasible; 3 of them in earlier runs",
            "note     a look at trial 2, not stored: the run left out test_right",
            "         pytest --autotune '*::test_right?a:1?' '*::test_fast?a:1?'",
            "recorded 3 trials in out.csv",
        ]
    )
    # What failed whole without a measurement is run again, and replaces its failure.
    study(TWO, slo=SLO).assert_outcomes(failed=1, skipped=1)
    mended = study(
        TWO.replace("!= 4", "> 0"), "--autotune-keep", "test_study.py::test_right[a:4]",
        "test_study.py::test_fast[a:4]", slo=SLO,
    )  # fmt: skip
    mended.stdout.fnmatch_lines(["trials   4 of 4: 2 feasible, 2 infeasible; 3 of them in*"])


@pytest.mark.parametrize("given", [("-k", "trial-002"), ("test_study.py::test_it[trial-002]",)])
def test_a_finished_trial_is_seen_again(
    study: Run, pytester: pytest.Pytester, given: tuple[str, ...]
) -> None:
    body = """
        import pathlib
        def test_it(trial):
            first = not pathlib.Path("measured").exists()
            trial.report({"cost": trial.params["a"] if first else -1})
        """
    study(body, optimization=ADAPTIVE).assert_outcomes(passed=4)
    (pytester.path / "measured").touch()
    seen = study(body, "-v", "--junitxml=out.xml", *given, optimization=ADAPTIVE)
    seen.assert_outcomes(passed=1, deselected=3 if given[0] == "-k" else 0)
    seen.stdout.fnmatch_lines(
        [
            "test_study.py::test_it?trial-002? PASSED*",
            "  look at trial 2 ?a=*? cost -1; not stored",
            "         cost 1 (minimize:cost)",
            "trials   4 of 4: 4 feasible; 4 of them in earlier runs",
            "note     a look at trial 2, not stored: it was finished before, and that result *",
        ]
    )
    junit = (pytester.path / "out.xml").read_text()
    assert '<property name="autotune_look" value="feasible"' in junit
    assert "autotune_outcome" not in junit


def test_a_look_at_a_trial_that_does_not_exist_says_what_it_did(study: Run) -> None:
    looked = study(TWO, "-v", "-k", "right and trial-002", optimization=ADAPTIVE)
    looked.stdout.fnmatch_lines(
        [
            "note     a look at trial 2, not stored: the run left out test_fast",
            "note     trial 2 did not exist yet: the parameters are what the search would have *",
        ]
    )
    # Several are of different parameters, as those of a search are.
    study(TWO, "-k", "right", optimization=ADAPTIVE)
    more = study(TWO, "-v", "-k", "right", optimization=ADAPTIVE)
    looks = [line for line in more.outlines if line.startswith("  look at")]
    assert len({line.split("[")[1] for line in looks}) == 4


def test_a_selection_of_whole_trials_runs_them_and_goes_on_where_it_was(study: Run) -> None:
    grid = {"parameters": {"a": [1, 2], "b": ["x", "y", "z"]}}
    body = "def test_it(trial): trial.report({'cost': trial.params['a']})"
    first = study(body, "-k", "b:x", **grid)
    first.assert_outcomes(passed=2, deselected=4)
    first.stdout.fnmatch_lines(["trials   2 of 6: 2 feasible"])
    more = study(body, "-k", "a:1", **grid)
    more.assert_outcomes(passed=2, deselected=3)
    more.stdout.fnmatch_lines(
        [
            "trials   4 of 6: 4 feasible; 2 of them in earlier runs",
            "note     a trial of the selection finished before, and did not run again; to see *",
        ]
    )
    again = study(body, "-k", "a:1", **grid)
    again.assert_outcomes(passed=3, deselected=3)
    again.stdout.fnmatch_lines(["note     3 looks at trials 0-2, not stored: they were finished*"])


def test_a_named_trial_is_that_trial_and_no_other(study: Run) -> None:
    body = "def test_it(trial): trial.report({'cost': trial.number})"
    named = study(body, "-v", "test_study.py::test_it[trial-002]", optimization=ADAPTIVE)
    named.stdout.fnmatch_lines(["  trial 2 ?a=*? cost 2; best so far", "trials   1 of 4: *"])
    rest = study(body, "-v", optimization=ADAPTIVE)
    rest.stdout.fnmatch_lines(["  trial 3 ?a=*? cost 3; best so far 0 (trial 0)"])


def test_tests_of_other_classes_belong_to_the_trial_of_a_module(study: Run) -> None:
    body = """
        class TestRight:
            class TestInner:
                def test_right(self, trial): pass
        class TestFast:
            def test_fast(self, trial): trial.report({"cost": 1})
        """
    looked = study(body, "test_study.py::TestFast::test_fast[a:1]")
    looked.stdout.fnmatch_lines(
        [
            "trials   0 of 4: *",
            "note     a look at trial 0, not stored: the run left out test_right",
        ]
    )
    both = study(
        body, "test_study.py::TestFast::test_fast[a:1]",
        "test_study.py::TestRight::TestInner::test_right[a:1]",
    )  # fmt: skip
    both.assert_outcomes(passed=2)
    both.stdout.fnmatch_lines(["trials   1 of 4: 1 feasible"])


def test_looks_of_several_workers_are_counted_together(project: Project) -> None:
    trials = SPEC["optimization"]["max_iterations"]
    result = project.run("-n", "2", "-k", "fast", "-v", status=(0, 1))
    assert f"{trials} looks at trials 0-11, not stored: the run left out test_correct" in result
    assert "trials   0 of 12: 0 feasible" in result
    assert result.count("; not stored") == trials
    assert project.records() == []
    assert "[100%]" in result


def test_a_look_changes_no_verdict(study: Run) -> None:
    body = "def test_it(trial): trial.report({'cost': 1, 'mem': trial.params['a'] + 9})"
    study(body, slo=SLO).assert_outcomes(failed=4)
    looked = study(body.replace("+ 9", "- 9"), "--autotune-keep", "-k", "a:1", slo=SLO)
    # What failed is the study.
    looked.assert_outcomes(passed=1, failed=1, deselected=3)
    assert looked.ret == pytest.ExitCode.TESTS_FAILED
    looked.stdout.fnmatch_lines(["best     none: no trial was feasible"])


def test_a_gate_says_what_it_did_not_check(gated: Gated) -> None:
    check = "\n\ndef test_right(trial):\n    assert kernel\n"
    gated.write("test_kernel.py", MODULE + check)
    part = gated.gate("-k", "cost")
    assert "note     the run left out test_right: the pinned configuration was not" in part
    assert "left out" not in gated.gate()
