"""The reports of a trial's tests, kept apart by case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Measurement
from pytest_autotune.scoring.levels import Level, sorted_levels
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.study.reporters import Reporters


class _Part:
    """The reports of one case, or of those outside of cases."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.levels: dict[tuple[str | int | float | None, ...], Level] = {}

    @property
    def sorted_levels(self) -> tuple[Level, ...]:
        return sorted_levels(self.levels.values())


class CaseReports:
    """The reports of a trial, each in the case of the test that made it.

    A case is named by the test's other parameters, and empty for a test without any.
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {"": _Part()}
        self._case = ""
        self._test = ""
        #: The cases that each test ran in, and the metrics that it reported in any of them.
        self._ran: dict[str, list[str]] = {}
        self._by_test: dict[str, dict[str, None]] = {}
        self._missing: dict[str, tuple[str, ...]] = {}
        self.reporters = Reporters()

    def enter(self, case: str, test: str = "") -> None:
        """Let what is reported from now on be of ``case``, by ``test``."""
        self._case, self._test = case, test

    def run(self) -> None:
        """Remember that the test runs in the case that was entered, and so may have to report."""
        if self._case and self._case not in self._ran.setdefault(self._test, []):
            self._ran[self._test].append(self._case)

    @contextmanager
    def outside_of_cases(self) -> Iterator[None]:
        """Let what is reported meanwhile be of the whole trial."""
        entered = self._case, self._test
        self.enter("")
        try:
            yield
        finally:
            self.enter(*entered)

    def add(self, metrics: Metrics) -> None:
        """Add metrics to the present case; later values replace earlier ones."""
        self._part().metrics.update(metrics)
        self.reporters.add(self._case, None, self._test, metrics)
        self._remember(metrics)

    def add_level(self, level: Level) -> None:
        """Add a load level to the present case; a later one replaces the same earlier one."""
        self._part().levels[level.identity] = level
        self.reporters.add(self._case, level.identity, self._test, level.metrics)
        self._remember(level.metrics)

    def take(self, measurement: Measurement) -> None:
        """Take over the reports of another time, cases included."""
        for case in (measurement.outside, *measurement.cases):
            self.enter(case.name)
            part = self._part()
            part.metrics.update(case.metrics)
            part.levels.update({level.identity: level for level in case.levels})
            self._missing[case.name] = case.missing

    def _part(self) -> _Part:
        return self._parts.setdefault(self._case, _Part())

    def _remember(self, metrics: Metrics) -> None:
        if self._case:
            self._by_test.setdefault(self._test, {}).update(dict.fromkeys(metrics))

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics outside of cases, and those of the present case."""
        return {**self.outside.metrics, **self.present.metrics}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The load levels of the present case, lightest first."""
        return self.present.levels

    @property
    def present(self) -> Case:
        """The reports of the present case."""
        return self._of(self._case)

    @property
    def outside(self) -> Case:
        """The reports outside of cases."""
        return self._of("")

    @property
    def cases(self) -> tuple[Case, ...]:
        """The reports of every case in which a test reported, or did so in other cases."""
        expected = dict.fromkeys(case for case in self._parts if case)
        for test, names in self._ran.items():
            if self._by_test.get(test):
                expected.update(dict.fromkeys(names))
        # Those in which nothing was reported stand where they ran.
        order = list(dict.fromkeys(name for names in self._ran.values() for name in names))
        found = sorted(expected, key=lambda name: order.index(name) if name in order else -1)
        return tuple(map(self._of, found))

    def _of(self, case: str) -> Case:
        part = self._parts.get(case, _Part())
        expected = dict.fromkeys(self._missing.get(case, ()))
        for test, cases in self._ran.items():
            if case in cases:
                expected.update(self._by_test.get(test, {}))
        found = Case(name=case, metrics=dict(part.metrics), levels=part.sorted_levels)
        return replace(found, missing=tuple(name for name in expected if name not in found.names))
