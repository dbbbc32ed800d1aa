"""A mistake that keeps the gate from comparing ends in one message and exit status 4."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from gated import QUICK, Gated

Edit = Callable[[dict[str, Any]], object]
Refused = Callable[..., str]
#: That a mistake ends a run with workers in one message, too, other tests here show quickly.
WORKERS = [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)]


@pytest.fixture
def refused(gated: Gated, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run pytest in this process, where it must end with status 4; return what it said."""
    for name, value in gated.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(gated.root)

    def run(*arguments: str) -> str:
        result = pytester.runpytest_inprocess(*arguments)
        text = f"{result.stdout}\n{result.stderr}"
        assert result.ret == pytest.ExitCode.USAGE_ERROR, text
        assert "INTERNALERROR" not in text
        return text

    return run


def assert_usage_error(text: str, *parts: str) -> None:
    """Check that the run ended in one line with all parts, in which nothing ran."""
    assert "Traceback" not in text
    assert " passed" not in text
    lines = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    assert len(lines) == 1, text
    for part in parts:
        assert part in lines[0]


def test_there_is_no_lock_file(gated: Gated, refused: Refused) -> None:
    gated.lock_file.unlink()
    text = refused("--autotune-gate")
    assert_usage_error(text, "autotune.lock.json: no such file in ", "pytest --autotune --auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "autotune.lock.json: not valid JSON: line 1 column 2: "),
        ("\xff", "autotune.lock.json: not UTF-8: byte 0xff in line 1"),
        ('{\n<<<<<<< ours\n"version": 1\n', "autotune.lock.json: line 2: git left its marks of a"),
        ('{"version": 9}', "autotune.lock.json: written by a newer pytest-autotune (version 9)"),
        ('{"version": 1, "studies": 3}', "autotune.lock.json: /studies: "),
    ],
)
@pytest.mark.parametrize("workers", WORKERS)
def test_a_damaged_lock_file(
    gated: Gated, refused: Refused, content: str, message: str, workers: list[str]
) -> None:
    gated.lock_file.write_bytes(content.encode("latin-1"))
    assert_usage_error(refused("--autotune-gate", *workers), message)


def drop_cost(entry: dict[str, Any]) -> None:
    del entry["metrics"]["cost"]["median"]


AT = "autotune.lock.json: /studies/test_kernel.py (kernel)"
MISFITS: dict[str, tuple[Edit, str]] = {
    "spec": (
        lambda entry: entry.update(spec="kernal"),
        f"{AT}/spec: locked for the spec 'kernal', not 'kernel'; tune and lock again: pytest --a",
    ),
    "objective": (
        lambda entry: entry.update(objective="maximize:cost"),
        f"{AT}/objective: locked for 'maximize:cost', not 'minimize:cost'; tune and lock again",
    ),
    "value": (
        lambda entry: entry.update(parameters={"a": 9}),
        f"{AT}/parameters/a: 9 is not one of 1, 2, 3; tune and lock again",
    ),
    "name": (
        lambda entry: entry.update(parameters={"a": 1, "b": 1}),
        f"{AT}/parameters/b: the spec has no parameter 'b'",
    ),
    "schema": (drop_cost, f"{AT}/metrics/cost"),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("workers", WORKERS)
def test_a_lock_file_for_another_spec(
    gated: Gated, refused: Refused, misfit: str, workers: list[str]
) -> None:
    edit, message = MISFITS[misfit]
    gated.edit_lock(edit)
    assert_usage_error(refused("--autotune-gate", *workers), message)


def test_what_is_harmless_since_the_lock_is_a_note(gated: Gated) -> None:
    gated.spec(parameters={"a": [1, 2]}, slo=[{"metric": "cost", "max": 2}])
    text = gated.compare("HEAD")
    assert f"note     {AT}/digests/space: the search space changed since this was locked" in text
    assert f"note     {AT}/digests/slo: the SLO changed since this was locked" in text


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_nothing_that_was_collected_is_pinned(
    gated: Gated, refused: Refused, workers: list[str]
) -> None:
    (gated.root / "test_kernel.py").rename(gated.root / "test_renamed.py")
    text = refused("--autotune-gate", *workers)
    assert_usage_error(
        text,
        "autotune.lock.json: pins none of what was collected ('test_renamed.py (kernel)'), but "
        "'test_kernel.py (kernel)'",
        "pytest --autotune --autotune-lock pins",
    )


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("mian", "--autotune-against 'mian': there is no such revision in "),
        ("mian", " (did you mean 'main'?)"),
        ("HEAD~7", "--autotune-against 'HEAD~7': there is no such revision in "),
        ("HEAD:kernel.py", "--autotune-against 'HEAD:kernel.py': this is a blob, no commit; give"),
        ("--all", "--autotune-against '--all': this is no revision; give a branch, a tag or a"),
        ("", "--autotune-against: '' is no revision; give a branch, a tag or a commit"),
    ],
)
def test_a_revision_that_is_not_there(refused: Refused, revision: str, message: str) -> None:
    assert_usage_error(refused("--autotune-gate", f"--autotune-against={revision}"), message)


@pytest.mark.parametrize("missing", ["repository", "commit", "git"])
def test_there_is_nothing_to_take_a_revision_from(gated: Gated, missing: str) -> None:
    environment = {}
    message = "--autotune-against 'HEAD': there is no such revision in "
    if missing == "repository":
        (gated.path / ".git").rename(gated.path.parent / "gone")
        message = (
            f"--autotune-against needs a git repository to take the old revision from, and "
            f"{gated.path} lies in none; git says: not a git repository"
        )
    elif missing == "commit":
        gated.git("update-ref", "-d", "HEAD")
    else:
        environment = {"PATH": str(gated.temporary)}
        message = "--autotune-against needs git, which cannot be run here (No such file or dir"
    text = gated.gate("--autotune-against=HEAD", status=4, **environment)
    assert_usage_error(text, message)
    if missing == "repository":
        (gated.path.parent / "gone").rename(gated.path / ".git")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--autotune", "--autotune-gate"],
            "--autotune searches, --autotune-gate compares what was found: give one of them",
        ),
        (["--autotune-against=HEAD"], "--autotune-against needs --autotune-gate"),
        (["--autotune-strict"], "--autotune-strict needs --autotune-gate"),
        (["--autotune", "--autotune-strict"], "--autotune-strict needs --autotune-gate"),
        (["--autotune-lock"], "--autotune-lock needs --autotune"),
        (["--autotune-gate", "--autotune-lock"], "--autotune-lock needs --autotune"),
        (["--autotune-lock-force"], "--autotune-lock-force needs --autotune"),
    ],
)
def test_options_that_do_not_belong_together(
    refused: Refused, arguments: list[str], message: str
) -> None:
    assert_usage_error(refused(*arguments), message)


def test_ini_values_are_for_the_runs_that_they_concern(gated: Gated) -> None:
    ini = "[pytest]\nautotune_gate = true\nautotune_against = HEAD\nautotune_lock = true\n"
    gated.write("pytest.ini", ini)
    assert "against  HEAD = " in gated.run()
    assert "gate" not in gated.run("--autotune", "--collect-only", "-q")
    gated.write("pytest.ini", ini + "autotune = true\n")
    message = (
        "autotune (pytest.ini) and autotune_gate (pytest.ini) exclude each other: set one of them"
    )
    assert_usage_error(gated.run(status=4), message)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"tolerance": "300%"}, "/kernel/gate/tolerance: '300%' is not between 0 and 1: write a"),
        ({"tolerence": 0.1}, "/kernel/gate/tolerence: unknown key 'tolerence' (did you mean 'tol"),
        ({"metrics": ["warmth"]}, "/kernel/gate/metrics/0: whether more or less of 'warmth' is"),
        ({"max_launches": 3}, "/kernel/gate/max_launches: 3 launches cannot tell a regression wi"),
        ({"alpha": 0.4, "max_launches": 4}, "/kernel/gate/max_launches: 4 launches cannot "),
    ],
)
def test_a_gate_that_cannot_be_meant(
    gated: Gated, refused: Refused, gate: dict[str, Any], message: str
) -> None:
    gated.spec(gate)
    text = refused("--autotune-gate")
    assert_usage_error(text, "ERROR: autotune.json:1:", f": {message}")


def test_a_metric_that_nobody_reports_fails(gated: Gated) -> None:
    gated.spec({**QUICK, "metrics": ["minimize:costs"]})
    text = gated.gate("-v", status=1)
    column = (gated.root / "autotune.json").read_text().index('"minimize:costs"') + 1
    assert (
        f"gate     FAILED: autotune.json:1:{column}: /kernel/gate/metrics/0: 'minimize:costs' is "
        "not among what the tests reported: cost"
    ) in text
    assert "1 failed, 1 passed" in text
    assert "Traceback" not in text


def test_a_cost_of_nothing_has_no_ratio(gated: Gated) -> None:
    gated.kernel("0.0")
    text = gated.compare("HEAD")
    assert "gate     inconclusive" in text
    assert "because  cost was 0, negative or no number in a launch, so there is no ratio" in text
    document = json.loads((gated.root / ".pytest_cache/v/autotune/gate").read_text())
    assert document["test_kernel.py (kernel)"]["verdict"] == "inconclusive"
