"""The search for the highest load that meets the SLO."""

from __future__ import annotations

import math
from collections.abc import Callable

from pytest_autotune.load.levels import level_of
from pytest_autotune.load.results import LevelResult, LoadResult, progress
from pytest_autotune.scoring.levels import Level, max_compliant
from pytest_autotune.spec.benchmark import BenchmarkSpec, LevelSearch
from pytest_autotune.spec.scenario import Scenario


def search_levels(
    spec: BenchmarkSpec, wanted: LevelSearch, measure: Callable[[Level, Scenario], LevelResult]
) -> LoadResult:
    """Search for the highest level that meets the SLO, and return the levels that met it."""
    closed = wanted is spec.concurrency
    measured: dict[float, list[LevelResult]] = {}

    def passes(load: float) -> bool:
        results = measured.setdefault(load, [])
        for scenario in spec.scenarios:
            result = measure(level_of(spec, load, scenario), scenario)
            print(progress(result))  # noqa: T201 - pytest captures it
            results.append(result)
            if not result.met:
                return False
        return True

    best = highest(passes, wanted.low, wanted.high, whole=closed)
    tried = ", ".join(f"{load:g}" for load in sorted(measured))
    found = [result for load in sorted(measured) for result in measured[load]]
    extra = max_compliant([r.level for r in found], [r.level for r in found if r.met])
    name = "concurrency" if closed else "request rate"
    if best is None:
        notes = [f"even the lowest {name}, {wanted.low:g}, does not meet the SLO"]
        lowest = [r for r in found if r.level.load == wanted.low]
        return LoadResult(lowest, notes, extra, partial=True)
    if best == wanted.high:
        notes = [f"{name} {best:g} meets the SLO, and higher was not asked for (tried {tried})"]
    else:
        held_back = [r.invalid for r in found if r.invalid and r.level.load > best]
        notes = [*held_back, f"highest {name} that meets the SLO: {best:g} (tried {tried})"]
    return LoadResult(
        [r for load in sorted(measured) if load <= best for r in measured[load] if r.met],
        notes,
        extra,
        # Another SLO would have led elsewhere.
        partial=True,
    )


def highest(
    passes: Callable[[float], bool], low: float, high: float, *, whole: bool
) -> float | None:
    """Return the highest load that passes, None if ``low`` does not.

    It doubles the load until one fails, then halves the interval: to neighbouring whole numbers,
    or for rates to within 5 %. It assumes that a server that passes at a load passes below it.
    """
    if not passes(low):
        return None
    good, bad = low, math.inf
    while good < high and bad == math.inf:
        step = min(2 * good, high)
        if passes(step):
            good = step
        else:
            bad = step
    while bad - good > (1 if whole else 0.05 * good) and bad != math.inf:
        middle = math.floor((good + bad) / 2) if whole else float(f"{(good + bad) / 2:.3g}")
        if middle in {good, bad}:
            break
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good
