"""A user's mistake ends in one message and exit status 4, without a traceback."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

Run = Callable[..., pytest.RunResult]
GOOD = {"cost": 1}
BODY = "def test_it(trial): trial.report({'cost': 1})"


def _assert_usage_error(result: pytest.RunResult, *lines: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}" for line in lines])
    everything = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in everything
    assert "INTERNALERROR" not in everything


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"optimization": {"stratgy": "random"}},
            "test_study.py: autotune marker: /optimization/stratgy: unknown key 'stratgy' (did *",
        ),
        (
            {"optimization": {"objective": "minimise_latency"}},
            "*: /optimization/objective: unknown objective 'minimise_latency' (did you mean *",
        ),
        (
            {"optimization": {"strategy": "baysian"}},
            (
                "test_study.py: autotune marker: /optimization/strategy: "
                "unknown strategy 'baysian' (did you mean 'bayesian'?); built in: *"
            ),
        ),
        (
            {"constraints": ["a < b"]},
            "*: /constraints/0: unknown name 'b' in 'a < b'*; known: a, cpus, gpus",
        ),
        (
            {"constraints": ["a > 9"]},
            "*: /constraints: no combination of the parameters satisfies 'a > 9'",
        ),
        (
            {
                "parameters": {"x": {"type": "continuous", "low": 0, "high": 1}},
                "optimization": {"strategy": "grid_search"},
            },
            "parameter 'x' is continuous: a grid needs 'step' or 'n'*",
        ),
    ],
)
def test_a_bad_spec(study: Run, keys: dict[str, object], message: str) -> None:
    _assert_usage_error(study(BODY, **keys), message)


def test_a_typo_in_the_spec_file_is_found_before_anything_runs(
    study: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "autotune.yaml").write_text(
        "decode:\n  parameters:\n    tile: [1, 2]\n  slo:\n    latancy: {p99: {threshold: 1}}\n"
    )
    pytester.makeini("[pytest]")
    result = study("pytestmark = pytest.mark.autotune('decode')\n" + BODY)
    _assert_usage_error(
        result,
        "autotune.yaml:5:5: /decode/slo/latancy: unknown key 'latancy' (did you mean 'latency'?)*",
    )


def test_an_unknown_strategy_is_found_where_the_spec_names_it(
    study: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "autotune.yaml").write_text(
        "decode:\n  parameters: {tile: [1, 2]}\n  optimization:\n"
        "    objective: minimize:cost\n    strategy: grid\n"
    )
    pytester.makeini("[pytest]")
    result = study("pytestmark = pytest.mark.autotune('decode')\n" + BODY)
    _assert_usage_error(
        result,
        "autotune.yaml:5:5: /decode/optimization/strategy: unknown strategy 'grid' (did you mean "
        "'grid_search'?); built in: *",
    )


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("'decod'", "autotune.yaml: no spec named 'decod' (did you mean 'decode'?)*"),
        ("'a', spec='b'", "test_study.py: autotune marker: give a spec's name, or spec='FILE'*"),
        ("spec='tasks/none.json'", "tasks/none.json: no such file"),
        ("spec='broken.json'", "broken.json:1:2: not valid JSON: *"),
        ("", "autotune.yaml: holds 2 specs (decode, prefill); name one in the marker*"),
        ("3", "test_study.py: autotune marker: 3 is not the name of a spec"),
    ],
)
def test_a_bad_marker(study: Run, pytester: pytest.Pytester, mark: str, message: str) -> None:
    (pytester.path / "autotune.yaml").write_text("decode: {}\nprefill: {}\n")
    (pytester.path / "broken.json").write_text("{")
    pytester.makeini("[pytest]")
    _assert_usage_error(study(f"pytestmark = pytest.mark.autotune({mark})\n{BODY}"), message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--autotune-trials=0"], "--autotune-trials: '0' is not a whole number of at least 1"),
        (["--autotune-trials=1000000000"], "--autotune-trials: '1000000000' is more than 100000*"),
        (["--autotune-trials=many"], "--autotune-trials: 'many' is not a whole number*"),
        (["--autotune-seed=-1"], "--autotune-seed: '-1' is not a whole number of at least 0"),
        (["--autotune-timeout=soon"], "--autotune-timeout: 'soon' is not a duration; write *"),
        (["--autotune-infeasible=no"], "--autotune-infeasible: 'no' is not 'fail' or 'xfail'"),
        (["--autotune-strategy=best"], "unknown strategy 'best'*"),
        (
            ["--autotune-storage=postgresql+psycopg://me:hunter2@127.0.0.1:1/db"],
            "storage 'postgresql+psycopg://me:?????127.0.0.1:1/db' cannot be opened: *",
        ),
        (["--autotune-storage=nonsense"], "storage 'nonsense' is not a database URL*"),
        (["--autotune-storage=sqlite://"], "storage 'sqlite://' is in memory*"),
        (["--autotune-storage=oracle://x"], "storage 'oracle://x': oracle is not supported*"),
    ],
)
def test_a_bad_option(study: Run, args: Sequence[str], message: str) -> None:
    result = study(BODY, *args)
    _assert_usage_error(result, message.replace("?????", "[*][*][*]@"))
    assert "hunter2" not in result.stdout.str() + result.stderr.str()


def test_a_bad_ini_value_names_the_ini_key(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nautotune_trials = few")
    _assert_usage_error(study(BODY), "autotune_trials (tox.ini): 'few' is not a whole number*")


def test_a_wrong_storage_ends_a_distributed_run_in_one_message(study: Run) -> None:
    result = study(BODY, "-n", "2", "--autotune-storage=sqlite:////nowhere/at/all.db")
    _assert_usage_error(result, "storage 'sqlite:////nowhere/at/all.db' cannot be opened: *")


def test_a_wrong_storage_in_a_spec_is_reported_by_the_controller(study: Run) -> None:
    optimization = {"objective": "minimize:cost", "storage": "sqlite:////nowhere/at/all.db"}
    result = study(BODY, "-n", "2", optimization=optimization)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["autotune: storage 'sqlite:////nowhere/at/all.db' cannot be *"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_options_have_ini_twins(study: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\nautotune_trials = 3\nautotune_strategy = random\nautotune_seed = 7\n"
        "autotune_timeout = 1h\nautotune_infeasible = fail\n"
    )
    result = study("def test_it(trial): trial.report({'cost': 1})")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["again *--autotune-strategy random --autotune-seed 7*"])


def test_a_wall_clock_budget_starts_no_further_trial(study: Run) -> None:
    result = study(
        """
        import time
        def test_it(trial):
            time.sleep(1.1)
            trial.report({"cost": 1})
        """,
        # On a busy machine the first trial begins late, and the limit counts from the start.
        "--autotune-timeout=2s",
        parameters={"a": list(range(50))},
    )
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] <= 3
    result.stdout.fnmatch_lines(["stopped * the time limit of 2.0 s was reached"])


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        ({"levels": [{"request_rate": "x", "cost": 1}]}, 'levels[[]0[]]: request_rate is "x", *'),
        ({"levels": [{"concurrency": 10**400, "cost": 1}]}, "levels[[]0[]]: concurrency is 1000*"),
        ({"cost": 1, "notes": "hello"}, 'notes is "hello" (str), not a list of sentences*'),
        (None, "report() takes a mapping of metric names to numbers, not null (NoneType)*"),
    ],
)
def test_a_report_with_a_mistake_fails_its_trial_and_no_other(
    study: Run, reported: object, said: str
) -> None:
    body = f"def test_it(trial): trial.report({reported!r} if trial.params['a'] == 2 else {GOOD})"
    result = study(body)
    result.assert_outcomes(passed=3, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["best     trial 0: a=1", f"failures 1 × TypeError: {said}"])


@pytest.mark.parametrize("seconds", [1e18, 1.5e9])
def test_a_time_that_no_clock_can_count_is_refused(study: Run, seconds: float) -> None:
    optimization = {"objective": "minimize:cost", "timeout_per_iteration": seconds}
    message = "*: /optimization/timeout_per_iteration: *is above the maximum of 1000000000"
    _assert_usage_error(study(BODY, optimization=optimization), message)
    result = study(BODY, f"--autotune-timeout={seconds:.0f}h")
    _assert_usage_error(result, "--autotune-timeout: * is too long a time; the longest is *")
