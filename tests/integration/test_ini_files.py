"""Options in configuration files: as text, and with the types of pytest 9's native TOML."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
BODY = "def test_it(trial): trial.report({'cost': 1})"
INI = ("pytest.ini", "[pytest]")
OPTIONS = ("pyproject.toml", "[tool.pytest.ini_options]")
NATIVE = ("pyproject.toml", "[tool.pytest]")
native = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 has native TOML")
NATIVE_SAID = "autotune_trials (pyproject.toml): {} is not a whole number of at least 1"
EXPECTS = "*pyproject.toml: config option 'autotune_trials' expects"
EXPECTS_BOOL = "*pyproject.toml: config option 'autotune_strict' expects a bool, got str: 'yes'"


def write(pytester: pytest.Pytester, name: str, header: str, *lines: str) -> None:
    (pytester.path / name).write_text("\n".join((header, *lines, "")))


@pytest.mark.parametrize("file", [INI, OPTIONS, pytest.param(NATIVE, marks=native)])
def test_every_kind_of_value_is_read(
    study: Run, pytester: pytest.Pytester, file: tuple[str, str]
) -> None:
    quote = "" if file is INI else '"'
    # Before 9.2 an option has one type, and a time may be text.
    one_type = file is NATIVE and pytest.version_tuple < (9, 2)
    lines = [
        "autotune_trials = 3",
        "autotune_seed = 7",
        f"autotune_strategy = {quote}random{quote}",
        "autotune_fresh = true",
        f"autotune_infeasible = {quote}xfail{quote}",
        f"autotune_gpu_timeout = {quote}500ms{quote}",
        'autotune_timeout = "1us"' if one_type else "autotune_timeout = 0.0001",
    ]
    write(pytester, *file, *lines)
    ran = study(BODY, "--autotune-timeout=1h")
    ran.assert_outcomes(passed=3)
    again = "--autotune-strategy random --autotune-seed 7 --autotune-trials 3"
    ran.stdout.fnmatch_lines([f"again *{again} --autotune-infeasible xfail*"])
    stopped = study(BODY)
    assert "passed" not in stopped.parseoutcomes()
    stopped.stdout.fnmatch_lines(["stopped * time limit *"])


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (INI, "autotune_trials = few", "autotune_trials (pytest.ini): 'few' is not a whole *"),
        (INI, "autotune_strict = maybe", "autotune_strict (pytest.ini): invalid truth value*"),
        (INI, "autotune_timeout = soon", "autotune_timeout (pytest.ini): 'soon' is not a d*"),
        (OPTIONS, "autotune_seed = -1", "autotune_seed (pyproject.toml): *-1* is not a whole*"),
        pytest.param(NATIVE, "autotune_trials = 0", NATIVE_SAID.format(0), marks=native),
        pytest.param(NATIVE, "autotune_trials = true", f"{EXPECTS} * got bool: True", marks=native),
        pytest.param(NATIVE, "autotune_trials = 2.5", f"{EXPECTS} * got float: 2.5", marks=native),
        pytest.param(NATIVE, "autotune_strict = 'yes'", EXPECTS_BOOL, marks=native),
    ],
)
def test_an_unusable_value_is_named_with_its_option_and_file(
    study: Run, pytester: pytest.Pytester, file: tuple[str, str], line: str, said: str
) -> None:
    write(pytester, *file, line)
    result = study(BODY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])
    everything = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in everything
    assert "INTERNALERROR" not in everything


def test_a_value_of_the_command_line_is_not_the_files(
    study: Run, pytester: pytest.Pytester
) -> None:
    write(pytester, *INI, "autotune_trials = 3")
    result = study(BODY, "-o", "autotune_trials=none")
    result.stderr.fnmatch_lines(["ERROR: autotune_trials (-o): 'none' is not a whole number of*"])
    study(BODY, "-o", "autotune_trials=2").assert_outcomes(passed=2)
