"""The report of a test, checked: metrics, load levels, and words on how they were measured."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, SupportsFloat, SupportsIndex

from pytest_autotune.scoring.known_metrics import impossible
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics, flatten
from pytest_autotune.text.suggest import shown

#: What a report has besides metrics, and a reported level. No number is meant by these names:
#: where the value is one, it is a metric of the user's.
_PARTS: Final = frozenset({"levels", "notes", "disturbances", "partial"})
_LEVEL_PARTS: Final = frozenset({"invalid", "failure"})
_LOAD: Final = ("concurrency", "request_rate", "scenario")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one call reports; ``invalid`` says why numbers are not the server's."""

    metrics: Metrics
    levels: Sequence[Level]
    notes: Sequence[str]
    disturbances: Sequence[str]
    partial: bool
    invalid: str


def read_report(reported: Any) -> Report:
    """Return a report, read whole before anything of it counts.

    Raises TypeError or ValueError with the part that is wrong, and what it must be.
    """
    __tracebackhide__ = True  # what is wrong is the user's call, so that line is shown
    _check_mapping("report()", reported)
    parts, own = _split(reported, _PARTS)
    levels: list[Level] = []
    invalid: list[str] = []
    for index, entry in enumerate(_items("levels", parts, "mappings, one for each load level")):
        where = f"levels[{index}]"
        if not hasattr(entry, "items"):
            raise TypeError(f"{where} is {_given(entry)}, not a mapping with its load and metrics")
        said, rest = _split(entry, _LEVEL_PARTS)
        concurrency, rate, scenario = (rest.pop(name, None) for name in _LOAD)
        failure = _text(f"{where}.failure", said.get("failure", ""))
        level = read_level(concurrency, rest, rate, scenario, failure=failure, where=f"{where}: ")
        levels.append(level)
        invalid += filter(None, [_text(f"{where}.invalid", said.get("invalid", ""))])
    return Report(
        metrics=_metrics(own),
        levels=levels,
        notes=tuple(_sentences("notes", parts)),
        disturbances=tuple(_sentences("disturbances", parts)),
        partial=bool(_text("partial", parts.get("partial", ""))),
        invalid="; ".join(invalid),
    )


def read_level(  # noqa: PLR0913 - a load, what was measured at it, and the place for messages
    concurrency: object,
    metrics: Any,
    request_rate: object = None,
    scenario: object = None,
    *,
    failure: str = "",
    where: str = "",
) -> Level:
    """Return a load level; ``where`` begins the message of TypeError or ValueError."""
    __tracebackhide__ = True
    _check_mapping("report_level()", metrics)
    load: dict[str, Any] = {}
    if concurrency is not None or request_rate is None:
        load["concurrency"] = _concurrency(concurrency, where)
    if request_rate is not None:
        load["request_rate"] = _rate(request_rate, where)
    if scenario is not None:
        load["scenario"] = _text(f"{where}scenario", scenario)
    return Level(**load, metrics=_metrics(metrics, where), failure=failure)


def _concurrency(value: object, where: str) -> int:
    __tracebackhide__ = True
    number = operator.index(value) if isinstance(value, SupportsIndex) else 0
    if isinstance(value, bool) or number < 1 or _float(number) == math.inf:
        raise TypeError(f"{where}concurrency is {shown(value)}, not a positive whole number")
    return number


def _rate(value: object, where: str) -> float:
    __tracebackhide__ = True
    rate = _float(value)
    if not 0 < rate < math.inf:
        raise TypeError(
            f"{where}request_rate is {shown(value)}, not a positive number of requests/s"
        )
    return rate


def _float(value: object) -> float:
    """Return a number as a real one: infinite if it is too large, NaN if it is none."""
    if isinstance(value, bool | str | bytes) or not isinstance(value, SupportsFloat):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def _split(
    reported: Mapping[str, Any], names: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts of a report that have one of ``names``, and the metrics in it."""
    own = dict(reported.items())
    parts = {name: own.pop(name) for name in names if _is_part(own.get(name))}
    return parts, own


def _is_part(value: object) -> bool:
    """Return whether a value is text or a list, and so no metric."""
    return isinstance(value, Iterable) and not isinstance(value, Mapping | SupportsFloat)


def _items(name: str, parts: Mapping[str, Any], wanted: str) -> Iterable[Any]:
    """Return the items of a list in a report. Text is no list of its letters."""
    __tracebackhide__ = True
    found: Iterable[Any] = parts.get(name, ())
    if isinstance(found, str | bytes):
        raise TypeError(f"{name} is {_given(found)}, not a list of {wanted}")
    return found


def _sentences(name: str, parts: Mapping[str, Any]) -> Iterator[str]:
    __tracebackhide__ = True
    for index, item in enumerate(_items(name, parts, "sentences")):
        yield _text(f"{name}[{index}]", item)


def _text(where: str, value: object) -> str:
    __tracebackhide__ = True
    if not isinstance(value, str):
        raise TypeError(f"{where} is {_given(value)}, not text")
    return value


def _metrics(metrics: Mapping[str, Any], where: str = "") -> Metrics:
    __tracebackhide__ = True
    try:
        flat = flatten(metrics)
    except TypeError as error:
        raise TypeError(f"{where}{error}") from None
    except RecursionError:
        raise ValueError(f"{where}metrics are nested too deep") from None
    problem = impossible(flat)
    if problem:
        raise ValueError(f"{where}{problem}")
    return flat


def _check_mapping(what: str, metrics: object) -> None:
    __tracebackhide__ = True
    if not hasattr(metrics, "items"):
        raise TypeError(f"{what} takes a mapping of metric names to numbers, not {_given(metrics)}")


def _given(value: object) -> str:
    return f"{shown(value)} ({type(value).__name__})"
