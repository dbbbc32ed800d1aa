"""The levels of load that a spec declares, and their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from pytest_autotune.load.results import LevelResult
from pytest_autotune.scoring.levels import Level
from pytest_autotune.spec.benchmark import BenchmarkSpec, LevelSearch
from pytest_autotune.spec.scenario import Scenario

#: Levels, lightest first unless said otherwise, and the scenario of each.
Declared: TypeAlias = Sequence[tuple[Level, Scenario]]


def searched(spec: BenchmarkSpec) -> LevelSearch | None:
    """Return the search for the highest level that a spec asks for, None for a list of levels."""
    for loads in (spec.concurrency, spec.request_rate):
        if isinstance(loads, LevelSearch):
            return loads
    return None


def level_of(spec: BenchmarkSpec, load: float, scenario: Scenario) -> Level:
    """Return a level without metrics. It names its scenario if the spec has several."""
    closed = not spec.request_rate
    return Level(
        concurrency=int(load) if closed else None,
        request_rate=None if closed else load,
        scenario=scenario.text if len(spec.scenarios) > 1 else None,
        metrics={},
    )


def declared_levels(spec: BenchmarkSpec) -> Iterator[tuple[Level, Scenario]]:
    """Yield the levels to run, lightest first."""
    loads = spec.request_rate or spec.concurrency
    assert not isinstance(loads, LevelSearch)
    for load in loads:
        for scenario in spec.scenarios:
            yield level_of(spec, load, scenario), scenario


def lightest_first(levels: Sequence[LevelResult], declared: Declared) -> list[LevelResult]:
    """Return results in the order that their levels were declared in."""
    places = {level.identity: place for place, (level, _) in enumerate(declared)}
    return sorted(levels, key=lambda result: places[result.level.identity])


def left_out(order: Sequence[Level], measured: int) -> list[str]:
    """Return a note on the levels not measured after one that broke a hard bound."""
    left = order[measured:]
    if not left:
        return []
    heavier = all(level.load >= order[measured - 1].load for level in left)
    kind = "heavier" if heavier else "other"
    more = f"1 {kind} level was" if len(left) == 1 else f"{len(left)} {kind} levels were"
    return [f"{more} left out: the trial is infeasible"]
