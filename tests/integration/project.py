"""A project with one study, to run pytest on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders import read_records
from inner import Runs

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

#: A study whose result depends on its parameters only: what a resumed run must reproduce.
SPEC: Mapping[str, Any] = {
    "parameters": {
        "a": [1, 2, 3, 4, 5, 6],
        "b": {"type": "integer", "low": 1, "high": 8},
        "c": ["x", "y"],
    },
    "constraints": ["a * b <= 30"],
    "optimization": {"objective": "minimize:cost", "max_iterations": 12, "n_initial_random": 4},
    "slo": [{"metric": "mem", "max": 20}],
}
HEAD = """
import os, pathlib, signal, time
import pytest

pytestmark = pytest.mark.autotune(**{spec!r})


"""
MODULE = """
def test_correct(trial):
    assert trial.params["a"] != 6


def test_fast(trial):
    time.sleep(SLEEP)
    a, b, c = trial.params["a"], trial.params["b"], trial.params["c"]
    with pathlib.Path("completed.log").open("a") as file:
        file.write(f"{a} {b} {c} {os.getpid()}\\n")
    trial.report({"cost": (a - 3) ** 2 + abs(b - 5) + (c == "x"), "mem": a * b})
"""


@dataclass(frozen=True)
class Study(Runs):
    """A folder with one study."""

    ALWAYS = ("--autotune",)

    def records_of(self, nodeid: str, spec: Spec, storage: str | None = None) -> list[TrialRecord]:
        plan = Plan.make(nodeid, spec, Settings(storage=storage))
        return read_records(plan, self.path / ".pytest_cache" / "autotune")


@dataclass(frozen=True)
class Project(Study):
    """A folder with one study in ``test_study.py``."""

    def write(
        self, module: str = MODULE, spec: Mapping[str, Any] = SPEC, *, sleep: float = 0.0
    ) -> None:
        text = HEAD.format(spec=spec) + module.replace("SLEEP", str(sleep))
        (self.path / "test_study.py").write_text(text)

    def completed(self) -> list[str]:
        """Parameters of every time that a trial ran to its end, in order."""
        log = self.path / "completed.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.rsplit(" ", 1)[0] for line in lines]

    def records(
        self, spec: Mapping[str, Any] = SPEC, storage: str | None = None
    ) -> list[TrialRecord]:
        nodeid = "test_study.py"
        return self.records_of(nodeid, load_inline(nodeid, spec, "test"), storage)

    def trials(self) -> list[tuple[str, str, float | None]]:
        """Return the part of the trials that two runs of the same seed have in common."""
        return [(json.dumps(dict(r.params)), r.outcome.value, r.value) for r in self.records()]
