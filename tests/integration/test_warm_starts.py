"""A new study begins with what is pinned, and with what was best before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from project import SPEC, Project

LABEL = "test_study.py"


@pytest.fixture
def here(pytester: pytest.Pytester) -> Project:
    project = Project(pytester.path)
    project.write()
    return project


def pin(project: Project, parameters: Mapping[str, Any]) -> None:
    """Write a lock file as of another machine."""
    entry = {
        "spec": "test_study.py",
        "objective": "minimize:cost",
        "metric": "cost",
        "maximize": False,
        "parameters": dict(parameters),
        "metrics": {"cost": {"median": 1.0, "low": 1.0, "high": 1.0, "launches": 3}},
        "slo": [],
        "fingerprint": {"cpu": "of another machine"},
        "digests": dict.fromkeys(("space", "objective", "slo", "workload", "server"), "0" * 12),
        "commit": "",
        "locked": "2026-01-31",
        "by": "pytest-autotune 0.1.0",
    }
    text = json.dumps({"version": 1, "studies": {LABEL: entry}})
    (project.path / "autotune.lock.json").write_text(text)


def first_trial(output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith("  trial 0 "))


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["serial", "xdist"])
def test_what_is_pinned_is_tried_first(here: Project, options: tuple[str, ...]) -> None:
    pinned = {"a": 4, "b": 7, "c": "x"}
    pin(here, pinned)
    result = here.run("-v", "--autotune-trials", "4", *options)
    # Among workers, the number does not say which trial began first.
    assert min(here.records(), key=lambda record: record.owner.started).params == pinned, result
    if not options:
        assert "[a=4 b=7 c=x]" in first_trial(result), result
    assert "warm start: a configuration that did well before came first" in result


def test_what_is_pinned_and_no_longer_valid_is_moved(here: Project) -> None:
    pin(here, {"a": 6, "b": 99, "gone": 1})
    result = here.run("-v", "--autotune-trials", "1")
    assert "[a=6 b=5 c=x]" in first_trial(result)


def test_a_broken_lock_file_is_said_and_does_no_harm(here: Project) -> None:
    (here.path / "autotune.lock.json").write_text("{")
    result = here.run("--autotune-trials", "2")
    assert "no warm start: autotune.lock.json: not valid JSON" in result
    assert "trials   2 of 2" in result


def test_a_changed_study_begins_with_the_best_of_before(here: Project) -> None:
    here.run("--autotune-trials", "10")
    here.write(spec={**SPEC, "model": {"id_or_path": "another"}})
    result = here.run("-v", "--autotune-trials", "2")
    assert "warm start: 2 configurations that did well before came first" in result
    fresh = here.run("-v", "--autotune-trials", "2", "--autotune-fresh")
    assert "warm start" not in fresh
