"""A study whose trials leave marks in a file outside of all storage, and the runs of it.

They say where trials began, and where pytest had been told that they are stored.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from project import SPEC, Project

from pytest_autotune.scoring.records import TrialRecord

BUDGET: Final = 20
TRIAL_SECONDS: Final = 0.03
MARKS: Final = """
import json, os, pathlib

FILE = pathlib.Path(__file__).with_name("marks.log")


def mark(*words):
    # In one write, so that marks of several processes do not mix.
    with FILE.open("ab", buffering=0) as file:
        file.write(json.dumps([*words, os.getpid()]).encode() + b"\\n")
"""
CONFTEST: Final = """
from marks import mark


def pytest_autotune_trial_finished(trial):
    mark("stored", trial.number, trial.outcome.value, trial.value)
"""
MODULE: Final = """
import time, urllib.request
import pytest
from marks import mark

pytestmark = pytest.mark.autotune(**SPEC)


def test_it(trial FIXTURES):
    mark("began", trial.number)
    SERVED
    time.sleep(SECONDS)
    a, b, c = trial.params["a"], trial.params["b"], trial.params["c"]
    assert a != 6
    trial.report({"cost": (a - 3) ** 2 + abs(b - 5) + (c == "x"), "mem": a * b})
"""
SERVED: Final = """
    mark("served", inference_server.base_url)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        with urllib.request.urlopen(inference_server.base_url + "/health", timeout=5) as answer:
            answer.read()
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a study is run: so many workers in so many sessions, one storage, perhaps a server."""

    name: str
    workers: int = 0
    sessions: int = 1
    postgres: bool = False
    server: str = ""

    @property
    def strategy(self) -> str:
        """A strategy whose choices do not depend on which trial ends first.

        Alone, any does; the trial of a server that is killed may fail, from which some learn.
        """
        alone = not self.workers and self.sessions == 1 and not self.server
        return "auto" if alone else "random"


def spec_of(layout: Layout, server: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the spec of a layout's study."""
    optimization = {
        **SPEC["optimization"], "max_iterations": BUDGET, "strategy": layout.strategy,
    }  # fmt: skip
    spec: dict[str, Any] = {**SPEC, "optimization": optimization}
    return spec if server is None else {**spec, "server": dict(server)}


@dataclass(frozen=True)
class Victim(Project):
    """A project whose runs are killed. Each run has a log of its own."""

    layout: Layout = field(kw_only=True)
    spec: Mapping[str, Any] = field(kw_only=True)
    storage: str | None = field(default=None, kw_only=True)
    variables: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def prepare(self) -> None:
        """Write the project's files."""
        served = bool(self.layout.server)
        module = MODULE.replace("SPEC", repr(dict(self.spec)))
        module = module.replace(" FIXTURES", ", inference_server" if served else "")
        module = module.replace("    SERVED\n", SERVED if served else "")
        (self.path / "test_study.py").write_text(module.replace("SECONDS", str(TRIAL_SECONDS)))
        (self.path / "conftest.py").write_text(CONFTEST)
        (self.path / "marks.py").write_text(MARKS)
        self.temporary.mkdir()

    @property
    def temporary(self) -> Path:
        """Where runs keep their temporary folders."""
        return self.path / "tmp"

    def log_of(self, run: int) -> str:
        """Return what a run printed."""
        return (self.path / f"run-{run}.log").read_text(errors="replace")

    def begin(self) -> int:
        """Start a run; return its place among all runs."""
        place = len(self.started)
        storage = () if self.storage is None else ("--autotune-storage", self.storage)
        workers = ("-n", str(self.layout.workers)) if self.layout.workers else ()
        environment = self.environment(
            **self.variables, CHAOS_MARK=str(self.path), TMPDIR=str(self.temporary)
        )
        with (self.path / f"run-{place}.log").open("w") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pytest", "--autotune", *storage, *workers],
                    cwd=self.path,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        return place

    def marks(self, *kinds: str) -> list[list[Any]]:
        """Return what trials left behind, in order."""
        with suppress(FileNotFoundError):
            lines = (self.path / "marks.log").read_bytes().splitlines()
            found = [json.loads(line) for line in lines]
            return [mark for mark in found if not kinds or mark[0] in kinds]
        return []

    def count_marks(self) -> int:
        """Return the number of marks so far; cheap enough to ask all the time."""
        with suppress(FileNotFoundError):
            return (self.path / "marks.log").read_bytes().count(b"\n")
        return 0

    def processes(self) -> list[int]:
        """Return the processes of all runs that have not ended."""
        needle, found = f"CHAOS_MARK={self.path}\0".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            # A zombie's environment is empty.
            with suppress(OSError):
                if needle in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def stored(self) -> dict[int, TrialRecord]:
        """Return the trials in storage, by number; the storage stays as it is, damage included."""
        if self.storage is not None:
            records = self.records(self.spec, self.storage)
        else:
            with tempfile.TemporaryDirectory() as folder:
                copy = Project(Path(folder))
                with suppress(FileNotFoundError):
                    shutil.copytree(self.path / ".pytest_cache", copy.path / ".pytest_cache")
                records = copy.records(self.spec)
        assert len({record.number for record in records}) == len(records), "numbers are unique"
        return {record.number: record for record in records}
