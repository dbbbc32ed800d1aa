"""The policy of the machine that tests run on, held against studies before anything starts."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

import pytest

from pytest_autotune.errors import UserError
from pytest_autotune.plugin.collect import StudyCollector
from pytest_autotune.plugin.findings import Findings
from pytest_autotune.plugin.slots import CollectedStudy
from pytest_autotune.policy.policies import Policies

#: The fixtures whose use may take GPUs.
_USE_GPUS: Final = frozenset({"gpu", "gpu_benchmark", "inference_server"})


class PolicyHooks:
    """Hooks that refuse studies which the machine's policy does not allow."""

    def __init__(self, policies: Policies, collector: StudyCollector, findings: Findings) -> None:
        self._policies = policies
        self._collector = collector
        self._findings = findings

    def pytest_report_header(self) -> str:
        """Return a line that names the policy."""
        files = " and ".join(policy.origin.file for policy in self._policies.held)
        return f"autotune: policy {files}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Note an error for each study that is refused, before errors end the run."""
        fixtures: dict[str, set[str]] = {}
        for item in session.items:
            slot = self._collector.slot_of(item)
            if slot is not None:
                used = fixtures.setdefault(slot.study, set())
                used.update(getattr(item, "fixturenames", ()))
        for nodeid, study in self._collector.studies.items():
            try:
                self._check(study, fixtures.get(nodeid, ()))
            except UserError as error:
                self._findings.add_error(str(error))
        return (yield)

    def _check(self, study: CollectedStudy, fixtures: Iterable[str]) -> None:
        spec = study.plan.spec
        used = _USE_GPUS.intersection(fixtures)
        if study.plan.storage:
            where = spec.origin.at("optimization", "storage")
            self._policies.check_storage(study.plan.storage, where)
        self._policies.check_study(
            spec,
            gpus=(study.gpus or spec.layout.expression()) if used else None,
            serves="inference_server" in used,
            params=None if study.pin is None else study.pin.params,
        )
