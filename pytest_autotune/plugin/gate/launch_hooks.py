"""One launch, in a process of its own: run tests with what is pinned, write what they find."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_autotune.plugin.context import RunContext
from pytest_autotune.plugin.session import TuningSession
from pytest_autotune.plugin.slots import StudyOutline
from pytest_autotune.study.pinned import Pin
from pytest_autotune.study.settings import Settings
from pytest_autotune.study.study import Plan, Stop


class LaunchPins:
    """Pins what the job says for whichever study is run."""

    brief = True
    missing = "only what is pinned is launched"

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job

    def find(self, nodeid: str, plan: Plan) -> Pin:  # noqa: ARG002 - any study's
        """Return what to run; what is lenient reports everything, whatever SLO it breaks."""
        slo = plan.spec.slo
        if self._job["lenient"] and slo.levels == "all":
            soft = tuple(replace(bound, hard=False) for bound in slo.bounds)
            plan = replace(plan, spec=replace(plan.spec, slo=replace(slo, bounds=soft)))
        return Pin(params=self._job["params"], plan=plan, seed=self._job["seed"])


class LaunchHooks:
    """Hooks of a launch: what went wrong, and the result at the end."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._session: TuningSession | None = None
        self._context: RunContext | None = None
        self._uncollected: list[str] = []
        self._failures: list[str] = []
        self._errors: list[str] = []

    def start(self, config: pytest.Config, settings: Settings) -> None:
        """Register the session that runs the tests."""
        # In the launch's own folder, which goes even if this process dies.
        self._context = RunContext.of(config, Path(self._job["result"]).parent)
        self._session = TuningSession(config, settings, self._context, self, LaunchPins(self._job))
        config.pluginmanager.register(self._session, "autotune-session")

    def learn(self, studies: Iterable[StudyOutline]) -> None:
        """Nothing is summarized."""

    def merge(
        self,
        stops: Mapping[str, Stop],  # noqa: ARG002
        notices: Mapping[str, Sequence[str]],  # noqa: ARG002
        errors: Sequence[str],
    ) -> None:
        """Keep what was wrong."""
        self._errors += errors

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember what could not be imported."""
        if report.failed:
            self._uncollected.append(str(report.longrepr))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what failed, and why."""
        if report.failed:
            self._failures.append(f"{report.nodeid} ({report.when}): {report.longreprtext}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the result, whole or not at all."""
        document = {
            "record": self._record(),
            "uncollected": self._uncollected,
            "failures": self._failures,
            "errors": self._errors,
            "files": _imported_files(),
        }
        target = Path(self._job["result"])
        draft = target.with_suffix(".draft")
        draft.write_text(json.dumps(document), "utf-8")
        draft.replace(target)

    def _record(self) -> dict[str, Any] | None:
        assert self._session is not None, "started"
        for nodeid in self._session.collected:
            record = self._session.record_of(nodeid)
            if record is not None:
                return {
                    "outcome": record.outcome.value,
                    "reason": record.reason,
                    "score": record.score,
                    "metrics": {n: v for n, v in record.metrics.items() if v is not None},
                    "slo": [dict(row) for row in record.slo],
                }
        return None

    def pytest_unconfigure(self) -> None:
        """Leave no temporary files."""
        if self._context is not None:
            self._context.cleanup()


def _imported_files() -> list[str]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted({file for file in files if isinstance(file, str)})
