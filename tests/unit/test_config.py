"""Options and ini values become settings, and what is unusable is named with where it stood."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import make_plan, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import OptionError, UserError
from pytest_autotune.plugin.options import OPTIONS, read_settings
from pytest_autotune.study.settings import GivenFile, Settings
from pytest_autotune.text.durations import parse_duration

Read = Callable[..., Settings]


@pytest.fixture
def read() -> Read:
    """Read settings as pytest would hand them over; ``ini`` is the ini file."""

    def read(ini: dict[str, Any] | None = None, /, **options: Any) -> Settings:
        flags = {option.dest for option in OPTIONS if option.flag}
        config = SimpleNamespace(
            option=SimpleNamespace(**{o.dest: options.get(o.dest) for o in OPTIONS}),
            getini=lambda dest: (ini or {}).get(dest, False if dest in flags else ""),
            invocation_params=SimpleNamespace(dir=Path("/called/from")),
            inipath=Path("/ini/pytest.ini"),
            rootpath=Path("/root"),
        )
        return read_settings(cast("pytest.Config", config))

    return read


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("30m", 1800.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h30m15s", 5415.0),
        ("1h 30m", 5400.0),
        (" 5 s ", 5.0),
        ("1h30", 3630.0),
        ("200ms", 0.2),
        ("1s500ms", 1.5),
        ("250us", 0.00025),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "-5",
        "5d",
        "s",
        "h",
        "30s1h",
        "1.m",
        "1e3",
        "5ss",
        "5 minutes",
        "1:30",
        "5s30",
        "1ms5",
        "1us1ms",
    ],
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(OptionError, match="is not a duration; write for example 90s, 30m, 2h"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["0", "0s", "0h0m", 0, -1, -0.5, float("inf"), float("nan"), "9" * 400, 10**400],
    ids=lambda text: str(text)[:9],
)
def test_a_duration_is_positive_and_finite(text: str | float) -> None:
    with pytest.raises(OptionError, match="is not a positive duration"):
        parse_duration(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(max_size=12) | st.text("0123456789.hms ", max_size=8))
def test_any_text_is_a_duration_or_an_error(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert parse_duration(text) > 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    number=st.integers(1, 99_999),
    unit=st.sampled_from([("h", 3600), ("m", 60), ("s", 1), ("", 1), ("ms", 1e-3), ("us", 1e-6)]),
    space=st.sampled_from(["", " "]),
)
def test_a_number_with_a_unit_is_so_many_of_it(
    number: int, unit: tuple[str, float], space: str
) -> None:
    assert parse_duration(f"{number}{space}{unit[0]}") == pytest.approx(number * unit[1], rel=1e-12)


def test_nothing_asked_for_leaves_everything_to_the_spec(read: Read) -> None:
    assert read() == Settings()


def test_every_option_is_read_from_the_command_line(read: Read) -> None:
    assert read(
        autotune=True,
        autotune_trials="7",
        autotune_timeout="30m",
        autotune_strategy="random",
        autotune_seed="3",
        autotune_storage="sqlite:///x.db",
        autotune_fresh=True,
        autotune_infeasible="xfail",
        autotune_lock=True,
        autotune_lock_force=True,
    ) == Settings(
        enabled=True,
        lock=True,
        lock_force=True,
        trials=7,
        timeout=1800.0,
        strategy="random",
        seed=3,
        storage="sqlite:///x.db",
        fresh=True,
        infeasible="xfail",
    )


def test_the_gate_is_read_from_the_command_line(read: Read) -> None:
    assert read(
        autotune_gate=True, autotune_against="origin/main", autotune_strict=True
    ) == Settings(gate=True, against="origin/main", strict=True)
    assert read(autotune_gate=True) == Settings(gate=True)


def test_every_option_has_an_ini_twin_that_the_command_line_overrides(read: Read) -> None:
    ini = {
        "autotune": True,
        "autotune_trials": "7",
        "autotune_timeout": "90s",
        "autotune_strategy": "random",
        "autotune_seed": "0",
        "autotune_storage": "sqlite:///x.db",
        "autotune_fresh": True,
        "autotune_gpu_timeout": "5m",
        "autotune_infeasible": "fail",
        "autotune_lock": True,
        "autotune_lock_force": True,
    }
    from_ini = read(ini)
    assert from_ini == Settings(
        enabled=True, trials=7, timeout=90.0, strategy="random", seed=0,
        storage="sqlite:///x.db", fresh=True, gpu_timeout=300.0, infeasible="fail", lock=True,
        lock_force=True,
    )  # fmt: skip
    both = read(ini, autotune_trials="3", autotune_strategy="bayesian", autotune_infeasible="xfail")
    assert (both.trials, both.strategy, both.infeasible) == (3, "bayesian", "xfail")
    gate = {"autotune_gate": True, "autotune_against": "main", "autotune_strict": True}
    assert read(gate) == Settings(gate=True, against="main", strict=True)
    assert read(gate, autotune_against="HEAD~1").against == "HEAD~1"
    assert read({"autotune_keep": True}).keep
    with pytest.raises(
        OptionError, match=r"autotune_fresh \(pytest.ini\) starts anew, --autotune-keep"
    ):
        read({"autotune_fresh": True}, autotune_keep=True)
    others = {"autotune_record", "autotune_replay", "autotune_keep"}
    assert {option.dest for option in OPTIONS} == {*ini, *gate, *others}


@pytest.mark.parametrize("name", ["record", "replay"])
def test_a_file_is_relative_to_whoever_names_it(read: Read, name: str) -> None:
    key = f"autotune_{name}"
    called = getattr(read(autotune=True, **{key: "a/b.csv"}), name)
    where, path = f"--autotune-{name}", Path("/called/from/a/b.csv")
    assert called == GivenFile(where=where, written="a/b.csv", path=path)
    ini = {"autotune": True, key: "b.csv"}
    said = GivenFile(where=f"{key} (pytest.ini)", written="b.csv", path=Path("/ini/b.csv"))
    assert getattr(read(ini), name) == said
    assert getattr(read(ini, **{key: "/x.csv"}), name).path == Path("/x.csv")
    assert getattr(read(ini, **{key: ""}), name) is None
    # An ini file may say so for the runs that it concerns.
    assert getattr(read({key: "b.csv"}), name) is None
    with pytest.raises(OptionError, match=f"--autotune-{name} needs --autotune"):
        read(**{key: "b.csv"})


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ({"autotune": True, "autotune_lock": True}, "--autotune-lock"),
        ({"autotune": True, "autotune_lock_force": True}, "--autotune-lock"),
        ({"autotune_gate": True}, "--autotune-gate"),
        ({"autotune": True, "autotune_record": "y.csv"}, "--autotune-record"),
    ],
)
def test_what_is_replayed_is_neither_pinned_nor_compared_nor_recorded(
    read: Read, option: dict[str, Any], other: str
) -> None:
    with pytest.raises(OptionError, match=rf"^--autotune-replay and {other} exclude each other"):
        read(autotune_replay="x.csv", **option)
    with pytest.raises(OptionError, match=rf"^autotune_replay \(pytest.ini\) and {other} excl"):
        read({"autotune_replay": "x.csv"}, **option)


def test_an_empty_option_takes_back_what_the_ini_file_says(read: Read) -> None:
    ini = {"autotune_trials": "7", "autotune_timeout": "90s", "autotune_strategy": "random"}
    assert read(ini, autotune_trials="", autotune_timeout="", autotune_strategy="") == Settings()


def test_to_search_and_to_gate_exclude_each_other(read: Read) -> None:
    with pytest.raises(OptionError) as caught:
        read(autotune=True, autotune_gate=True)
    assert str(caught.value) == (
        "--autotune searches, --autotune-gate compares what was found: give one of them"
    )
    with pytest.raises(OptionError) as caught:
        read({"autotune": True, "autotune_gate": True})
    assert str(caught.value) == (
        "autotune (pytest.ini) and autotune_gate (pytest.ini) exclude each other: set one of them"
    )


@pytest.mark.parametrize("ini", [{"autotune": True}, {"autotune_gate": True}, {}])
def test_what_the_command_line_says_to_do_wins_over_the_ini_file(
    read: Read, ini: dict[str, Any]
) -> None:
    both = {"autotune": True, "autotune_gate": True}
    for known in (ini, both):
        tuning, gating = read(known, autotune=True), read(known, autotune_gate=True)
        assert (tuning.enabled, tuning.gate) == (True, False)
        assert (gating.enabled, gating.gate) == (False, True)
    found = read(ini)
    assert (found.enabled, found.gate) == ("autotune" in ini, "autotune_gate" in ini)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"autotune_against": "main"}, "--autotune-against needs --autotune-gate"),
        ({"autotune_strict": True}, "--autotune-strict needs --autotune-gate"),
        ({"autotune_lock": True}, "--autotune-lock needs --autotune"),
        ({"autotune_lock_force": True}, "--autotune-lock-force needs --autotune"),
        (
            {"autotune": True, "autotune_against": "main"},
            "--autotune-against needs --autotune-gate",
        ),
        ({"autotune_gate": True, "autotune_lock": True}, "--autotune-lock needs --autotune"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    read: Read, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read(**options)
    assert str(caught.value) == said


def test_an_ini_file_may_say_what_only_some_runs_take_notice_of(read: Read) -> None:
    ini = {"autotune_against": "main", "autotune_strict": True, "autotune_lock": True}
    assert not read(ini).lock
    assert not read(ini, autotune_gate=True).lock
    assert read(ini, autotune=True).lock
    assert read(ini, autotune_gate=True).against == "main"


def test_an_option_may_go_with_a_mode_that_the_ini_file_sets(read: Read) -> None:
    assert read({"autotune_gate": True}, autotune_against="main").against == "main"
    assert read({"autotune": True}, autotune_lock=True).lock


def test_to_force_a_lock_is_to_lock(read: Read) -> None:
    found = read(autotune=True, autotune_lock_force=True)
    assert (found.lock, found.lock_force) == (True, True)
    assert read(autotune=True, autotune_lock=True).lock_force is False


def test_an_empty_revision_is_not_taken_for_none(read: Read) -> None:
    for ini in ({}, {"autotune_against": "main"}):
        with pytest.raises(OptionError) as caught:
            read(ini, autotune_gate=True, autotune_against="")
        assert str(caught.value) == (
            "--autotune-against: '' is no revision; give a branch, a tag or a commit"
        )
    # In an ini file it is what is there if nothing is.
    assert read({"autotune_gate": True, "autotune_against": ""}).against is None


@pytest.mark.parametrize(
    ("dest", "value", "said"),
    [
        ("autotune_trials", "0", "'0' is not a whole number of at least 1"),
        ("autotune_trials", "many", "'many' is not a whole number of at least 1"),
        ("autotune_trials", "2.5", "'2.5' is not a whole number of at least 1"),
        ("autotune_seed", "-1", "'-1' is not a whole number of at least 0"),
        ("autotune_timeout", "soon", "'soon' is not a duration; write for example"),
        ("autotune_timeout", "0", "'0' is not a positive duration"),
        ("autotune_infeasible", "pass", "'pass' is not 'fail' or 'xfail'"),
    ],
)
def test_an_unusable_value_is_named_with_where_it_was_given(
    read: Read, dest: str, value: str, said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read(**{dest: value})
    message = str(caught.value)
    assert message.startswith(f"--{dest.replace('_', '-')}: ")
    assert said in message
    with pytest.raises(UserError) as caught_in_ini:
        read({dest: value})
    assert str(caught_in_ini.value).startswith(f"{dest} (pytest.ini): ")


@pytest.mark.parametrize(
    ("ini", "settings"),
    [
        ({"autotune_trials": 3, "autotune_seed": 0}, Settings(trials=3, seed=0)),
        (
            {"autotune_timeout": 90, "autotune_gpu_timeout": 0.5},
            Settings(timeout=90.0, gpu_timeout=0.5),
        ),
        ({"autotune_timeout": "200ms"}, Settings(timeout=0.2)),
    ],
)
def test_an_ini_file_with_types_gives_numbers(
    read: Read, ini: dict[str, Any], settings: Settings
) -> None:
    assert read(ini) == settings


@pytest.mark.parametrize(
    ("dest", "value", "said"),
    [
        ("autotune_trials", 0, "0 is not a whole number of at least 1"),
        ("autotune_trials", True, "True is not a whole number of at least 1"),
        ("autotune_seed", -1, "-1 is not a whole number of at least 0"),
        ("autotune_timeout", 0, "0 is not a positive duration"),
        ("autotune_gpu_timeout", -1.5, "-1.5 is not a positive duration"),
    ],
)
def test_a_number_that_cannot_be_meant_is_named_with_its_file(
    read: Read, dest: str, value: Any, said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read({dest: value})
    assert str(caught.value) == f"{dest} (pytest.ini): {said}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("invalid truth value 'maybe'"), "autotune (pytest.ini): invalid truth value"),
        (
            TypeError("x.toml: config option 'autotune' expects a bool"),
            "x.toml: config option 'aut",
        ),
        (pytest.UsageError("what pytest says"), "autotune (pytest.ini): what pytest says"),
    ],
)
def test_what_pytest_cannot_convert_names_the_option_and_the_file(
    error: Exception, said: str
) -> None:
    def getini(dest: str) -> Any:
        raise error

    inipath = Path("/ini/pytest.ini")
    config = SimpleNamespace(option=SimpleNamespace(), getini=getini, inipath=inipath)
    with pytest.raises(OptionError) as caught:
        read_settings(cast("pytest.Config", config))
    assert str(caught.value).startswith(said)


def test_the_options_are_spelt_as_documented() -> None:
    assert [option.cli for option in OPTIONS] == [
        "--autotune",
        "--autotune-gate",
        "--autotune-against",
        "--autotune-strict",
        "--autotune-lock",
        "--autotune-lock-force",
        "--autotune-trials",
        "--autotune-timeout",
        "--autotune-strategy",
        "--autotune-seed",
        "--autotune-storage",
        "--autotune-fresh",
        "--autotune-keep",
        "--autotune-gpu-timeout",
        "--autotune-infeasible",
        "--autotune-record",
        "--autotune-replay",
    ]
    assert all(option.help for option in OPTIONS)


def test_the_command_line_wins_over_the_spec() -> None:
    spec = make_spec(
        parameters={"a": [1, 2]},
        optimization={
            "strategy": "random", "max_iterations": 5, "seed": 9, "timeout": 60,
            "infeasible": "xfail", "storage": "sqlite:///spec.db", "objective": "maximize:x",
        },
    )  # fmt: skip
    by_spec = make_plan(spec)
    assert (by_spec.strategy, by_spec.budget, by_spec.seed) == ("random", 5, 9)
    assert (by_spec.timeout, by_spec.xfail) == (60.0, True)
    assert by_spec.storage == "sqlite:///spec.db"
    assert by_spec.objective.maximize
    by_options = make_plan(
        spec, strategy="grid_search", trials=3, seed=0, timeout=5.0, infeasible="fail",
        storage="sqlite:///mine.db", fresh=True,
    )  # fmt: skip
    assert (by_options.strategy, by_options.budget, by_options.seed) == ("grid_search", 3, 0)
    assert (by_options.timeout, by_options.xfail, by_options.fresh) == (5.0, False, True)
    assert by_options.storage == "sqlite:///mine.db"
