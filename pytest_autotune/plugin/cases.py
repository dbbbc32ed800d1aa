"""Cases: what a test reports belongs to the test's other parameters, such as a shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_autotune.plugin.slots import Slot

if TYPE_CHECKING:
    from pytest_autotune.plugin.run import TrialRunner
    from pytest_autotune.study.case_reports import CaseReports

#: The parameter by which pytest-repeat repeats a test, and its id: no case of its own.
_REPEAT: Final = "__pytest_repeat_step_number"


class CaseHooks:
    """Hooks that tell a trial in which case its tests report."""

    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner
        self._item: pytest.Item | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Enter the case of a test, before any fixture of it reports."""
        self._item = item
        reports = self._reports_for(item)
        if reports is not None:
            reports.enter(case_of(item), item.nodeid.partition("[")[0])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Remember that a test ran in its case: one that reports nothing there is found out."""
        reports = self._reports_for(item)
        if reports is not None:
            reports.run()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Let a fixture that serves several cases report for the whole trial."""
        item = self._item
        reports = None if item is None else self._reports_for(item)
        if item is None or reports is None or _is_of_case(fixturedef, item):
            return (yield)
        with reports.outside_of_cases():
            return (yield)

    def _reports_for(self, item: pytest.Item) -> CaseReports | None:
        active = self._runner.active_for(item)
        return None if active is None else active.trial.cases


def case_of(item: pytest.Item) -> str:
    """Return the ids of a test's parameters besides its trial, empty where it has no others."""
    parameters = _parameters(item)
    slot = parameters.get("trial")
    if not isinstance(slot, Slot):
        return ""
    before, _, after = item.callspec.id.partition(slot.id)  # type: ignore[attr-defined]
    found = "-".join(filter(None, (before.removesuffix("-"), after.removeprefix("-"))))
    return _without_repeat(found, parameters[_REPEAT] + 1) if _REPEAT in parameters else found


def _without_repeat(case: str, step: int) -> str:
    """Return a case without the id of a repetition, such as ``1-5``, which is last if it can."""
    for end in ("$", "(?=-)"):
        found = re.sub(rf"(^|-){step}-\d+{end}", "", case, count=1)
        if found != case:
            break
    return found.removeprefix("-")


def _parameters(item: pytest.Item) -> Mapping[str, Any]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


def _is_of_case(fixturedef: pytest.FixtureDef[Any], item: pytest.Item) -> bool:
    """Return whether a fixture is set up anew for each test, or for other parameters."""
    if fixturedef.scope == "function":
        return True
    others = _parameters(item).keys() - {"trial", _REPEAT}
    return _depends(fixturedef.argname, others, item, set())


def _depends(name: str, on: Collection[str], item: pytest.Item, seen: set[str]) -> bool:
    if name in on:
        return True
    seen.add(name)
    # Of fixtures that override each other the last counts, which may ask for the others.
    known = item._fixtureinfo.name2fixturedefs.get(name, ())  # type: ignore[attr-defined] # noqa: SLF001
    needed = {argument for each in known for argument in each.argnames} - seen
    return any(_depends(argument, on, item, seen) for argument in needed)
