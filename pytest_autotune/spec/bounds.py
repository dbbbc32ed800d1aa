"""The ``slo`` block of a spec: bounds on what a trial reports, times with or without a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_autotune.errors import SpecError
from pytest_autotune.scoring.metrics import flatten
from pytest_autotune.scoring.slo import SLO, Bound
from pytest_autotune.text.durations import parse_time
from pytest_autotune.text.numbers import is_time
from pytest_autotune.text.places import Origin, parsed
from pytest_autotune.text.suggest import shown

_METRIC_OF_BLOCK: Final = {"latency": "e2e_latency", "ttft": "ttft", "tpot": "tpot"}


def read_slo(document: Mapping[str, Any], origin: Origin) -> SLO:
    """Read the SLO of a schema-valid ``document``; raise :class:`SpecError`."""
    block = document.get("slo", {})
    bounds = tuple(_bounds(block, origin))
    seen: set[tuple[str, bool]] = set()
    for bound in bounds:
        bounded = bound.metrics[-1], bound.upper
        if bounded in seen:
            raise SpecError(
                f"{origin.at('slo')}: {bound.label} is bounded twice in the same direction"
            )
        seen.add(bounded)
    given = block if isinstance(block, Mapping) else {}
    options = {key: given[key] for key in ("steepness", "levels") if key in given}
    return SLO(bounds=bounds, **options)


def _bounds(block: Any, origin: Origin) -> Iterator[Bound]:
    named = block if isinstance(block, Mapping) else {}
    for key, metric in _METRIC_OF_BLOCK.items():
        entry = named.get(key, {})
        at = (key,) if "threshold" in entry else ()
        statistics = {"mean": entry} if at else entry
        for statistic, term in statistics.items():
            where = origin.at("slo", *(at or (key, statistic)), "threshold")
            yield _term(f"{key} {statistic}", f"{statistic}_{metric}", term, where)
    listed, path = (named.get("metrics", ()), ("metrics",)) if named is block else (block, ())
    for index, entry in enumerate(listed):
        key = "max" if "max" in entry else "min"
        yield _metric_bound(entry, key, origin.at("slo", *path, index, key))


def _term(label: str, metric: str, term: Mapping[str, Any], where: str) -> Bound:
    threshold = _threshold(term["threshold"], metric, where)
    if threshold <= 0:
        raise SpecError(f"{where}: {shown(term['threshold'])} must be greater than 0")
    return Bound(
        label=label,
        metrics=(metric,),
        threshold=threshold,
        weight=term.get("weight", 1.0),
        hard=term.get("hard_fail", False),
        fail_ratio=term.get("fail_ratio", 0.5),
    )


def _metric_bound(entry: Mapping[str, Any], key: str, where: str) -> Bound:
    statistic = entry.get("statistic")
    # The same names as in trial.report(), so that an alias means the same there.
    reported = {entry["metric"]: {statistic: 0.0} if statistic else 0.0}
    (name,) = flatten(reported)
    upper = key == "max"
    return Bound(
        label=" ".join(filter(None, (entry["metric"], statistic, None if upper else "min"))),
        metrics=(name,) if statistic or name.startswith("mean_") else (name, f"mean_{name}"),
        threshold=_threshold(entry[key], name, where),
        upper=upper,
        weight=entry.get("weight", 1.0),
        hard=entry.get("hard_fail", True),
        fail_ratio=entry.get("fail_ratio", 0.0),
    )


def _threshold(written: float | str, metric: str, where: str) -> float:
    """Return a bound as a number: of seconds, where it has a unit."""
    if not isinstance(written, str):
        return written
    seconds = parsed(parse_time, written, where)
    if not is_time(metric):
        raise SpecError(
            f"{where}: {shown(written)} is a time, and {metric} is none by its name; write a "
            "plain number. Times are called latency, ttft, tpot, itl, time or duration"
        )
    return seconds
