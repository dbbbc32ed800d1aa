"""A launch is what the run is, but for what is the run's own affair."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest

from pytest_autotune.gate.launch.harness import Harness
from pytest_autotune.gate.launch.launcher import PACKAGE, PATH, LaunchFailed
from pytest_autotune.plugin.harness import _OWN, harness_of

Make: TypeAlias = Callable[..., Harness]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a harness of a run in ``tmp_path``, a repository, with pytest's root in ``inner``."""
    (tmp_path / "top" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def make(folder: str = "inner", **options: Any) -> Harness:
        root = tmp_path / "top" / "inner"
        config = SimpleNamespace(
            option=SimpleNamespace(**options),
            rootpath=root,
            inipath=root / "pytest.ini",
            invocation_params=SimpleNamespace(dir=tmp_path / "top" / folder),
        )
        found = harness_of(cast("pytest.Config", config))
        # There is no repository; as if there were.
        assert found.top == root
        return Harness(
            options=found.options, plugins=found.plugins, top=tmp_path / "top", root=found.root,
            folder=found.folder, ini=found.ini, notes=found.notes,
        )  # fmt: skip

    return make


def test_options_are_passed_on_as_json_can_carry_them(make: Make) -> None:
    class Strange:
        pass

    harness = make(
        flavour="sweet", count=3, ratio=0.5, on=True, nothing=None, path=Path("/x"),
        listed=["a", Path("b")], pair=(1, 2), table={"a": [1]}, odd=Strange(), odder=[Strange()],
        oddest={"a": Strange()}, keyed={1: 2},
    )  # fmt: skip
    assert harness.options == {
        "flavour": "sweet", "count": 3, "ratio": 0.5, "on": True, "nothing": None,
        "path": {PATH: "/x"}, "listed": ["a", {PATH: "b"}], "pair": [1, 2], "table": {"a": [1]},
    }  # fmt: skip
    # What is lost on the way is told.
    assert harness.notes == tuple(
        f"the option {name!r} could not be handed to launches, which had its default"
        for name in ("odd", "odder", "oddest", "keyed")
    )


def test_what_selects_distributes_or_reports_is_the_runs_own_affair(make: Make) -> None:
    given = {
        "maxfail": 1, "keyword": "fast", "markexpr": "slow", "numprocesses": 2, "dist": "load",
        "tx": ["popen", "popen"], "cov_source": ["src"], "no_cov": False, "xmlpath": "junit.xml",
        "lf": True, "verbose": 2, "usepdb": True, "deselect": ["x"],
        "collectonly": False,
    }  # fmt: skip
    options = make(**given).options
    assert options == {name: _OWN[name] for name in given}
    assert (options["maxfail"], options["numprocesses"], options["dist"]) == (0, None, "no")


def test_an_option_that_the_run_does_not_have_is_not_made_up(make: Make) -> None:
    assert make().options == {}


def test_of_our_own_options_only_the_wait_for_gpus_is_passed_on(make: Make) -> None:
    options = make(
        autotune=None, autotune_gate=True, autotune_against="main", autotune_seed="3",
        autotune_gpu_timeout="5m", autotune_lock=None,
    ).options  # fmt: skip
    assert options == {"autotune_gpu_timeout": "5m"}


def test_arguments_are_replaced_and_plugins_become_arguments(make: Make, tmp_path: Path) -> None:
    harness = make(file_or_dir=["tests"], plugins=["no:randomly", "mine", "no:randomly"])
    assert harness.options == {}
    launcher = harness.launcher({"a": 1}, tmp_path / "log")
    assert launcher.arguments == [
        "-p", "no:randomly", "-p", "mine", "-p", "no:cacheprovider",
    ]  # fmt: skip
    assert make().plugins == ("no:cacheprovider",)


def test_the_working_tree_is_launched_where_the_run_is(make: Make, tmp_path: Path) -> None:
    launcher = make(folder=".", confcutdir="inner").launcher({"a": 1}, tmp_path / "new.log")
    assert (launcher.folder, launcher.root) == (tmp_path / "top", tmp_path / "top" / "inner")
    assert (launcher.params, launcher.not_from, launcher.log) == (
        {"a": 1}, None, tmp_path / "new.log",
    )  # fmt: skip
    assert launcher.options["confcutdir"] == str(tmp_path / "top" / "inner")


def test_an_old_revision_is_launched_in_the_same_place_of_its_tree(
    make: Make, tmp_path: Path
) -> None:
    top, tree = tmp_path / "top", tmp_path / "tree"
    harness = make(confcutdir="/elsewhere")
    # As it was found by the run: nearer ones of either tree are not looked for.
    (tree / "inner" / "pytest.ini").touch()
    launcher = harness.launcher({}, tmp_path / "log", tree)
    assert (launcher.folder, launcher.root) == (tree / "inner", tree / "inner")
    assert (launcher.top, launcher.not_from) == (tree, top)
    assert launcher.options == {
        "rootdir": str(tree / "inner"),
        "inifilename": str(tree / "inner" / "pytest.ini"),
        "confcutdir": "/elsewhere",
    }
    # What the working tree gets is not touched by that.
    new = harness.launcher({}, tmp_path / "log").options
    assert (new["rootdir"], new["inifilename"]) == (str(top / "inner"), None)


def test_both_sides_import_from_the_same_places(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, tree = tmp_path / "top", tmp_path / "tree"
    given = [str(top / "src"), "/elsewhere/lib"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(given))
    # As under `python -m pytest`, where the current folder is one.
    monkeypatch.setattr(sys, "path", ["", *given, *sys.path, str(PACKAGE.parent)])
    harness = make()
    new = harness.launcher({}, tmp_path / "log").import_path
    old = harness.launcher({}, tmp_path / "log", tree).import_path
    assert new == [str(top / "inner"), str(top / "src"), "/elsewhere/lib"]
    assert old == [str(tree / "inner"), str(tree / "src"), "/elsewhere/lib"]


def test_a_place_that_only_the_parents_process_has_is_not_passed_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["/usr/lib/mine", *sys.path, str(PACKAGE.parent)])
    assert make().launcher({}, tmp_path / "log").import_path == []


def test_where_there_is_no_repository_the_root_is_the_top(make: Make, tmp_path: Path) -> None:
    assert make().counterpart(tmp_path / "top" / "x", None) == tmp_path / "top" / "x"
    tree = tmp_path / "tree"
    assert make().counterpart(tmp_path / "top" / "x", tree) == tree / "x"
    assert make().counterpart(Path("/elsewhere/x"), tree) == Path("/elsewhere/x")


# --- preparing -------------------------------------------------------------------------------


def test_a_checkout_is_made_ready_once_in_the_place_of_pytests_root(
    make: Make, tmp_path: Path
) -> None:
    done: set[tuple[str, ...]] = set()
    built, other = ("sh", "-c", "echo built >> made"), ("touch", "other")
    for command in (built, (), built, other):
        make().prepare(command, tmp_path / "tree", done)
    assert (tmp_path / "tree" / "inner" / "made").read_text() == "built\n"
    assert (tmp_path / "tree" / "inner" / "other").exists()
    assert done == {built, other}


def test_no_shell_reads_the_arguments(make: Make, tmp_path: Path) -> None:
    words = ("touch", "a; touch b", "$HOME", "`id`", "*")
    make().prepare(words, tmp_path / "tree", set())
    found = {path.name for path in (tmp_path / "tree" / "inner").iterdir()}
    assert found >= set(words[1:])
    assert "b" not in found


def test_a_program_that_is_not_there_is_named(make: Make, tmp_path: Path) -> None:
    for words in (("no-such-program", "x"), ("echo", "\0")):
        with pytest.raises(LaunchFailed, match=r"\(gate\.prepare\) cannot be run: "):
            make().prepare(words, tmp_path / "tree", set())


def test_what_cannot_be_made_ready_says_how_it_ended_and_what_was_said(
    make: Make, tmp_path: Path
) -> None:
    done: set[tuple[str, ...]] = set()
    line = "for i in $(seq 50); do echo line $i; done; echo broken >&2; exit 3"
    command = ("sh", "-c", line)
    with pytest.raises(LaunchFailed) as caught:
        make().prepare(command, tmp_path / "tree", done)
    assert str(caught.value) == (
        f"the old revision cannot be made ready: {shlex.join(command)!r} (gate.prepare) ended "
        "with exit status 3"
    )
    said = caught.value.details.splitlines()
    assert (len(said), said[0], said[-1]) == (30, "line 22", "broken")
    assert not done
