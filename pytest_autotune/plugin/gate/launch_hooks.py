"""Hooks of a launch: they run tests with a pinned configuration, and write the result."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_autotune.gate.launch.launcher import Failure
from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.slots import StudyOutline
from pytest_autotune.plugin.tuning import Tuning
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.pinned import Pin
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings
from pytest_autotune.system.files import replace_file


class LaunchPins:
    """Pins the parameters of the job for any study."""

    brief = True
    missing = "a launch runs pinned parameters only"

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job

    def find(self, nodeid: str, plan: Plan) -> Pin:  # noqa: ARG002 - any study's
        """Return the pin of the job. If it is lenient, every bound of the SLO is soft.

        The job may say how cases combine.
        """
        rule = self._job["rule"]
        optimization = replace(plan.spec.optimization, **rule)
        plan = replace(plan, spec=replace(plan.spec, optimization=optimization))
        slo = plan.spec.slo
        if self._job["lenient"] and slo.levels == "all":
            soft = tuple(replace(bound, hard=False) for bound in slo.bounds)
            plan = replace(plan, spec=replace(plan.spec, slo=replace(slo, bounds=soft)))
        return Pin(params=self._job["params"], plan=plan, seed=self._job["seed"])


class LaunchHooks:
    """Hooks of a launch."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._tuning: Tuning | None = None
        self._config: pytest.Config | None = None
        self._context: RunContext | None = None
        self._uncollected: list[str] = []
        self._failures: list[str] = []
        self._findings = Findings()
        self._collecting = False
        self._all_found = False

    def start(self, config: pytest.Config, settings: Settings) -> None:
        """Register the session that runs the tests."""
        self._config = config
        # The launcher removes this folder even if this process dies.
        self._context = RunContext.of(config, Path(self._job["result"]).parent)
        pins = LaunchPins(self._job)
        self._tuning = Tuning.register(config, settings, self._context, self, pins)

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Do nothing: a launch has no summary."""

    def merge(self, findings: Findings) -> None:
        """Keep the errors."""
        self._findings.take_over(findings)

    def pytest_collectstart(self) -> None:
        """Remember that pytest began to look for tests."""
        self._collecting = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember modules that could not be imported."""
        if report.failed:
            self._uncollected.append(str(report.longrepr))

    def pytest_collection_modifyitems(self) -> None:
        """Remember that all tests were found."""
        self._all_found = True

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_finish(self) -> Generator[None, object, object]:
        """Keep the errors of specs, before they end the run."""
        assert self._tuning is not None, "started"
        self._findings.take_over(self._tuning.findings)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the failures of tests."""
        if report.failed:
            self._failures.append(f"{report.nodeid} ({report.when}): {report.longreprtext}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the result, whole or not at all."""
        assert self._tuning is not None, "started"
        records = map(self._tuning.runner.record_of, self._tuning.collector.studies)
        record = next((record for record in records if record is not None), None)
        files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        document = {
            "failure": self._failure(record, exitstatus),
            "record": None if record is None else _document(record),
            "files": sorted({file for file in files if isinstance(file, str)}),
        }
        replace_file(Path(self._job["result"]), json.dumps(document).encode())

    def _failure(self, record: TrialRecord | None, exitstatus: int) -> dict[str, str] | None:
        """Return the reason for which there is nothing to compare, None if there is something."""
        kind: Failure = "failed"
        details = "\n".join(self._failures)
        if self._uncollected:
            kind, message = "not importable", "its tests cannot be collected"
            details = "\n".join(self._uncollected)
        elif record is not None:
            if record.outcome in {Outcome.FEASIBLE, Outcome.INFEASIBLE}:
                return None
            message = record.reason or record.outcome.value
        elif exitstatus != pytest.ExitCode.USAGE_ERROR:
            message = "; ".join(self._findings.errors)
            message = message or f"no trial ran (exit status {int(exitstatus)})"
        elif self._findings.errors or self._all_found or not self._looked_for_tests():
            message = "pytest does not start there"
        else:
            kind, message = "test missing", "it has no such test"
        return {"kind": kind, "message": message, "details": details}

    def _looked_for_tests(self) -> bool:
        """Return whether pytest came to look for the tests, or for files that are not there."""
        assert self._config is not None, "started"
        folder = self._config.invocation_params.dir
        files = (folder / argument.partition("::")[0] for argument in self._config.args)
        return self._collecting or not all(file.exists() for file in files)

    def pytest_unconfigure(self) -> None:
        """Leave no temporary files."""
        if self._context is not None:
            self._context.cleanup()


def _document(record: TrialRecord) -> dict[str, Any]:
    return {
        "outcome": record.outcome.value,
        "score": record.score,
        "metrics": {name: v for name, v in record.metrics.items() if math.isfinite(v)},
        "bounds": [asdict(result) for result in record.bounds],
    }
